"""Which rows a window has: of some days, each id once, at most so many, the same ones every time.

Where there are more rows than a window may have, those with the smallest hashes of their ids are
in it, or the newest: either follows from the rows and not from the order in which they are read.
Memory is bounded by `most` (16 bytes a row, twice that while reading). Pure; times are microseconds
since 1970 in UTC, hashes the first 64 bits of BLAKE2b: two ids of a million share one with
probability 3e-8, and the second is then taken for a repeat of the first.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from serving.errors import StillhouseError

Hashes = NDArray[np.uint64]
Times = NDArray[np.int64]
MOST_ROWS: Final = 1_000_000
ROOM: Final = 65_536  # rows that are held beyond `most` before the worst are dropped
_SECOND: Final = 1_000_000  # microseconds
_DAY: Final = 86_400 * _SECOND


@dataclass(frozen=True)
class Asked:
    """Which rows a person wants.

    Raises:
        StillhouseError: the days are none, or the numbers are below 1.
    """

    first: date | None = None
    """First day, in UTC."""
    last: date | None = None
    """Last day, in UTC, included."""
    newest: int | None = None
    """Only the newest rows [count]."""
    most: int = MOST_ROWS
    """Most rows of a window [count]."""

    def __post_init__(self) -> None:
        if self.first and self.last and self.first > self.last:
            raise StillhouseError(
                f"the window ends on {self.last}, before it begins, on {self.first}. Swap them."
            )
        if self.rows < 1:
            raise StillhouseError(
                f"a window of {self.rows} rows was asked for, expected at least 1. Give a larger "
                f"number."
            )

    @property
    def rows(self) -> int:
        """Most rows that come out [count]."""
        return self.most if self.newest is None else min(self.most, self.newest)

    def covers(self, times: Times) -> NDArray[np.bool_]:
        """Whether each time is within the days, or within the years 1 to 9999."""
        low, high = _start(self.first or date.min), _start(self.last or date.max) + _DAY
        inside: NDArray[np.bool_] = (times >= low) & (times < high)
        return inside


def hash_ids(ids: Sequence[str]) -> Hashes:
    """64 bits of each id."""
    digests = b"".join(blake2b(name.encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


class Choosing:
    """The best rows of a stream, each id once."""

    def __init__(self, asked: Asked) -> None:
        """Nothing is seen yet."""
        self._asked = asked
        self._hashes: list[Hashes] = []
        self._ranks: list[Times] = []
        self._held = 0

    def add(self, hashes: Hashes, times: Times) -> None:
        """See some rows; those outside the days are passed over."""
        inside = self._asked.covers(times)
        ranks = -times if self._asked.newest else np.zeros_like(times)
        self._hashes.append(hashes[inside])
        self._ranks.append(ranks[inside])
        self._held += int(inside.sum())
        if self._held > 2 * self._asked.rows + ROOM:
            self._drop_worst()

    def chosen(self) -> Hashes:
        """Hashes of the chosen ids, sorted."""
        self._drop_worst()
        return np.sort(self._hashes[0])

    def _drop_worst(self) -> None:
        """Sort by rank and hash, keep each id's best place, and of those the best."""
        hashes = np.concatenate([np.zeros(0, np.uint64), *self._hashes])
        ranks = np.concatenate([np.zeros(0, np.int64), *self._ranks])
        order = np.lexsort((hashes, ranks))
        _, places = np.unique(hashes[order], return_index=True)
        best = order[np.sort(places)[: self._asked.rows]]
        self._hashes, self._ranks, self._held = [hashes[best]], [ranks[best]], len(best)


class Taking:
    """Chosen rows as they come by again, each once."""

    def __init__(self, asked: Asked, chosen: Hashes) -> None:
        """`chosen` as `Choosing` gives it."""
        self._asked, self._chosen = asked, chosen
        self._taken = np.zeros(len(chosen), dtype=bool)

    def find(self, hashes: Hashes, times: Times) -> tuple[NDArray[np.intp], Counter[str]]:
        """Places of the rows to take, in order, and how many of the others are which.

        Others are "outside" the days, "left_out" because a window may not have so many, or
        "duplicates" of rows that are taken. All copies of a row are found: `take` says which of
        them are of use, so that a bad copy does not hide a good one.
        """
        inside = self._asked.covers(times)
        at, known = self._places(hashes)
        wanted = np.flatnonzero(inside & known)
        found = wanted[~self._taken[at[wanted]]]
        others: Counter[str] = Counter()
        others["outside"] = int((~inside).sum())
        others["left_out"] = int((inside & ~known).sum())
        others["duplicates"] = len(wanted) - len(found)
        return found, others

    def take(self, hashes: Hashes) -> NDArray[np.intp]:
        """Take the first of each id among chosen rows; returns their places, in order."""
        at, _ = self._places(hashes)
        self._taken[at] = True
        _, firsts = np.unique(hashes, return_index=True)
        return np.sort(firsts)

    def _places(self, hashes: Hashes) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Where each hash stands among the chosen, and whether it does."""
        if not len(self._chosen):
            return np.zeros(len(hashes), np.intp), np.zeros(len(hashes), bool)
        at = np.minimum(np.searchsorted(self._chosen, hashes), len(self._chosen) - 1)
        known: Any = self._chosen[at] == hashes
        return at, known


def _start(day: date) -> int:
    """Midnight before a day, in microseconds since 1970."""
    return (day - date(1970, 1, 1)).days * _DAY
