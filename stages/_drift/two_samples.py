"""One feature at a time: numbers, counted values and shares, reference against current. Pure.

Every p-value is a permutation's (`permuting`), so ties, small samples and odd distributions do not
matter. Every effect is a distance between 0 and 1 that does not ask how many rows there are; what
chance adds to it is taken off where there are many values.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln  # scipy.stats takes a second to import

from stages._drift.permuting import (
    Counts,
    Labels,
    Values,
    count_hits,
    join_labels,
    midranks,
    permutation_p,
    permuted_counts,
)

RARE = 5
"""Values seen less often than this on both sides together are counted as one, as in any test of
counts: alone they can show nothing, together that there are more of them."""
RARE_NAME = "(rare values)"
SHOWN = 10  # values whose shares differ most

Rows = Sequence[Sequence[str]]
"""Values in each row; a row may have several or none."""


@dataclass(frozen=True)
class NumericResult:
    """How two samples of a number differ."""

    statistic: float
    """Kolmogorov and Smirnov's distance, the largest gap between the two cumulative shares, 0-1."""
    p_value: float
    effect: float
    """The same distance."""
    cliffs_delta: float
    """Chance that a current number is above a reference one, less that it is below, -1 to 1."""
    n_reference: int
    n_current: int
    """Numbers on each side that are finite."""


@dataclass(frozen=True)
class CountsResult:
    """How two samples of values from a list differ."""

    statistic: float
    """Pearson's chi-square of homogeneity."""
    p_value: float
    effect: float
    """Total variation distance beyond chance, (distance - mean) / (1 - mean) with its mean under
    permutation: 1 where the sides share no value, about 0 and never below where nothing differs
    (as L. Hubert and P. Arabie 1985, "Comparing partitions", Journal of Classification 2:193-218,
    correct an agreement for chance)."""
    distance: float
    """Total variation distance: half the sum of absolute differences of shares, 0 to 1."""
    shares: list[tuple[str, float, float]]
    """(value, share of reference values, share of current ones), those that differ most first."""
    n_reference: int
    n_current: int
    """Rows on each side that have a value."""


@dataclass(frozen=True)
class ShareResult:
    """How often something holds, on each side."""

    statistic: float
    """Share of current rows less share of reference rows, -1 to 1."""
    p_value: float
    effect: float
    """The same without sign."""
    reference: float
    current: float
    n_reference: int
    n_current: int


def compare_numbers(
    reference: Iterable[float],
    current: Iterable[float],
    *,
    permutations: int,
    rng: np.random.Generator,
) -> NumericResult:
    """Kolmogorov and Smirnov's test by permutation; NaN and infinities are left out.

    Where the numbers are all equal or a side has none: effect 0, p-value 1. Cliff's delta: N. Cliff
    1993, "Dominance statistics", Psychological Bulletin 114:494-509.
    """
    before, after = _finite(reference), _finite(current)
    pooled, labels = np.concatenate([before, after]), join_labels(len(before), len(after))
    sizes = (len(before), len(after))
    if 0 in sizes or pooled.min() == pooled.max():
        return NumericResult(0.0, 1.0, 0.0, 0.0, *sizes)
    _, places = np.unique(pooled, return_inverse=True)
    totals = np.bincount(places)  # rows of each value, the smallest first
    mine = np.bincount(places[labels], minlength=len(totals))
    distance = float(_gaps(mine[None, :], totals)[0])
    chunks = permuted_counts(totals, len(after), permutations, rng)
    hits = sum(count_hits(_gaps(drawn, totals), distance) for drawn in chunks)
    p_value = permutation_p(hits, permutations)
    delta = _cliffs_delta(midranks(pooled), labels)
    return NumericResult(distance, p_value, distance, delta, *sizes)


def compare_counts(
    reference: Rows, current: Rows, *, permutations: int, rng: np.random.Generator
) -> CountsResult:
    """Chi-square of value shares by permutation of whole rows: a row's values stay together.

    Rows without a value are left out. Where a side has none or all values are one: effect 0, p 1.
    """
    before, after = ([row for row in rows if row] for rows in (reference, current))
    sizes = (len(before), len(after))
    names, table, kinds = _count_table(before + after)
    if 0 in sizes or len(names) < 2:
        return CountsResult(0.0, 1.0, 0.0, 0.0, [], *sizes)
    rows = np.bincount(kinds)  # of each kind
    mine = np.bincount(kinds[len(before) :], minlength=len(rows))
    totals, counts = table.T @ rows, table.T @ mine[:, None]
    statistic, distance = (float(one[0]) for one in _chi_square_and_distance(counts, totals))
    hits, by_chance = 0, 0.0
    for drawn in permuted_counts(rows, len(after), permutations, rng):
        chi, far = _chi_square_and_distance(table.T @ drawn.T, totals)
        hits += count_hits(chi, statistic)
        by_chance += float(far.sum())
    effect = _beyond(distance, by_chance / permutations)
    p_value = permutation_p(hits, permutations)
    shares = _most_different(names, counts[:, 0], totals)
    return CountsResult(statistic, p_value, effect, distance, shares, *sizes)


def compare_shares(reference: Iterable[bool], current: Iterable[bool]) -> ShareResult:
    """Difference of two shares; the p-value counts every permutation there is, two-sided.

    No draw is needed: under permutation the number of current rows where it holds is hypergeometric
    (R. A. Fisher 1935, "The logic of inductive inference", JRSS 98:39-82). As extreme is a
    difference of shares that is as large in either direction. A side without rows: effect 0, p 1.
    """
    before, after = (np.asarray(list(side), dtype=np.bool_) for side in (reference, current))
    n, m = len(before), len(after)
    if 0 in (n, m):
        return ShareResult(0.0, 1.0, 0.0, _share(before), _share(after), n, m)
    holds = int(before.sum() + after.sum())
    in_current = np.arange(max(0, holds - n), min(m, holds) + 1)
    differences = np.abs(in_current / m - (holds - in_current) / n)
    difference = _share(after) - _share(before)
    chances = np.exp(
        _log_choose(m, in_current) + _log_choose(n, holds - in_current) - _log_choose(n + m, holds)
    )
    extreme = differences >= abs(difference) - 1e-12
    p_value = min(1.0, float(chances[extreme].sum() / chances.sum()))
    effect = abs(difference)
    return ShareResult(difference, p_value, effect, _share(before), _share(after), n, m)


def _finite(numbers: Iterable[float]) -> Values:
    values = np.asarray(list(numbers), dtype=np.float64)
    return values[np.isfinite(values)]


def _gaps(current: Counts, totals: Counts) -> Values:
    """Largest gap between the sides' cumulative shares, shape [permutations].

    Args:
        current: rows of each value, smallest value first, shape [permutations, values].
        totals: the same on both sides together, shape [values].
    """
    below, both = np.cumsum(current, axis=1), np.cumsum(totals)
    m = int(current[0].sum())
    n = int(both[-1]) - m
    gaps: Values = np.abs(below * (1.0 / m + 1.0 / n) - both / n).max(axis=1)
    return gaps


def _cliffs_delta(ranks: Values, labels: Labels) -> float:
    m = int(labels.sum())
    n = len(labels) - m
    wins = float(ranks[labels].sum()) - m * (m + 1) / 2.0  # ties count half
    return 2.0 * wins / (m * n) - 1.0


def _beyond(distance: float, by_chance: float) -> float:
    return max(0.0, distance - by_chance) / (1.0 - by_chance) if by_chance < 1.0 else 0.0


def _count_table(rows: Rows) -> tuple[list[str], Any, NDArray[np.int64]]:
    """Names of values, how often each kind of row has each, and the kind of each row.

    Rows with the same values are of one kind, of which there are few: the table is sparse,
    [kinds, values].
    """
    from scipy.sparse import csr_matrix

    totals = Counter(value for row in rows for value in row)
    names = sorted(value for value, count in totals.items() if count >= RARE)
    columns = {name: column for column, name in enumerate(names)}
    if len(names) < len(totals):
        names.append(RARE_NAME)
    found = [tuple(sorted(columns.get(value, len(columns)) for value in row)) for row in rows]
    kinds = {kind: place for place, kind in enumerate(dict.fromkeys(found))}
    cells = np.asarray([(place, column) for kind, place in kinds.items() for column in kind])
    at = cells.reshape(-1, 2).astype(np.int64)
    # the same value twice in a row adds up
    table = csr_matrix((np.ones(len(at)), (at[:, 0], at[:, 1])), shape=(len(kinds), len(names)))
    return names, table, np.asarray([kinds[kind] for kind in found], dtype=np.int64)


def _chi_square_and_distance(counts: Values, totals: Values) -> tuple[Values, Values]:
    """Both for each permutation, shape [permutations] each; 0 where a side has no value.

    Args:
        counts: of each value in current rows, shape [values, permutations].
        totals: of each value on both sides, above 0, shape [values].
    """
    current = counts.sum(axis=0)
    part = current / totals.sum()
    usable = (part > 0.0) & (part < 1.0)
    spread = np.where(usable, part * (1.0 - part), 1.0)
    chi = (((counts - totals[:, None] * part) ** 2) / totals[:, None]).sum(axis=0) / spread
    after = counts / np.maximum(current, 1.0)
    before = (totals[:, None] - counts) / np.maximum(totals.sum() - current, 1.0)
    far = np.abs(after - before).sum(axis=0) / 2.0
    return np.where(usable, chi, 0.0), np.where(usable, far, 0.0)


def _most_different(
    names: Sequence[str], counts: Values, totals: Values
) -> list[tuple[str, float, float]]:
    before, after = (totals - counts) / (totals - counts).sum(), counts / counts.sum()
    order = np.argsort(-np.abs(after - before), kind="stable")[:SHOWN]
    return [(names[place], float(before[place]), float(after[place])) for place in order]


def _share(holds: Labels) -> float:
    return float(holds.mean()) if len(holds) else 0.0


def _log_choose(many: int, chosen: NDArray[np.int64] | int) -> Values:
    """Logarithm of the number of ways to choose."""
    taken = np.asarray(chosen, dtype=np.float64)
    ways: Values = gammaln(many + 1.0) - gammaln(taken + 1.0) - gammaln(many - taken + 1.0)
    return ways
