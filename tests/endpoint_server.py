"""A small OpenAI-compatible server on loopback that fails the way it is told to.

It plays the replies of its script in turn, then gives those laid down for a prompt, and otherwise
answers `echo of <prompt>`.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any

import pytest

from serving.endpoint_settings import EndpointSettings
from serving.errors import StillhouseError

MODELS = ["tiny", "other"]
KEY = "sk-test-0123456789"
SETTINGS = EndpointSettings(
    base_url="http://127.0.0.1:1/v1",
    model="tiny",
    api="chat",
    price_per_1k_prompt_tokens_usd=1.0,
    price_per_1k_completion_tokens_usd=10.0,
    timeout_s=5.0,
    max_retries=2,
)


@dataclass
class Reply:
    """What the server does with one request."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] | None = None
    """Sent one by one instead of `body`; then the connection is closed."""
    declared: int | None = None
    """The length that the server announces for `parts`, whatever they are [bytes]."""
    hold: Event | None = None
    """The reply waits for this event; one that nobody sets hangs until the server ends."""
    drip: bool = False
    """Whether the server sends a blank every few milliseconds, for ever."""


class Server(ThreadingHTTPServer):
    """The server, its script and what it was asked."""

    daemon_threads = True
    script: deque[Reply]
    seen: list[dict[str, Any]]
    replies: dict[str, Reply]
    lock: Lock
    over: Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each body waits 40 ms for its headers' acknowledgement
    server: Server

    def do_GET(self) -> None:
        models = [{"id": name, "object": "model"} for name in MODELS]
        self.reply({"path": self.path}, as_json({"object": "list", "data": models}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = {"path": self.path, "headers": dict(self.headers), "body": body}
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        self.reply(asked, self.server.replies.get(prompt) or echo(prompt, body))

    def reply(self, asked: dict[str, Any], default: Reply) -> None:
        with self.server.lock:
            self.server.seen.append(asked)
            reply = self.server.script.popleft() if self.server.script else default
        if reply.hold is not None:
            while not (self.server.over.is_set() or reply.hold.wait(0.01)):
                pass
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        length = len(reply.body) if reply.parts is None else reply.declared
        if length is not None:
            self.send_header("content-length", str(length))
        if reply.parts is not None:
            self.send_header("connection", "close")
        self.end_headers()
        self.send(reply)

    def send(self, reply: Reply) -> None:
        try:
            for part in [reply.body] if reply.parts is None else reply.parts:
                self.wfile.write(part)
                self.wfile.flush()
            while reply.drip and not self.server.over.wait(0.005):
                self.wfile.write(b" ")
        except OSError:  # the client went away
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


def echo(prompt: str, body: dict[str, Any]) -> Reply:
    """`echo of <prompt>`, with a number where several are asked for; a token is a word."""
    texts = [f"echo of {prompt}" + f" {i}" * (i > 0) for i in range(body.get("n", 1))]
    if body.get("stream"):
        return stream([word + " " for word in texts[0].split()])
    return answers(*texts, prompt_tokens=len(prompt.split()))


def answers(*texts: str | None, prompt_tokens: int = 5, usage: bool = True, **fields: Any) -> Reply:
    """A chat completion with these texts; `fields` go into each choice."""
    words = sum(len((text or "").split()) for text in texts)
    counts = {"prompt_tokens": prompt_tokens, "completion_tokens": words}
    choice = {"finish_reason": "stop"} | fields
    choices = [{"message": {"content": text}} | choice for text in texts]
    return as_json({"choices": choices} | ({"usage": counts} if usage else {}))


def completions(*texts: str, **fields: Any) -> Reply:
    """The same from the completions API."""
    data = json.loads(answers(*texts).body)
    choices = [{"text": text, "finish_reason": "stop"} | fields for text in texts]
    return as_json(data | {"choices": choices})


def stream(pieces: list[str], end: str = "usage and [DONE]", size: int | None = None) -> Reply:
    """A stream of chat pieces in parts of `size` bytes; `end` says what follows them."""
    events: list[Any] = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    events.insert(0, {"choices": [{"delta": {"role": "assistant"}}]})
    if end != "nothing":
        events.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    if end == "usage and [DONE]":
        events.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}})
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}\r\n\r\n" for event in events]
    lines += ["data: [DONE]\n\n"] * (end == "usage and [DONE]")
    body = b": a comment\n" + "".join(lines).encode()
    size = size or len(body)
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return Reply(parts=parts, headers={"content-type": "text/event-stream"})


def as_json(data: Any, status: int = 200, **headers: str) -> Reply:
    """Any JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(json.dumps(data).encode(), status, named)


def error(status: int, message: str = "no", **headers: str) -> Reply:
    """An error in OpenAI's shape."""
    return as_json({"error": {"message": message, "type": "x"}}, status, **headers)


@contextmanager
def endpoint_server(*script: Reply) -> Iterator[Server]:
    """A server on a free port of this machine, as long as the block lasts."""
    server = Server(("127.0.0.1", 0), Handler)
    server.script, server.seen, server.replies = deque(script), [], {}
    server.lock, server.over = Lock(), Event()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def told(call: Callable[[], object]) -> str:
    """The one line that a call ends with."""
    with pytest.raises(StillhouseError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and len(line) < 800
    return line
