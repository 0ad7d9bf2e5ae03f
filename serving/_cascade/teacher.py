"""The teacher as another Stillhouse service: same code, its model in STILLHOUSE_STUDENT.

Every answer must carry the fingerprint of the model that the route's threshold was calibrated for:
another model's answer is thrown away. Who leaves closes the connection, and the teacher stops. No
key and no text of a request stands in an error or a log.
"""

import asyncio
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from serving._breaker import Breaker
from serving._cascade.faults import FaultError, watch
from serving._cascade.teacher_address import authorization, read_address
from serving._cascade.teacher_protocol import (
    CODES,
    AnotherModelError,
    body_of,
    error_code,
    read_answer,
)
from serving._items import Answer, Item, Refusal, ServiceError

ROUTE = "/v1/completions"
LONGEST_S = 60.0
"""Of an item that has no deadline [s]."""
MARGIN_S = 0.02
"""Kept of an item's time for the way back, so that the caller gets to hear that it was over."""
PATIENCE_S = 2.0
"""Silence for less is no fault of the teacher's: a caller's time may be as short as they like."""
MOST_HOLD_S = 300.0
"""A teacher may ask to be left alone for so long at most [s]."""
IDLE_S = 3.0
"""Of a connection; the server closes it after 5 s, and what is sent at that moment is lost."""
MOST_BYTES = 4 << 20
"""Of an answer."""
CLEAN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # that the service takes over as its own


@dataclass
class TeacherCounts:
    """What became of requests to the teacher since the process started [count]."""

    asked: int = 0
    """Sent to it; all below but the last two are of these."""
    answered: int = 0
    refused: int = 0
    """It says that it cannot take such a request."""
    faults: int = 0
    """Failed, silent, refused our key, or asked to be left alone."""
    foreign: int = 0
    """Of the faults: answers by another model, which were thrown away."""
    expired: int = 0
    """Not answered in the caller's time."""
    left: int = 0
    """Callers who did not wait for the answer."""
    shed: int = 0
    """Not sent, because too many were under way."""
    held_back: int = 0
    """Not sent, because it had failed before."""


class TeacherService:
    """A rung that asks a teacher's service; use it from one event loop."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        model_sha256: str,
        model: str = "student",
        most: int = 16,
        longest: int | None = None,
        faults: int = 5,
        open_s: float = 5.0,
        ca: Path | None = None,
        allow_insecure: bool = False,
    ) -> None:
        """Nothing is sent yet.

        Args:
            url: https://host:port, http:// to this machine alone, or unix:///path/of/socket.
            key: of that service (serving/keys.py); None: it serves this machine without one.
            model_sha256: digest of the model in the route.
            model: its id on that service, which calls its own model "student".
            most: requests under way; more are refused at once [count].
            longest: answer that it gives [tokens]; None: as long as is asked for.
            faults: in a row, after which it is left alone for `open_s` [s].
            ca: certificates (PEM) that it is checked with; None: the system's.
            allow_insecure: whether prompts and key may go over http in a network that you trust.

        Raises:
            StillhouseError: no such address, http beyond this machine, or no key.
        """
        self._socket, self._base = read_address(url, allow_insecure)
        self._headers = authorization(key)
        self._tls = ssl.create_default_context(cafile=ca) if ca else True
        self._model, self._model_sha256, self._longest = model, model_sha256, longest
        self._most, self._under_way = most, 0
        self._breaker = Breaker(faults, open_s)
        self._counts = TeacherCounts()
        self._session: aiohttp.ClientSession | None = None

    @property
    def counts(self) -> TeacherCounts:
        """A copy."""
        return replace(self._counts)

    @property
    def is_available(self) -> bool:
        """Whether it is asked at all: not while it is left alone after faults."""
        return self._breaker.is_closed

    async def close(self) -> None:
        """Let the connections go."""
        if self._session is not None:
            await self._session.close()

    async def answer(self, item: Item) -> Answer:
        """The teacher's answer; cancelling it closes the connection.

        Raises:
            ServiceError: invalid_request, prompt_too_long or body_too_large: it cannot take such a
                request; overloaded, unavailable or expired: it gives no answer now.
        """
        body = body_of(item, self._model, self._longest)
        limit_s = LONGEST_S if item.timeout_s is None else item.timeout_s - MARGIN_S
        if limit_s <= 0:
            raise _expired()
        with self._place(), self._counted(), watch(self._breaker, "teacher"):
            self._counts.asked += 1
            try:
                return await self._ask(item, body, limit_s)
            except TimeoutError:
                if limit_s < PATIENCE_S:
                    raise _expired() from None
                raise FaultError("expired", "the teacher did not answer in time") from None
            except (aiohttp.ClientError, OSError):  # what they say quotes addresses and headers
                raise FaultError("unavailable", "the teacher does not answer") from None

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._under_way >= self._most:
            self._counts.shed += 1
            raise ServiceError("overloaded", "the teacher has too much to do", 1.0)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count how an attempt ends."""
        counts, before = self._counts, self._counts.asked
        try:
            yield
            counts.answered += 1
        except FaultError as fault:
            counts.faults += 1
            counts.expired += fault.refusal == "expired"
            raise
        except ServiceError as error:
            if error.refusal == "expired":
                counts.expired += 1
            elif error.refusal == "unavailable" and counts.asked == before:
                counts.held_back += 1
            else:
                counts.refused += 1
            raise
        except asyncio.CancelledError:
            counts.left += 1
            raise

    async def _ask(self, item: Item, body: dict[str, Any], limit_s: float) -> Answer:
        """Send, and judge what comes back."""
        began = asyncio.get_running_loop().time()
        headers = {"x-request-timeout-s": f"{limit_s:.3f}", "accept": "application/json"}
        if CLEAN_ID.fullmatch(item.id):
            headers["x-request-id"] = item.id
        if item.traceparent:
            headers["traceparent"] = item.traceparent
        async with self._connected.post(
            ROUTE,
            json=body,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=limit_s),
            allow_redirects=False,  # it could lead prompt and key to another server
        ) as response:
            data = await _read(response)
            if response.status != 200:
                raise _refused(response.status, response.headers.get("retry-after", ""), data)
        seconds = asyncio.get_running_loop().time() - began
        try:
            return read_answer(data, item, self._model_sha256, seconds)
        except AnotherModelError:
            self._counts.foreign += 1
            message = "the teacher's service holds another model than the route names"
            raise FaultError("unavailable", message) from None
        except ValueError:
            message = "the teacher's service gave no answer of the protocol"
            raise FaultError("unavailable", message) from None

    @property
    def _connected(self) -> aiohttp.ClientSession:
        """Made in the loop that uses it."""
        if self._session is None:
            limits: Any = {"limit": self._most, "keepalive_timeout": IDLE_S}
            connector = (
                aiohttp.UnixConnector(self._socket, **limits)
                if self._socket
                else aiohttp.TCPConnector(ssl=self._tls, **limits)
            )
            self._session = aiohttp.ClientSession(
                self._base, connector=connector, headers=self._headers
            )
        return self._session


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The whole body, within bounds."""
    data = bytearray()
    async for part in response.content.iter_any():
        data += part
        if len(data) > MOST_BYTES:
            raise FaultError("unavailable", "the teacher's answer is too long to be one")
    return bytes(data)


def _refused(status: int, retry_after: str, data: bytes) -> ServiceError:
    """What a status that is not 200 comes to; the teacher's own words are not repeated."""
    code = error_code(data)
    if status == 503 and code == "deadline_exceeded":
        return _expired()
    if status in (400, 413, 422):
        refusal: Refusal = CODES.get(code or "", "invalid_request")
        return ServiceError(refusal, "the teacher cannot take this request")
    asked = re.fullmatch(r"[0-9]{1,9}", retry_after)  # a date instead is not read
    hold_s = min(float(retry_after), MOST_HOLD_S) if asked and status in (429, 503) else None
    why = "does not take this service's key" if status in (401, 403) else f"answers with {status}"
    return FaultError("unavailable", f"the teacher's service {why}", hold_s)


def _expired() -> ServiceError:
    return ServiceError("expired", "the teacher did not answer in the request's time", 1.0)
