"""How the entry asks a model's process: JSON over that process's own socket, or its port.

BentoML's client for a dependency is not used, for what it does (1.4.39, _bentoml_impl/client/
proxy2.py): it pickles; after every 100 requests it closes its session under the requests that are
on it, which then fail; and a stream that nobody reads on is neither closed nor cancelled, so the
model computes it to the end. Here a connection to a socket lasts, the end of one cancels a stream,
and an item whose caller left is cancelled by its id.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
from pydantic import TypeAdapter

from serving._items import Answer, Item, ServiceError

ANSWERS = TypeAdapter(list[Answer])
RETRY_S = 1.0
LATE_S = 5.0
"""How much longer than its items a list may take, and how long a notice that callers left [s]."""
QUIET_S, GATHER_S = 0.001, 0.02
"""After a list the next one waits until nobody came for so long, and for so long at most."""
IDLE_S = 3.0
"""Of a connection; the server closes it after 5 s, and what is sent at that moment is lost."""


@dataclass(eq=False)
class _Waiting:
    item: Item
    answer: asyncio.Future[Answer]
    since: float
    """On the loop's clock [s]."""

    def body(self, now: float) -> dict[str, Any]:
        """What is sent; the time to answer in has run on meanwhile."""
        timeout_s = self.item.timeout_s
        left_s = None if timeout_s is None else max(timeout_s - (now - self.since), 0.0)
        return {**self.item.model_dump(exclude_defaults=True), "timeout_s": left_s}


class ModelClient:
    """One model's process; what waits while lists are under way goes as one list."""

    def __init__(
        self, url: str, route: str, *, most: int = 64, calls: int = 1, key: str | None = None
    ) -> None:
        """Ask `route` of the service at `url` (serving/_model_address.py: file:, http: or https:).

        Args:
            most: items of one list.
            calls: lists under way at once. More than one would teach BentoML's dispatcher that
                lists wait for each other, and it would then hold a lone one back for as long.
            key: ours there; None where the process is our own.
        """
        parts = urlsplit(url)
        self._path = unquote(parts.path) if parts.scheme == "file" else None
        self._base = "http://model" if self._path else url.replace("tcp://", "http://")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._route, self._most, self._most_calls = route, most, calls
        self._waiting: deque[_Waiting] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._gathering = False
        self._aside: set[asyncio.Task[None]] = set()
        self._left: list[str] = []
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Let the connections go."""
        if self._session is not None:
            await self._session.close()

    async def is_ready(self) -> bool:
        """Whether the process says so, within a second."""
        try:
            limit = aiohttp.ClientTimeout(total=1.0)
            async with self._connected.get("/readyz", timeout=limit) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def answer(self, item: Item) -> Answer:
        """The answer, a refusal perhaps; cancelling it cancels the work.

        Raises:
            ServiceError: unavailable, overloaded or internal: there is no answer at all.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(item, loop.create_future(), loop.time())
        self._waiting.append(waiting)
        self._call()
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            self._forget(waiting)
            raise

    async def stream(self, item: Item) -> AsyncGenerator[str | Answer, None]:
        """Pieces of text and at last the answer; closing it closes the connection.

        Raises:
            ServiceError: as `answer`.
        """
        async with self._post("/stream", {"item": item.model_dump()}) as response:
            async for line in response.content:
                if not line.strip():
                    continue
                found = json.loads(line)
                yield Answer(**found["answer"]) if "answer" in found else found["piece"]

    @property
    def _connected(self) -> aiohttp.ClientSession:
        """Made in the loop that uses it; as many connections as there are streams."""
        if self._session is None:
            connector = (
                aiohttp.UnixConnector(self._path, limit=0, keepalive_timeout=IDLE_S)
                if self._path
                # an address may stand for several, of which each connection finds one
                else aiohttp.TCPConnector(limit=0, force_close=True)
            )
            self._session = aiohttp.ClientSession(
                self._base,
                connector=connector,
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(),
                read_bufsize=2**20,
            )
        return self._session

    def _call(self) -> None:
        """Send what waits, where a list may go now."""
        while self._waiting and not self._gathering and len(self._calls) < self._most_calls:
            taken = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
            task = asyncio.get_running_loop().create_task(self._ask(taken))
            self._calls.add(task)
            task.add_done_callback(self._called)

    def _called(self, task: asyncio.Task[None]) -> None:
        """Callers that were just answered come back: the next list waits for them a moment."""
        self._calls.discard(task)
        self._gathering = True
        loop = asyncio.get_running_loop()
        loop.call_later(QUIET_S, self._call_when_quiet, len(self._waiting), loop.time())

    def _call_when_quiet(self, seen: int, since: float) -> None:
        loop = asyncio.get_running_loop()
        waited, found = loop.time() - since, len(self._waiting)
        if seen < found < self._most and waited < GATHER_S:
            loop.call_later(QUIET_S, self._call_when_quiet, found, since)
        else:
            self._gathering = False
            self._call()

    async def _ask(self, asked: Sequence[_Waiting]) -> None:
        """Ask for a list and hand its answers out; an error is everybody's."""
        try:
            now = asyncio.get_running_loop().time()
            items = [waiting.body(now) for waiting in asked]
            limit_s = _longest(items)
            async with self._post(self._route, {"items": items}, limit_s) as response:
                answers = ANSWERS.validate_json(await response.read())
            for waiting, answer in zip(asked, answers, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)
        except Exception as error:
            for waiting in asked:
                if not waiting.answer.done():
                    waiting.answer.set_exception(_plain(error))

    def _forget(self, waiting: _Waiting) -> None:
        """Drop an item that was not sent yet, or have it cancelled where it is."""
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            return
        self._left.append(waiting.item.id)
        if not self._aside:
            task = asyncio.get_running_loop().create_task(self._cancel())
            self._aside.add(task)
            task.add_done_callback(self._aside.discard)

    async def _cancel(self) -> None:
        """Tell whose callers left, one notice at a time for all who left meanwhile."""
        while self._left:
            ids, self._left = self._left, []
            try:
                async with self._post("/cancel", {"ids": ids}, LATE_S):
                    pass
            except ServiceError:
                continue  # the process is gone, and the work with it

    @asynccontextmanager
    async def _post(
        self, route: str, body: Any, limit_s: float | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response of 200, within `limit_s`.

        Raises:
            ServiceError: any other, or none.
        """
        limit = aiohttp.ClientTimeout(total=limit_s)
        try:
            async with self._connected.post(
                route,
                json=body,
                timeout=limit,
                allow_redirects=False,  # it could lead prompts and key to another server
            ) as response:
                if response.status != 200:
                    raise _refused(response.status)
                yield response
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _plain(error) from None


def _longest(items: Sequence[dict[str, Any]]) -> float | None:
    """Time that a list may take [s]; None where one of its items has no limit."""
    times: list[float | None] = [item["timeout_s"] for item in items]
    limited = [time for time in times if time is not None]
    return max(limited) + LATE_S if len(limited) == len(times) else None


def _refused(status: int) -> ServiceError:
    if status == 503:
        return ServiceError("overloaded", "the model has too much to do", RETRY_S)
    if status in (401, 403):
        return ServiceError("internal", "the model's process refuses our key")
    return ServiceError("internal", f"the model's process answered with status {status}")


def _plain(error: Exception) -> ServiceError:
    """What it was, without what it quotes."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, (aiohttp.ClientError, OSError)):
        return ServiceError("unavailable", "the model's process does not answer", RETRY_S)
    return ServiceError("internal", f"the model's process failed ({type(error).__name__})")
