"""Cut what waits into micro-batches by length, under a token budget, and say which goes first.

A batch of prompts is as wide as its longest, so a short prompt beside a long one costs as much as
the long one. Sorted by length, neighbours are alike and little is padded; first-in-first-out is
here to be compared with (benchmarks/length_batching.py). One call of an engine has one setting, so
only items that share it go together.

Who goes first is not a matter of length: the batch with the oldest item does, or the one whose
deadline is near, and that may overtake the oldest once and not again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Order = Literal["length", "first_in_first_out"]


@dataclass(frozen=True)
class Waiting:
    """What cutting needs to know of one item."""

    prompt_tokens: int
    room: int
    """Longest answer asked for [tokens]."""
    arrived: float = 0.0
    """On a clock that never goes back [s]."""
    deadline: float | None = None
    """On the same clock: not begun by then, it is not begun at all [s]."""
    setting: str = ""
    """Name of its decoding settings; only items with the same one go together."""
    rows: int = 1
    """Rows it takes: beams, or samples [count]."""
    overtaken: int = 0
    """Rounds in which a younger item went before it [count]."""

    @property
    def longest(self) -> int:
        """Positions that one of its rows may come to [tokens]."""
        return self.prompt_tokens + self.room


@dataclass(frozen=True)
class Bounds:
    """How big a micro-batch may be; an item that is above them goes alone."""

    batch_tokens: int
    """Most tokens: rows x (longest prompt + room for the longest answer)."""
    max_rows: int


def padded_cost(items: Sequence[Waiting]) -> int:
    """Tokens of a batch, padding and room for the answers included."""
    if not items:
        return 0
    longest = max(item.prompt_tokens for item in items) + max(item.room for item in items)
    return sum(item.rows for item in items) * longest


def padded_share(lengths: Sequence[int]) -> float:
    """Share of padding in a rectangle as wide as the longest of `lengths` [tokens]; 0 if empty."""
    whole = len(lengths) * max(lengths, default=0)
    return 1.0 - sum(lengths) / whole if whole else 0.0


def cut(waiting: Sequence[Waiting], bounds: Bounds, order: Order = "length") -> list[list[int]]:
    """Cut all that waits into micro-batches.

    Returns:
        Indices into `waiting`, every one once; the batch with the oldest item comes first. By
        length, a batch runs from short to long, equals in their order.
    """
    groups: dict[str, list[int]] = {}
    for index in _ordered(waiting, order):
        groups.setdefault(waiting[index].setting, []).append(index)
    batches = [batch for group in groups.values() for batch in _cut(waiting, group, bounds)]
    return sorted(batches, key=lambda batch: min(waiting[index].arrived for index in batch))


def next_batch(
    waiting: Sequence[Waiting],
    bounds: Bounds,
    now: float,
    urgent_s: float = 0.0,
    order: Order = "length",
) -> list[int]:
    """The micro-batch to run now: that of the item whose turn it is; empty if none waits.

    Args:
        now: on the clock of arrivals and deadlines [s].
        urgent_s: an item whose deadline is no further away goes first.
    """
    if not waiting:
        return []
    first = whose_turn(waiting, now, urgent_s)
    return next(batch for batch in cut(waiting, bounds, order) if first in batch)


def whose_turn(waiting: Sequence[Waiting], now: float, urgent_s: float) -> int:
    """Index of the oldest item, or of one close to its deadline unless the oldest was overtaken."""
    oldest = min(range(len(waiting)), key=lambda index: waiting[index].arrived)
    deadlines = {
        index: item.deadline
        for index, item in enumerate(waiting)
        if item.deadline is not None and item.deadline - now <= urgent_s
    }
    if waiting[oldest].overtaken or not deadlines:
        return oldest
    return min(deadlines, key=deadlines.__getitem__)


def left_behind(waiting: Sequence[Waiting], batch: Sequence[int]) -> set[int]:
    """Indices of the items that are older than one in `batch` and not in it."""
    youngest = max(waiting[index].arrived for index in batch)
    return {i for i, item in enumerate(waiting) if item.arrived < youngest} - set(batch)


def _ordered(waiting: Sequence[Waiting], order: Order) -> Iterable[int]:
    match order:
        case "length":
            return sorted(range(len(waiting)), key=lambda index: waiting[index].longest)
        case "first_in_first_out":
            return sorted(range(len(waiting)), key=lambda index: waiting[index].arrived)


def _cut(waiting: Sequence[Waiting], group: Sequence[int], bounds: Bounds) -> list[list[int]]:
    """Cut a group in its order, wherever one more item would be above the bounds."""
    batches: list[list[int]] = []
    rows = prompt = room = 0
    for index in group:
        item = waiting[index]
        # kept up as the batch grows: this runs for all that waits, before every micro-batch
        rows, prompt, room = (
            rows + item.rows,
            max(prompt, item.prompt_tokens),
            max(room, item.room),
        )
        if batches and rows <= bounds.max_rows and rows * (prompt + room) <= bounds.batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
            rows, prompt, room = item.rows, item.prompt_tokens, item.room
    return batches
