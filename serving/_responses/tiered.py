"""Tiers one above the other: the fastest first, and none whose fault is anybody's error.

A value found in a lower tier is put into those above it. Memory is written at once, slower tiers
in the background: so many values and bytes wait at most, and what is beyond is dropped, counted.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from serving._responses.guarded import Guarded
from serving._responses.tiers import Observe, Tier, TierName
from serving._responses.values import OVERHEAD_BYTES, Found, pack, unpack

Call = Callable[[], Awaitable[None]]
KEY = re.compile(r"[a-z0-9][a-z0-9._-]{7,127}")
WRITERS = 4  # background calls per tier at once: more would take the connections of readers


class Hit(NamedTuple):
    """A value and where it was."""

    payload: bytes
    created: float
    """[s, Unix time]"""
    tier: TierName


class Tiers:
    """Values by key in several tiers. Of one event loop; `close` it at its end."""

    def __init__(
        self,
        tiers: Sequence[Tier],
        observe: Observe,
        ttl_s: float,
        *,
        most_faults: int = 5,
        pause_s: float = 5.0,
        most_waiting: int = 256,
        most_waiting_bytes: int = 16_000_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Args:
        tiers: The fastest first; none is no cache.
        observe: Told of everything that happens.
        ttl_s: How long a value may be served [s]; also of those that were kept for longer.
        most_faults: In a row, after which a tier is left alone [count].
        pause_s: For how long [s].
        most_waiting: Writes that may be under way per tier [count].
        most_waiting_bytes: And what their values take.
        clock: Tells the Unix time [s].
        """
        self.ttl_s = ttl_s
        self._observe = observe
        self._clock = clock
        self._most_waiting = most_waiting
        self._most_waiting_bytes = most_waiting_bytes
        self._guarded = [
            Guarded(tier, observe, most_faults=most_faults, pause_s=pause_s) for tier in tiers
        ]
        self._writers = {tier.name: asyncio.Semaphore(WRITERS) for tier in tiers}
        self._waiting: dict[TierName, dict[asyncio.Task[None], int]] = {t.name: {} for t in tiers}

    async def get(self, key: str) -> Hit | None:
        """The value from the first tier that has it; None where none can give it."""
        _check_key(key)
        for place, guarded in enumerate(self._guarded):
            value = await guarded.get(key)
            if value is None:
                continue
            found = await self._read(guarded, key, value)
            if found is None:
                continue
            self._observe(guarded.name, "hit")
            left_s = found.left_s(self._clock(), self.ttl_s)
            for above in self._guarded[:place]:
                await self._put_into(above, key, value, left_s)
            return Hit(found.payload, found.created, guarded.name)
        return None

    async def put(self, key: str, payload: bytes) -> None:
        """Keep a value in all tiers; returns when it is in memory."""
        _check_key(key)
        value = pack(key, payload, self._clock(), self.ttl_s)
        for guarded in self._guarded:
            await self._put_into(guarded, key, value, self.ttl_s)

    async def delete(self, key: str) -> None:
        """Forget a value in all tiers; returns when it is gone from memory."""
        _check_key(key)
        for guarded in self._guarded:
            await self._delete_from(guarded, key)

    async def settle(self) -> None:
        """Wait until nothing is under way in the background."""
        while tasks := [task for waiting in self._waiting.values() for task in waiting]:
            await asyncio.wait(tasks)

    async def close(self, drain_s: float = 1.0) -> None:
        """Give writes under way some time [s], then let all tiers go."""
        try:
            async with asyncio.timeout(drain_s):
                await self.settle()
        except TimeoutError:
            tasks = [task for waiting in self._waiting.values() for task in waiting]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for guarded in self._guarded:
            await guarded.close()

    async def _read(self, guarded: Guarded, key: str, value: bytes) -> Found | None:
        """What a tier's bytes say, if they are ours and still in time; else they are deleted."""
        too_long = len(value) > guarded.tier.largest_bytes
        found = None if too_long else unpack(key, value)
        if found and found.left_s(self._clock(), self.ttl_s) > 0:
            return found
        self._observe(guarded.name, "miss" if found else "corrupt")
        await self._delete_from(guarded, key)
        return None

    async def _put_into(self, guarded: Guarded, key: str, value: bytes, ttl_s: float) -> None:
        if len(value) > guarded.tier.largest_bytes:
            self._observe(guarded.name, "dropped")
        elif guarded.name == "memory":
            await guarded.put(key, value, ttl_s)
        else:
            self._later(guarded, partial(guarded.put, key, value, ttl_s), len(value))

    async def _delete_from(self, guarded: Guarded, key: str) -> None:
        if guarded.name == "memory":
            await guarded.delete(key)
        else:
            self._later(guarded, partial(guarded.delete, key), 0)

    def _later(self, guarded: Guarded, call: Call, size: int) -> None:
        """Do a call in the background, unless too many are under way; those are dropped."""
        waiting = self._waiting[guarded.name]
        full = sum(waiting.values()) + size > self._most_waiting_bytes
        if full or len(waiting) >= self._most_waiting:
            self._observe(guarded.name, "dropped")
            return
        task = asyncio.create_task(self._write(guarded.name, call))
        waiting[task] = size
        task.add_done_callback(lambda done: waiting.pop(done, None))

    async def _write(self, name: TierName, call: Call) -> None:
        async with self._writers[name]:
            await call()


def payload_bytes(value_bytes: int, key: str) -> int:
    """Longest payload whose value under `key` is no longer than `value_bytes`."""
    return value_bytes - OVERHEAD_BYTES - len(key)


def _check_key(key: str) -> None:
    if not KEY.fullmatch(key):
        raise ValueError(
            "a key of a cache is 8 to 128 lower-case letters, digits, dots, dashes or underscores, "
            f"found {len(key)} characters with others among them. Use a digest."
        )
