"""HTTP/1.1 keep-alive on loopback at as little cost per request as asyncio's streams allow.

The load generator shares a machine with what it measures, so a request is bytes made beforehand
and a reply is read in two or three waits. Nothing here is general: no redirects, TLS or proxies.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

HOST = "127.0.0.1"
LONGEST_HEAD = 1 << 16  # bytes that a reply may have before its body


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes
    first_text: float | None
    """When the first piece with text came, of a stream [s, perf_counter]."""


class CutError(ConnectionError):
    """The server closed a connection before a reply was whole."""


class Connection:
    """One connection that is kept and, where the server closed it while idle, opened again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> Reply:
        """Send one request and read its whole reply.

        A connection that was closed while nobody used it is opened again, once: the server has not
        begun to answer, so nothing is asked twice that was accepted.

        Raises:
            ConnectionError, asyncio.IncompleteReadError, OSError: no whole reply.
        """
        reused = self._writer is not None
        try:
            head = await self._send(request)
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self.close()
            if not reused or getattr(error, "partial", None):
                raise
            head = await self._send(request)
        return await self._read(head)

    def close(self) -> None:
        """Leave; what is under way on the server hears of it."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    async def _send(self, request: bytes) -> bytes:
        if self._writer is None or self._reader is None:
            opened = await asyncio.open_connection(HOST, self._port, limit=LONGEST_HEAD)
            self._reader, self._writer = opened
        self._writer.write(request)
        return await self._reader.readuntil(b"\r\n\r\n")

    async def _read(self, head: bytes) -> Reply:
        first_line, headers = parse_head(head)
        streamed = headers.get("content-type", "").startswith("text/event-stream")
        body, first_text = b"", None
        async for piece in self._pieces(headers):
            body += piece
            if streamed and first_text is None and has_text(body):
                first_text = time.perf_counter()
        if headers.get("connection", "").lower() == "close":
            self.close()
        return Reply(int(first_line.split(" ", 2)[1]), headers, body, first_text)

    async def _pieces(self, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        reader = self._reader
        if reader is None:
            raise CutError("no connection")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while size := _chunk_size(await reader.readline()):
                yield (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        elif "content-length" in headers:
            yield await reader.readexactly(int(headers["content-length"]))
        else:  # as long as the connection lasts
            yield await reader.read()
            self.close()


def _chunk_size(line: bytes) -> int:
    if not line.endswith(b"\n"):
        raise CutError("closed within a reply")
    return int(line.split(b";")[0], 16)


def parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    """The first line of a request or a reply, and headers by lower-case name."""
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return first, {name.lower(): value.strip() for name, _, value in pairs}


def stream_events(body: bytes) -> list[dict[str, Any]]:
    """The JSON events of a stream by server-sent events, those that have come whole."""
    whole = body[: body.rfind(b"\n") + 1]
    data = (line[5:].strip() for line in whole.splitlines() if line.startswith(b"data:"))
    return [json.loads(text) for text in data if text.startswith(b"{")]


def has_text(body: bytes) -> bool:
    """Whether a stream has said anything of an answer yet."""
    choices = (choice for event in stream_events(body) for choice in event.get("choices") or [])
    return any(c.get("text") or (c.get("delta") or {}).get("content") for c in choices)
