"""One column, the texts or the vectors of two sides: a test, or why there is none.

A test is first made with few permutations. Only where these leave room for a small p-value is it
made again with all of them, so that a test of what has not changed costs a tenth. The p-value stays
valid: one at or below `SETTLED` needs the second test to say so, and one above it is no smaller
than the first test's own (compare J. Besag and P. Clifford 1991, "Sequential Monte Carlo p-values",
Biometrika 78:301-304).
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from stages._drift.classifier import ClassifierResult, domain_classifier
from stages._drift.features import Table, kind_of
from stages._drift.mmd import MmdResult, mmd
from stages._drift.two_samples import (
    CountsResult,
    NumericResult,
    compare_counts,
    compare_numbers,
    compare_shares,
)
from stages._drift.verdict import NotCompared, Test
from stages._kept_vectors import Vectors
from stages._params.drift import Drift

FIRST = 199
"""Permutations of the first test."""
SETTLED = 0.1
"""A first p-value above this is the test's."""
CLASSIFIER, MMD = "prompt_classifier", "prompt_vectors"
SAME = "the same everywhere"
QUANTILES = (0.1, 0.5, 0.9)

Result = TypeVar("Result", MmdResult, NumericResult, CountsResult)
Seed = tuple[int, ...]
Outcome = Test | NotCompared
Column = NDArray[np.float64]


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    table: Table
    vectors: Vectors
    """Of its texts, as far as they were encoded; empty: none."""


def try_texts(
    reference: Table, current: Table, settings: Drift, seed: Seed
) -> tuple[Outcome, ClassifierResult | None]:
    """Whether a classifier tells the prompts apart, and what it found; rows without text aside."""
    before, after = ([text for text in side.texts if text] for side in (reference, current))
    if not before or not after:
        return _without(CLASSIFIER, "text", len(before), len(after)), None
    found = domain_classifier(
        before,
        after,
        folds=settings.folds,
        permutations=settings.permutations,
        rng=_stream(seed, CLASSIFIER),
    )
    detail = {"effect_is": "area under the ROC curve", "folds": settings.folds}
    values = found.auc, found.p_value, found.auc, settings.floors.auc
    return Test(CLASSIFIER, "input", *values, len(before), len(after), detail), found


def try_vectors(reference: Side, current: Side, settings: Drift, seed: Seed) -> Outcome:
    """Whether the prompts that were encoded lie apart."""
    if not settings.embeddings:
        return NotCompared(MMD, "input", "drift.embeddings is false")
    before, after = _matrix(reference), _matrix(current)
    if not len(before) or not len(after):
        return _without(MMD, "text", len(before), len(after))

    def test(permutations: int, rng: np.random.Generator) -> MmdResult:
        most = settings.embedded_rows
        return mmd(before, after, permutations=permutations, rng=rng, most=most)

    found = _in_two_steps(test, settings, seed, MMD)
    detail = {"effect_is": "root of the inhomogeneity", "bandwidth": found.bandwidth}
    values = found.mmd2, found.p_value, found.effect, settings.floors.mmd
    return Test(MMD, "input", *values, found.n_reference, found.n_current, detail)


def try_numbers(
    name: str, reference: Table, current: Table, settings: Drift, seed: Seed
) -> Outcome:
    """Whether a column of numbers is distributed otherwise."""
    before, after = (_known(side.numbers[name]) for side in (reference, current))
    if reason := _untestable(name, before, after):
        return reason

    def test(permutations: int, rng: np.random.Generator) -> NumericResult:
        return compare_numbers(before, after, permutations=permutations, rng=rng)

    found = _in_two_steps(test, settings, seed, name)
    detail = {
        "effect_is": "Kolmogorov-Smirnov distance",
        "cliffs_delta": found.cliffs_delta,
        "quantiles": list(QUANTILES),
        "reference": _quantiles(before),
        "current": _quantiles(after),
    }
    return _as_test(name, found, settings.floors.distance, detail)


def try_shares(name: str, reference: Table, current: Table, settings: Drift) -> Outcome:
    """Whether something holds more or less often."""
    before, after = (_known(side.shares[name]) for side in (reference, current))
    if reason := _untestable(name, before, after):
        return reason
    found = compare_shares((one > 0 for one in before), (one > 0 for one in after))
    detail = {
        "effect_is": "difference of shares",
        "reference": found.reference,
        "current": found.current,
    }
    return _as_test(name, found, settings.floors.share, detail)


def try_counts(name: str, reference: Table, current: Table, settings: Drift, seed: Seed) -> Outcome:
    """Whether the names in a column come in other shares."""
    before, after = (_values(side, name) for side in (reference, current))
    if not before or not after:
        return _without(name, "values", len(before), len(after))
    different = {value for row in (*before, *after) for value in row}
    if len(different) == 1:
        return NotCompared(name, kind_of(name), f"{SAME}: {different.pop()}")

    def test(permutations: int, rng: np.random.Generator) -> CountsResult:
        return compare_counts(before, after, permutations=permutations, rng=rng)

    found = _in_two_steps(test, settings, seed, name)
    detail = {
        "effect_is": "total variation beyond chance",
        "distance": found.distance,
        "shares": [list(one) for one in found.shares],
    }
    return _as_test(name, found, settings.floors.names, detail)


def _as_test(name: str, found: Any, floor: float, detail: Mapping[str, Any]) -> Test:
    values = found.statistic, found.p_value, found.effect, floor
    return Test(name, kind_of(name), *values, found.n_reference, found.n_current, detail)


def _in_two_steps(
    test: Callable[[int, np.random.Generator], Result], settings: Drift, seed: Seed, name: str
) -> Result:
    """The result of few permutations where that settles it, else of all."""
    rng = _stream(seed, name)
    first = test(min(FIRST, settings.permutations), rng)
    if first.p_value > SETTLED or settings.permutations <= FIRST:
        return first
    return test(settings.permutations, rng)


def _stream(seed: Seed, name: str) -> np.random.Generator:
    """Draws of one test; another test more or less changes nothing about them."""
    return np.random.default_rng([*seed, zlib.crc32(name.encode())])


def _matrix(side: Side) -> NDArray[np.float32]:
    """Vectors of the rows whose text was encoded, shape [rows, width]."""
    found = [side.vectors[text] for text in side.table.texts if text in side.vectors]
    return np.stack(found) if found else np.zeros((0, 0), dtype=np.float32)


def _values(table: Table, name: str) -> list[tuple[str, ...]]:
    """Values of the rows that have any."""
    return [row for row in table.categories.get(name, []) if row]


def _known(column: Column) -> Column:
    return column[~np.isnan(column)]


def _quantiles(column: Column) -> list[float]:
    return [float(value) for value in np.quantile(column, QUANTILES)]


def _untestable(name: str, before: Column, after: Column) -> NotCompared | None:
    """Why a column cannot be compared; None where it can."""
    if not len(before) or not len(after):
        return _without(name, "values", len(before), len(after))
    pooled: Sequence[float] = np.unique(np.concatenate([before, after])).tolist()
    if len(pooled) > 1:
        return None
    return NotCompared(name, kind_of(name), f"{SAME}: {pooled[0]:g}")


def _without(name: str, what: str, before: int, after: int) -> NotCompared:
    kind = "input" if name in (CLASSIFIER, MMD) else kind_of(name)
    sides = [side for side, rows in (("reference", before), ("window", after)) if not rows]
    return NotCompared(name, kind, f"no {what} in the {' and in the '.join(sides)}")
