"""Maximum mean discrepancy: do two sets of sentence vectors come from one distribution? Pure.

A. Gretton, K. Borgwardt, M. Rasch, B. Schölkopf and A. Smola 2012, "A kernel two-sample test", JMLR
13:723-773: the unbiased squared distance of the two means under a kernel (their equation 3). The
kernel is Gaussian and as wide as the median distance of the pooled rows. It is worked out once;
labels are permuted over it by a matrix product.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages._drift.permuting import (
    Labels,
    Values,
    count_hits,
    join_labels,
    permutation_p,
    permuted_labels,
)

Vectors = NDArray[np.floating]
"""A vector per row, shape [rows, dimensions]."""


@dataclass(frozen=True)
class MmdResult:
    """How far apart two sets of vectors are."""

    mmd2: float
    """Unbiased squared discrepancy; around 0, and as often below it, where nothing differs."""
    p_value: float
    bandwidth: float
    """Width of the kernel, the median distance of pooled rows; 0 where all are one point."""
    effect: float
    """Root of the share of the mean squared distance between a reference and a current row that is
    due to the two means being apart, 0 to 1: 0 where they agree, 1 where each side is one point and
    these differ. About proportional to the share of current rows that come from elsewhere. The
    share is the coefficient of inhomogeneity of Székely and Rizzo 2013, "Energy statistics",
    Journal of Statistical Planning and Inference 143:1249-1272, under the kernel's distance."""
    n_reference: int
    n_current: int
    """Rows that were compared."""


def mmd(
    reference: Vectors,
    current: Vectors,
    *,
    permutations: int,
    rng: np.random.Generator,
    most: int = 1000,
) -> MmdResult:
    """Test two sets of vectors; of more than `most` rows on a side, that many are drawn.

    Memory: 8 * (2 * most)^2 bytes a few times over, 32 MB each at 1,000. Fewer than two rows on a
    side, or one point alone: effect 0, p-value 1.

    Args:
        reference: shape [rows, dimensions].
        current: shape [rows, dimensions].
    """
    before, after = _draw(reference, most, rng), _draw(current, most, rng)
    sizes = (len(before), len(after))
    if min(sizes) < 2:
        return MmdResult(0.0, 1.0, 0.0, 0.0, *sizes)
    kernel, bandwidth = _kernel(np.concatenate([before, after]).astype(np.float64))
    if bandwidth == 0.0:
        return MmdResult(0.0, 1.0, 0.0, 0.0, *sizes)
    labels = join_labels(*sizes)
    observed = float(_discrepancies(kernel, labels[None, :])[0])
    hits = 0
    for drawn in permuted_labels(labels, permutations, rng):
        hits += count_hits(_discrepancies(kernel, drawn), observed)
    effect = _effect(observed, kernel, labels)
    return MmdResult(observed, permutation_p(hits, permutations), bandwidth, effect, *sizes)


def _draw(vectors: Vectors, most: int, rng: np.random.Generator) -> Vectors:
    if len(vectors) <= most:
        return vectors
    return vectors[np.sort(rng.choice(len(vectors), most, replace=False))]


def _kernel(pooled: Values) -> tuple[Values, float]:
    """Gaussian kernel exp(-d^2 / (2 width^2)) of all pairs [rows, rows], and its width."""
    centred = pooled - pooled.mean(axis=0)  # distances are the same, rounding is less
    lengths = (centred**2).sum(axis=1)
    squares = lengths[:, None] + lengths[None, :] - 2.0 * (centred @ centred.T)
    # rounding leaves equal rows a little apart; a true distance that small is none either
    squares[squares < 1e-12 * max(1e-300, float(lengths.max()))] = 0.0
    apart = np.sqrt(squares[np.triu_indices(len(pooled), 1)])
    width = float(np.median(apart))
    if width == 0.0 and apart.any():  # more than half of the pairs are copies
        width = float(np.median(apart[apart > 0.0]))
    if width == 0.0:
        return np.ones_like(squares), 0.0
    kernel: Values = np.exp(squares / (-2.0 * width**2))
    return kernel, width


def _discrepancies(kernel: Values, labels: Labels) -> Values:
    """Unbiased squared discrepancy for each row of labels, shape [permutations].

    Args:
        kernel: of all pairs, ones on the diagonal, shape [rows, rows].
        labels: shape [permutations, rows], each with as many current rows.
    """
    m = int(labels[0].sum())
    n = labels.shape[1] - m
    chosen = labels.astype(np.float64)
    to_current = chosen @ kernel  # [permutations, rows]
    inside = (to_current * chosen).sum(axis=1)
    across = to_current.sum(axis=1) - inside
    other = float(kernel.sum()) - inside - 2.0 * across
    found: Values = (
        (inside - m) / (m * (m - 1)) + (other - n) / (n * (n - 1)) - 2.0 * across / (m * n)
    )
    return found


def _effect(mmd2: float, kernel: Values, labels: Labels) -> float:
    """Root of mmd2 over the mean squared distance of the sides, 2 - 2 E k(reference, current)."""
    between = 2.0 - 2.0 * float(kernel[~labels][:, labels].mean())
    return math.sqrt(min(1.0, max(0.0, mmd2) / between)) if between > 0.0 else 0.0
