"""How each server is asked for the same answer, and where its reply counts tokens."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.serve_load.wire import HOST, Reply, stream_events
from serving._prompts import render
from serving.completion import Request

Kind = Literal["completions", "native", "bare", "batch"]


@dataclass(frozen=True)
class Dialect:
    """The form of a server's requests and replies.

    completions is the OpenAI protocol's; native is our service's own; bare has a prompt and nothing
    else; batch is what BentoML makes of a batchable method, a list in and a list out.
    """

    kind: Kind
    path: str
    model: str = ""
    """Name that completions are asked by."""
    template: str | None = None
    """Of servers that know no template: the prompt is sent rendered."""
    headers: Mapping[str, str] = field(default_factory=dict)


def write_requests(
    dialect: Dialect, port: int, prompts: Sequence[str], tokens: int, stream: bool = False
) -> list[bytes]:
    """Requests for greedy answers of at most `tokens` tokens, ready to be sent."""
    rendered = [_render(dialect, prompt) for prompt in prompts]
    return [_write(dialect, port, _body(dialect, text, tokens, stream)) for text in rendered]


def _render(dialect: Dialect, prompt: str) -> str:
    return render(dialect.template, Request(prompt)) if dialect.template else prompt


def _body(dialect: Dialect, prompt: str, tokens: int, stream: bool) -> dict[str, Any]:
    match dialect.kind:
        case "completions":
            body = {"model": dialect.model, "prompt": prompt, "max_tokens": tokens}
            asked = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
            return body | {"temperature": 0} | asked
        case "native":
            return {"prompt": prompt, "decoding": {"max_new_tokens": tokens}}
        case "bare":
            return {"prompt": prompt}
        case "batch":
            return {"prompts": [prompt]}


def _write(dialect: Dialect, port: int, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    headers = {
        "Host": f"{HOST}:{port}",
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
        **dialect.headers,
    }
    lines = [f"POST {dialect.path} HTTP/1.1", *(f"{n}: {value}" for n, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def read_answer(dialect: Dialect, reply: Reply) -> tuple[str, int] | None:
    """Text and tokens of a reply; None where it is no whole answer."""
    try:
        if reply.headers.get("content-type", "").startswith("text/event-stream"):
            return _streamed(stream_events(reply.body))
        return _whole(dialect, json.loads(reply.body))
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _whole(dialect: Dialect, body: Any) -> tuple[str, int]:
    match dialect.kind:
        case "completions":
            return body["choices"][0]["text"], int(body["usage"]["completion_tokens"])
        case "native":
            answer = body["choices"][0] if "choices" in body else body
            return answer["text"], int(answer["completion_tokens"])
        case "bare":
            return body["text"], int(body["completion_tokens"])
        case "batch":
            return body[0]["text"], int(body[0]["completion_tokens"])


def _streamed(events: Sequence[Mapping[str, Any]]) -> tuple[str, int] | None:
    """A stream is whole when it has said why it ended and how much it was."""
    choices = [choice for event in events for choice in event.get("choices") or []]
    usage = [event["usage"] for event in events if event.get("usage")]
    if not usage or not any(choice.get("finish_reason") for choice in choices):
        return None
    return "".join(c.get("text") or "" for c in choices), int(usage[-1]["completion_tokens"])
