"""One HTTP request and its response, as the gate of serving/_admission.py sees them.

The body is read whole, within a bound of bytes and of time, and handed on in one piece. From then
on somebody always listens for the client to leave, because most routes do not. A place in the queue
is given back exactly once: after the response's last byte, or when the route ends in any other way.
"""

import asyncio
import contextlib
import re
import uuid
from typing import NamedTuple

from starlette.types import Message, Receive, Scope, Send

from serving._items import ServiceError
from serving._keys import Headers
from serving._queue_bound import Place

REQUEST_ID_HEADER = b"x-request-id"
CLEAN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
LENGTH = re.compile(rb"[0-9]{1,18}")
LINGER_S = 2.0  # in which a refused body may still come in, so that its sender gets to read why


class Rendered(NamedTuple):
    """A refusal in a protocol's form."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class ClientLeftError(Exception):
    """The client left before its request was complete."""


class Exchange:
    """What the gate does with one request: it reads, hands on, answers, and cleans up."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int) -> None:
        self.request_id = read_request_id(scope["headers"])
        self.started = False
        """A response is under way, so it cannot be another any more."""
        self.left = asyncio.Event()
        """The client left before its response was complete."""
        self.receive_raw = receive
        self._send = send
        self._max_body_bytes = max_body_bytes
        self._headers: Headers = scope["headers"]
        self._body: bytes | None = None
        self._read = False  # to its end, so that nothing more comes
        self._late = False
        self._whole = False  # its last piece is handed over, so that nobody leaves early any more
        self._over = asyncio.Event()
        self._place: Place | None = None
        self._watcher: asyncio.Task[None] | None = None

    def check_length(self) -> None:
        """Judge the body by its declared length.

        Raises:
            ServiceError: body_too_large; invalid_request for a length that is none.
        """
        lengths = {value for name, value in self._headers if name == b"content-length"}
        if len(lengths) > 1 or not all(LENGTH.fullmatch(value) for value in lengths):
            raise ServiceError("invalid_request", "content-length must be one number of bytes.")
        if any(int(value) > self._max_body_bytes for value in lengths):
            raise self._too_large()

    async def read_body(self, timeout_s: float) -> None:
        """Read the whole body; `receive` hands it on.

        Raises:
            ServiceError: body_too_large; invalid_request, when it is not there in time.
            ClientLeftError: nobody is there to be answered.
        """
        pieces = bytearray()
        try:
            async with asyncio.timeout(timeout_s):
                more = True
                while more:
                    message = await self.receive_raw()
                    if message["type"] == "http.disconnect":
                        raise ClientLeftError
                    more = message.get("more_body", False)
                    self._read = not more
                    pieces += message.get("body", b"")
                    if len(pieces) > self._max_body_bytes:
                        raise self._too_large()
        except TimeoutError:
            self._late = True
            raise ServiceError(
                "invalid_request", f"the body must arrive within {timeout_s:g} s. Send it faster."
            ) from None
        self._body = bytes(pieces)

    def hold(self, place: Place | None) -> None:
        """Keep a place until the response is over, and listen for the client to leave."""
        self._place = place
        self._watcher = asyncio.create_task(self._watch())

    async def receive(self) -> Message:
        """What the route receives: the body, then that nobody listens any more."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Pass a piece of the response on, with the request's id in its headers."""
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if message["type"] == "http.response.start":
            self.started = True
            others = [h for h in message.get("headers", ()) if h[0].lower() != REQUEST_ID_HEADER]
            own = (REQUEST_ID_HEADER, self.request_id.encode())
            message = {**message, "headers": [*others, own]}
        if last:
            # Before the server says that it is over, and not `_over` itself: who waits for that
            # would cut this very piece off where the server takes its time.
            self._whole = True
        await self._send(message)
        if last:
            self.end()

    async def refuse(self, rendered: Rendered) -> None:
        """Answer in place of a route.

        A sender who would go on for long is waited for a little and then cut off: closing at once
        would reset the connection, and the refusal with it.
        """
        size = (b"content-length", b"%d" % len(rendered.body))
        linger = not self._read and self._goes_on()
        headers = [*rendered.headers, size, *([(b"connection", b"close")] if linger else [])]
        start = {"type": "http.response.start", "status": rendered.status, "headers": headers}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": rendered.body, "more_body": linger})
        if linger:
            await self._drain()
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    def end(self) -> None:
        """Give back what is held; a second time does nothing."""
        self._over.set()
        if self._watcher:
            self._watcher.cancel()
        if self._place:
            self._place.release()

    async def _watch(self) -> None:
        """Listen until the client leaves or its response is complete."""
        while (await self.receive_raw())["type"] != "http.disconnect":
            pass
        if not self._whole:
            self.left.set()
            self._over.set()

    async def _drain(self) -> None:
        """Let in and forget what still comes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while (await self.receive_raw()).get("more_body", False):
                    pass

    def _goes_on(self) -> bool:
        """Whether more may come than is worth leaving to the server: too much, or too slowly."""
        headers = dict(self._headers)
        length = headers.get(b"content-length", b"0")
        short = LENGTH.fullmatch(length) and int(length) <= self._max_body_bytes
        return self._late or b"transfer-encoding" in headers or not short

    def _too_large(self) -> ServiceError:
        return ServiceError(
            "body_too_large",
            f"a body may have {self._max_body_bytes:,} bytes, this one has more. Send less.",
        )


def read_request_id(headers: Headers) -> str:
    """The caller's id for a request where it is one, short and clean; else one of ours."""
    found = [value for name, value in headers if name == REQUEST_ID_HEADER]
    if len(found) == 1 and CLEAN_ID.fullmatch(found[0]):
        return found[0].decode("ascii")
    return uuid.uuid4().hex
