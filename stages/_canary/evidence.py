"""How much worse a challenger is, looked at as often as one likes. Pure: counts in, evidence out.

A splitter sends each request to the challenger with a known chance, the share. Of a request that
went bad or not (y is 1 or 0), with a centre c chosen before it came,

    x =  (y - c) / share          where the challenger answered
    x = -(y - c) / (1 - share)    where the champion did

has as its mean the chance to go bad at the challenger minus that at the champion, of this very
request, since the split alone is random (potential outcomes, as Howard, Ramdas, McAuliffe and
Sekhon 2021 estimate them in "Time-uniform, nonparametric, nonasymptotic confidence sequences").
Nothing is assumed of the traffic: nights, bursts and a busy machine meet both arms. The centre only
makes x vary less; a bad one costs requests, not validity.

For any fixed stake s below 1 / (d - least x), the product over requests of 1 + s (x - d), times
exp(-s (sum of the true means - t d)) after t requests, is a supermartingale, since 1 + z <= exp(z).
So the chance that the product ever reaches 1 / alpha while the mean difference so far is d or less
is at most alpha, at all looks together (Ville 1939). Several stakes are mixed (Robbins 1970); the
bet is that of Waudby-Smith and Ramdas (2024, "Estimating means of bounded random variables by
betting"). The product knows no order, so that four counts are all it needs.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STAKES = np.geomspace(0.03, 0.97, 6)
"""Shares of the largest stake, alike in weight; small ones are for small differences, seen late.
How many matters little between 4 and 12, and validity does not hang on them."""
PRECISION = 1e-4
"""Of a bound."""


@dataclass(frozen=True)
class Counts:
    """Requests of one arm that ended, and those of them that went bad [count]."""

    bad: int
    total: int

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.bad + other.bad, self.total + other.total)

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(self.bad - other.bad, self.total - other.total)

    @property
    def share(self) -> float | None:
        """Of bad ones; None where there is no request."""
        return self.bad / self.total if self.total else None


@dataclass(frozen=True)
class Split:
    """What was fixed before the first request that counts."""

    share: float
    """Chance that a request goes to the challenger, above 0 and below 1."""
    centre: float
    """Share of bad requests that is expected of both, 0 to 1."""

    def swapped(self) -> "Split":
        """The same with the arms' names exchanged."""
        return Split(1.0 - self.share, self.centre)


def log_evidence_above(
    difference: float, champion: Counts, challenger: Counts, split: Split
) -> float:
    """Log of the evidence that the challenger is worse than the champion by more than `difference`.

    With log(1 / alpha) or more it is, at level alpha, whenever one looks.

    Args:
        difference: of the shares of bad requests, -1 to 1.
    """
    values, counts = _cells(champion, challenger, split)
    lowest = -max(split.centre / split.share, (1.0 - split.centre) / (1.0 - split.share))
    return _log_mixture(values - difference, counts, difference - lowest)


def log_evidence_below(
    difference: float, champion: Counts, challenger: Counts, split: Split
) -> float:
    """Log of the evidence that the challenger is worse by less than `difference`, or better."""
    return log_evidence_above(-difference, challenger, champion, split.swapped())


def lower_bound(alpha: float, champion: Counts, challenger: Counts, split: Split) -> float:
    """The difference is above it, at level alpha at all looks together; -1: nothing is known.

    The evidence falls as the difference grows, so that halving finds where it is 1 / alpha.
    """
    low, high = -1.0, 1.0
    while high - low > PRECISION:
        middle = (low + high) / 2.0
        if log_evidence_above(middle, champion, challenger, split) >= -math.log(alpha):
            low = middle
        else:
            high = middle
    return low


def upper_bound(alpha: float, champion: Counts, challenger: Counts, split: Split) -> float:
    """The difference is below it, at level alpha at all looks together; 1: nothing is known."""
    return -lower_bound(alpha, challenger, champion, split.swapped())


def log_evidence_split(share: float, champion: int, challenger: int) -> float:
    """Log of the evidence that requests do not reach the challenger with the chance `share`."""
    counts = np.array([champion, challenger], dtype=np.float64)
    more = _log_mixture(np.array([-share, 1.0 - share]), counts, share)
    fewer = _log_mixture(np.array([share, share - 1.0]), counts, 1.0 - share)
    return float(np.logaddexp(more, fewer) - math.log(2.0))


def log_evidence_most(above: int, below: int) -> float:
    """Log of the evidence that the next one of a row is above rather than below, more often.

    Args:
        above: those so far [count], each of which may depend on all before it.
    """
    return _log_mixture(np.array([1.0, -1.0]), np.array([above, below], dtype=np.float64), 1.0)


def _cells(
    champion: Counts, challenger: Counts, split: Split
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of x and how often each came: challenger bad, good, champion bad, good; shape [4]."""
    share, centre = split.share, split.centre
    values = [
        (1.0 - centre) / share,
        -centre / share,
        -(1.0 - centre) / (1.0 - share),
        centre / (1.0 - share),
    ]
    counts = [
        challenger.bad,
        challenger.total - challenger.bad,
        champion.bad,
        champion.total - champion.bad,
    ]
    return np.array(values), np.array(counts, dtype=np.float64)


def _log_mixture(
    values: NDArray[np.float64], counts: NDArray[np.float64], largest_loss: float
) -> float:
    """Log of the mean over stakes of the product of (1 + stake * value) ** count.

    Args:
        largest_loss: no value is below minus this, so that no product is below 0.
    """
    stakes = STAKES / largest_loss
    logs = np.log1p(np.outer(stakes, values)) @ counts
    return float(np.logaddexp.reduce(logs) - math.log(len(stakes)))
