"""What a tier of a cache is, and the one in memory.

A tier keeps bytes by key for a time. It may forget anything at any time, and it raises what goes
wrong: serving/_responses/tiered.py makes every fault a miss.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

TierName = Literal["memory", "redis", "object"]
Event = Literal["hit", "miss", "put", "fault", "skipped", "dropped", "corrupt", "shared"]
"""skipped: not asked, because it failed; dropped: not written, being too large or one of too many;
corrupt: a value that is not ours, and was deleted; shared: an equal request was waited for."""
Observe = Callable[[TierName | Literal["cache"], Event], None]
"""Told of everything that happens to a tier; "cache" is all of them together."""
ENTRY_BYTES = 250
"""What an entry takes beside its key and value: two objects' heads and a place in the order."""


class Tier(Protocol):
    """One place where values are kept. Keys are lower-case letters, digits, "-", "_" and "."."""

    @property
    def name(self) -> TierName:
        """Which kind of place."""

    @property
    def largest_bytes(self) -> int:
        """Longest value that may be put; a longer one that is found is not ours."""

    async def get(self, key: str) -> bytes | None:
        """The value, None where there is none; raises whatever is wrong with the place."""

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value for a time [s], or less; raises whatever is wrong with the place."""

    async def delete(self, key: str) -> None:
        """Forget a value, if there is one; raises whatever is wrong with the place."""

    async def close(self) -> None:
        """Let connections and threads go."""


class Entry(NamedTuple):
    """A value in memory."""

    value: bytes
    until: float
    """[s] by the tier's clock."""


class MemoryTier:
    """In this process: the least recently used goes first. Its calls never wait."""

    name: TierName = "memory"

    def __init__(
        self, entries: int, size_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args:
        entries: Most values that are kept [count].
        size_bytes: Most that they take together, keys and a share for each entry included.
        clock: Tells the time [s].
        """
        self.largest_bytes = max(size_bytes // 8, 0)  # so that one value never empties the rest
        self._most_entries = entries
        self._most_bytes = size_bytes
        self._clock = clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        """Values that are kept, expired ones that nobody asked for included [count]."""
        return len(self._entries)

    @property
    def bytes_held(self) -> int:
        """What they take together."""
        return self._bytes

    async def get(self, key: str) -> bytes | None:
        """The value, which so becomes the one used last."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until <= self._clock():
            self._forget(key)
            return None
        self._entries.move_to_end(key)
        return entry.value

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value, at the cost of those unused for longest; too large a one is not kept."""
        self._forget(key)
        if len(value) > self.largest_bytes or ttl_s <= 0:
            return
        self._entries[key] = Entry(value, self._clock() + ttl_s)
        self._bytes += _size(key, value)
        while len(self._entries) > self._most_entries or self._bytes > self._most_bytes:
            self._forget(next(iter(self._entries)))

    async def delete(self, key: str) -> None:
        """Forget a value."""
        self._forget(key)

    async def close(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._bytes = 0

    def _forget(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= _size(key, entry.value)


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value) + ENTRY_BYTES
