"""Answers that were given to the same request before, and one computation for equal ones at once.

Of equal requests that are under way together the first computes, the others wait for it:

- It succeeds: all get its answer, each a copy of its own.
- It leaves, being cancelled or out of its own time or rights: one of those waiting takes over, the
  others wait for that one. So nobody fails because somebody else went away.
- The work itself fails: the failure goes to all who wait then. They asked for the same work, so to
  repeat it once each would be as many failures, one after the other, on a part that has a fault
  already. Nothing is kept of a failure: who asks next starts anew.
- It has no answer to be kept (None): each of those waiting asks for itself, all at once.

Deadlines are the callers': each cancels its own call, which never ends the work of another.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from serving._items import Refusal, ServiceError
from serving._responses.tiered import Tiers
from serving._responses.tiers import Observe

Body = dict[str, Any]
Make = Callable[[], Awaitable[Body | None]]
Outcome = Literal["memory", "redis", "object", "shared", "miss"]
"""Where an answer is from: a tier; another's equal request that was waited for; the work."""
OF_ONE_CALLER: frozenset[Refusal] = frozenset(
    {"expired", "rate_limited", "invalid_key", "forbidden"}
)
"""Refusals that say nothing about an equal request of another caller."""


class Flight:
    """A computation that is under way. `body` or `fault` is there when it ended for all."""

    def __init__(self) -> None:
        """It has begun."""
        self.ended = asyncio.Event()
        self.state: Literal["answered", "failed", "left", "alone"] = "left"
        self.payload = b""
        self.fault: Exception | None = None


class ResponseCache:
    """The exact cache of one process, over tiers that other processes may share."""

    def __init__(self, tiers: Tiers, observe: Observe) -> None:
        """`observe` is told of ("cache", "shared"); of the rest by the tiers."""
        self._tiers = tiers
        self._observe = observe
        self._flights: dict[str, Flight] = {}

    async def fetch(self, key: str, make: Make) -> tuple[Body | None, Outcome]:
        """The answer kept under `key`, else what `make` returns, which is kept unless None.

        Args:
            key: From serving/_responses/keys.py: all that the answer depends on.
            make: Does the work; called once at most. What it returns is JSON.

        Raises:
            Whatever `make` raises, of this caller or of the one that was waited for; a TypeError
            or ValueError of an answer that is not JSON.
        """
        while (flight := self._flights.get(key)) is not None:
            await flight.ended.wait()
            if flight.state == "alone":
                return await make(), "miss"
            if flight.fault is not None:
                raise flight.fault
            if flight.state == "answered":
                self._observe("cache", "shared")
                return _read(flight.payload), "shared"
        return await self._lead(key, make)

    async def close(self) -> None:
        """Let the tiers go."""
        await self._tiers.close()

    async def _lead(self, key: str, make: Make) -> tuple[Body | None, Outcome]:
        """Look and, if need be, compute, for all who ask the same meanwhile."""
        flight = self._flights[key] = Flight()
        try:
            body, outcome = await self._find_or_make(key, make, flight)
        except Exception as fault:
            if not _of_one_caller(fault):
                flight.state, flight.fault = "failed", fault
            raise
        finally:  # cancelled: the state is still "left"
            del self._flights[key]
            flight.ended.set()
        return body, outcome

    async def _find_or_make(
        self, key: str, make: Make, flight: Flight
    ) -> tuple[Body | None, Outcome]:
        if hit := await self._tiers.get(key):
            if (body := _read(hit.payload)) is not None:
                flight.state, flight.payload = "answered", hit.payload
                return body, hit.tier
            await self._tiers.delete(key)
        made = await make()
        if made is None:
            flight.state = "alone"
            return None, "miss"
        flight.payload = _write(made)
        flight.state = "answered"
        await self._tiers.put(key, flight.payload)
        return made, "miss"


def _of_one_caller(fault: Exception) -> bool:
    if isinstance(fault, ServiceError):
        return fault.refusal in OF_ONE_CALLER
    return isinstance(fault, TimeoutError)


def _write(body: Body) -> bytes:
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def _read(payload: bytes) -> Body | None:
    """The answer in a payload; None where somebody else wrote it."""
    try:
        body = json.loads(payload.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None
