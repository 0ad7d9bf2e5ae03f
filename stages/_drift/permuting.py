"""Permutation tests: p-values that hold for any distribution and any number of rows. Pure.

Where reference and current rows come from one distribution, every way of dealing out the two labels
to the pooled rows was equally likely, so a statistic is held against its own values under drawn
labels. p = (hits + 1) / (permutations + 1) counts the labels as they are among those drawn; without
the ones it could be 0 and is too small on average (B. Phipson and G. K. Smyth 2010, "Permutation
p-values should never be zero", Statistical Applications in Genetics and Molecular Biology 9:39).

Labels are dealt out to rows. That is exact where rows come independently, however often a text
repeats. Where one client sends one text 40 times, rows are not independent: compare each side's
distinct texts as well and believe the weaker result (`verdict.weaker_of`).
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CELLS = 2_000_000
"""Most labels (permutations x rows) that are held at a time: 16 MB as 64-bit numbers."""

Values = NDArray[np.float64]
Labels = NDArray[np.bool_]
"""True for a current row, False for a reference row, shape [rows] or [permutations, rows]."""
Counts = NDArray[np.int64]
"""How many rows have each value, shape [values] or [permutations, values]."""


def permutation_p(hits: int, permutations: int) -> float:
    """Chance of a statistic as large as the observed one, (hits + 1) / (permutations + 1).

    Many tests need many permutations: the least p-value is 1 / (permutations + 1), and Benjamini
    and Hochberg multiply a lone one by the number of tests.

    Args:
        hits: drawn labels whose statistic was as large as the observed one or larger.
    """
    return (hits + 1) / (permutations + 1)


def join_labels(reference: int, current: int) -> Labels:
    """Labels of `reference` rows followed by `current` rows, shape [reference + current]."""
    return np.arange(reference + current) >= reference


def permuted_labels(
    labels: Labels, permutations: int, rng: np.random.Generator
) -> Iterator[Labels]:
    """Deal labels out anew, in chunks of shape [some permutations, rows]; as many as there were."""
    each = np.ones(len(labels), dtype=np.int64)
    for drawn in permuted_counts(each, int(labels.sum()), permutations, rng):
        yield drawn.astype(np.bool_)


def permuted_counts(
    totals: Counts, current: int, permutations: int, rng: np.random.Generator
) -> Iterator[Counts]:
    """Deal labels out anew and count current rows by value; chunks of [some permutations, values].

    Rows with one value are alike, so it is enough to draw how many of them are current ones: the
    numbers are hypergeometric.

    Args:
        totals: rows of each value on both sides together, shape [values].
        current: rows that are current.
    """
    rows = int(totals.sum())
    # "marginals" draws value by value, "count" row by row: a row takes a 24th of a value's time
    method: Literal["marginals", "count"] = "marginals" if 24 * len(totals) < rows else "count"
    size = max(1, CELLS // max(1, len(totals)))
    for start in range(0, permutations, size):
        count = min(size, permutations - start)
        yield rng.multivariate_hypergeometric(totals, current, size=count, method=method)


def count_hits(drawn: Values, observed: float) -> int:
    """How many drawn statistics are as large as the observed one; equal but for rounding counts."""
    return int((drawn >= observed - 1e-9 * abs(observed) - 1e-12).sum())


def midranks(values: Values) -> Values:
    """Ranks from 1, equal values sharing their mean rank, shape [rows]."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts).astype(np.float64)
    shared: Values = (last - (counts - 1) / 2.0)[which]
    return shared
