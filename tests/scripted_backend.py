"""A backend for the OpenAI routes that says what a test tells it to, and ways to ask it."""

import asyncio
import contextlib
import json
import threading
from socket import socket

import httpx
import uvicorn

from serving._items import Answer, Choice
from serving._openai_responses import Answered, Begun, Ended, ModelCard, Piece
from serving._openai_routes import build_app

CARD = ModelCard("still-1", 1_700_000_000, "stillhouse", "fp_0123456789ab")
CHAT = {"model": "still-1", "messages": [{"role": "user", "content": "ping"}]}
TEXT = {"model": "still-1", "prompt": "ping"}


def choice(text="pong", reason="stop", tokens=3, **scores):
    return Choice(text=text, finish_reason=reason, completion_tokens=tokens, **scores)


def answered(*texts, **dropped):
    """One prompt's answers."""
    choices = [choice(text) for text in texts or ["pong"]]
    return Answered([Answer(id="a", choices=choices, prompt_tokens=5)], **dropped)


def pieces(*texts, index=0, reason="stop"):
    """A stream's events for one choice; every piece and the end are one token each."""
    told = [Piece(text, index) for text in texts]
    return [*told, Ended(reason, len(texts) + 1, index)]


def pongs(asked):
    """As many answers as were asked."""
    whole = answered(*["pong"] * asked.candidates).answers[0]
    return Answered([whole] * len(asked.prompts))


def pongs_in_pieces(asked):
    """The same as a stream."""
    choices = range(len(asked.prompts) * asked.answers)
    return [event for index in choices for event in pieces("po", "ng", index=index)]


class Scripted:
    """Pongs, or gives `whole` and `events`: exceptions are raised, callables awaited."""

    def __init__(self, whole=None, events=None):
        self.whole = whole
        self.events = events
        self.asked = []
        self.states = []
        self.told = 0
        self.left = threading.Event()
        """Set when the backend is told that nobody waits any more."""

    def models(self, state):
        return [CARD, ModelCard("org/still-2", 1_700_000_001, "stillhouse")]

    async def answer(self, asked, state):
        self.asked.append(asked)
        self.states.append(dict(state))
        with self._noticing():
            return await self._play(self.whole or pongs(asked))

    async def stream(self, asked, state):
        self.asked.append(asked)
        with self._noticing():
            for one in self.events or [Begun(5), *pongs_in_pieces(asked)]:
                told = await self._play(one)
                self.told += 1
                if told is not None:
                    yield told

    async def _play(self, one):
        if isinstance(one, Exception):
            raise one
        return await one() if callable(one) else one

    @contextlib.contextmanager
    def _noticing(self):
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.left.set()
            raise


async def forever():
    """What a backend does that never answers."""
    await asyncio.Event().wait()


def ask(backend, path="/v1/chat/completions", body=None, headers=None, method="POST", **settings):
    """The whole response to one request, without a server."""
    content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    sent = {"content-type": "application/json"} | (headers or {})
    sent = {name: value for name, value in sent.items() if value is not None}

    async def send():
        transport = httpx.ASGITransport(build_app(backend, **settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://still") as client:
            return await client.request(method, path, content=content, headers=sent)

    return asyncio.run(send())


def events_of(response):
    """The data of each event, `[DONE]` as text."""
    frames = [line[6:] for line in response.text.split("\n") if line.startswith("data: ")]
    return [frame if frame == "[DONE]" else json.loads(frame) for frame in frames]


@contextlib.contextmanager
def serving(app):
    """The app on a real server in a thread; gives its address."""
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # callers wait in the backlog until the server takes them
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
