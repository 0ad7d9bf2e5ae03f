"""A gate before a route, and clients who send, wait and leave as they are told."""

import asyncio

from serving._admission import Admission, AdmissionSettings
from serving._keys import Keyring
from serving._queue_bound import QueueBound
from serving._rates import open_rates

LIMIT = 100  # bytes of a body
END = {"type": "http.disconnect"}


def chunk(body=b"", more=False):
    return {"type": "http.request", "body": body, "more_body": more}


async def answer(scope, receive, send):
    """A route that reads its body and answers with it."""
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Route:
    """A route that notes what it was given and waits until it may answer."""

    def __init__(self):
        self.scopes = []
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, scope, receive, send):
        self.scopes.append(scope)
        self.begun.set()
        await self.go_on.wait()
        await answer(scope, receive, send)


class Client:
    """Sends what it is told to, then stays until it leaves; keeps what comes back."""

    def __init__(self, *messages, headers=(), path="/generate", address="127.0.0.1"):
        self.messages = list(messages or [chunk()])
        self.read = 0
        self.sent = []
        self.leave = asyncio.Event()
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "headers": [(name.encode(), _bytes(value)) for name, value in headers],
            "client": (address, 1),
        }

    async def receive(self):
        if self.read < len(self.messages):
            self.read += 1
            return self.messages[self.read - 1]
        await self.leave.wait()
        return END

    async def send(self, message):
        self.sent.append(message)

    async def ask(self, gate):
        await gate(self.scope, self.receive, self.send)
        return self.status

    @property
    def status(self):
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self):
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.sent[1:])


def _bytes(value):
    return value if isinstance(value, bytes) else value.encode()


def gate(app=answer, keyring=None, bound=None, counted=None, parts=None, **limits):
    """A gate with the given parts, and else with generous ones."""
    return Admission(
        app,
        settings=AdmissionSettings(**({"max_body_bytes": LIMIT} | limits)),
        keyring=keyring or Keyring(),
        rates=open_rates(),
        bound=bound or QueueBound(10, 1000),
        count_refusal=(counted if counted is not None else []).append,
        **(parts or {}),
    )


def ask(*messages, opened=None, **client):
    """One caller alone, answered to the end."""

    async def main():
        caller = Client(*messages, **client)
        await caller.ask(opened or gate())
        return caller

    return asyncio.run(main())
