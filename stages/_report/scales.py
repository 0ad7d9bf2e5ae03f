"""Axes: where a value stands between two ends, and which values get a label. Pure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

MOST_TICKS = 6
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
LOG_STEPS = ((1, 2, 5), (1, 3), (1,))  # of a decade, the finest that leaves room


@dataclass(frozen=True)
class Axis:
    """One axis; `low` and `high` are its ends."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value stands: 0 at the low end, 1 at the high one; outside stays at the end."""
        low, high, at = (self._bend(number) for number in (self.low, self.high, value))
        return min(max((at - low) / (high - low), 0.0), 1.0)

    def _bend(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value


def linear(label: str, values: Iterable[float], *, zero: bool = False, most: int = 5) -> Axis:
    """An axis of round ends around all values, with at most about `most` labels."""
    found = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(found), max(found)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    step = _round_step((high - low) / max(most - 1, 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(float(f"{place * step:.12g}") for place in range(first, last + 1))
    return Axis(label, ticks[0], ticks[-1], ticks)


def logarithmic(label: str, values: Iterable[float], most: int = MOST_TICKS) -> Axis:
    """A logarithmic axis around all positive values, with room beside them."""
    found = [value for value in values if math.isfinite(value) and value > 0] or [1.0, 10.0]
    margin = (max(found) / min(found)) ** 0.08 if max(found) > min(found) else 1.5
    low, high = min(found) / margin, max(found) * margin
    return Axis(label, low, high, _log_ticks(low, high, most), log=True)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is not below `least`."""
    size = 10.0 ** math.floor(math.log10(least))
    return next(size * step for step in STEPS if size * step >= least * (1 - 1e-9))


def _log_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in LOG_STEPS:
        ticks = [step * 10.0**n for n in decades for step in steps]
        inside = tuple(tick for tick in ticks if low <= tick <= high)
        if len(inside) < 2:  # less than a decade without a round number in it
            return tuple(t for t in linear("", (low, high)).ticks if low <= t <= high)
        if len(inside) <= most:
            return inside
    return inside[:: math.ceil(len(inside) / most)]
