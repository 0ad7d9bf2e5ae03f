"""Server-sent events: framing, keep-alive, and an end that is never silent.

The first event is awaited before the response starts, so that what fails until then is an HTTP
error like any other. What fails later is an event of its own, after which the stream closes
without `[DONE]`: whoever waits for that word never takes a part for the whole.

What makes the events runs in one task from start to end: cancelling works at once wherever it
waits, and context such as a trace's is the same in all its steps.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Self

from starlette.types import Send

HEADERS: Mapping[str, str] = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",  # or a proxy collects events until its buffer is full
}
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"


def event(data: str) -> bytes:
    """The frame of one event; every line end of `data` begins a new `data:` line."""
    lines = data.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "".join([*(f"data: {line}\n" for line in lines), "\n"]).encode()


class Feed:
    """Frames from a generator that runs in a task of its own; leaving it ends the generator.

    At most one frame is made ahead of who reads, so a slow client slows the model down and fills
    no memory.
    """

    def __init__(self, frames: AsyncGenerator[bytes, None]) -> None:
        self._frames = frames
        self._made: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(maxsize=1)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def next(self, patience_s: float | None = None) -> bytes | None:
        """The next frame, a keep-alive where it takes longer than `patience_s`, None at the end.

        Raises:
            Exception: what the generator raised.
        """
        try:
            async with asyncio.timeout(patience_s):
                frame = await self._made.get()
        except TimeoutError:
            return KEEP_ALIVE
        if isinstance(frame, Exception):
            raise frame
        return frame

    async def _run(self) -> None:
        try:
            async for frame in self._frames:
                await self._made.put(frame)
            await self._made.put(None)
        except asyncio.CancelledError:
            if self._task.cancelling():
                raise
            # Not by us: something inside was cancelled, and who reads would wait for ever.
            await self._made.put(RuntimeError("cancelled from inside"))
        except Exception as error:
            await self._made.put(error)
        finally:
            await self._frames.aclose()


async def send_events(
    send: Send,
    frames: AsyncGenerator[bytes, None],
    headers: Mapping[str, str],
    failed: Callable[[Exception], bytes],
    keep_alive_s: float | None,
) -> None:
    """Send a response of `frames`; `failed` makes the last one of an error.

    Args:
        keep_alive_s: a comment is sent after so long without an event [s]; None: never.

    Raises:
        Exception: what `frames` raised before its first frame; nothing was sent then.
    """
    async with Feed(frames) as feed:
        first = await feed.next()
        raw = [(name.encode(), value.encode()) for name, value in {**HEADERS, **headers}.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        async for frame in _all_frames(first, feed, failed, keep_alive_s):
            await send({"type": "http.response.body", "body": frame, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _all_frames(
    frame: bytes | None,
    feed: Feed,
    failed: Callable[[Exception], bytes],
    keep_alive_s: float | None,
) -> AsyncIterator[bytes]:
    while frame is not None:
        yield frame
        try:
            frame = await feed.next(keep_alive_s)
        except Exception as error:
            yield failed(error)
            return
