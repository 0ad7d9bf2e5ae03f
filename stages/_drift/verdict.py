"""From tests to a verdict: an alarm needs a small corrected p-value and an effect that matters.

A p-value alone cries drift at any difference once there are rows enough; an effect alone cries
drift at chance while there are few. Input, output and quality drift are kept apart, as each asks
for something else to be done. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from stages._drift.multiple import adjusted

Kind = Literal["input", "output", "quality"]
Outcome = Literal["drift", "no_evidence", "too_few_rows", "not_compared"]
"""not_compared: nothing of that kind could be tested, for other reasons than too few rows."""
KINDS: tuple[Kind, ...] = ("input", "output", "quality")
TOO_FEW = "too few rows"
LEAST = ("effect", "n_reference", "n_current")


@dataclass(frozen=True)
class Test:
    """One comparison of reference and current rows."""

    name: str
    kind: Kind
    statistic: float
    p_value: float
    """Of this test alone, before the others are looked at."""
    effect: float
    """How large the difference is, in a measure that does not grow with the number of rows."""
    floor: float
    """An effect up to here is not worth an alarm."""
    n_reference: int
    n_current: int
    """Rows on each side that had something to compare."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """What else is worth showing."""


@dataclass(frozen=True)
class Judged:
    """A test among all others."""

    test: Test
    p_adjusted: float
    alarm: bool


@dataclass(frozen=True)
class NotCompared:
    """Something that could have drifted and was not tested."""

    name: str
    kind: Kind
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What all tests together say."""

    outcome: Outcome
    kinds: dict[Kind, Outcome]
    judged: tuple[Judged, ...]
    """In the order of the tests."""
    not_compared: tuple[NotCompared, ...]


def judge(tests: Sequence[Test], alpha: float) -> list[Judged]:
    """Correct p-values over all tests; alarm = p_adjusted < alpha and effect > floor."""
    corrected = adjusted([test.p_value for test in tests])
    return [
        Judged(test, p, p < alpha and test.effect > test.floor)
        for test, p in zip(tests, corrected, strict=True)
    ]


def reach_verdict(
    tests: Sequence[Test], not_compared: Sequence[NotCompared], alpha: float, min_rows: int
) -> Verdict:
    """Judge the tests that have `min_rows` on both sides; the others are named, not judged."""
    enough = [test for test in tests if _rows(test) >= min_rows]
    few = [_too_few(test, min_rows) for test in tests if _rows(test) < min_rows]
    judged, left_out = tuple(judge(enough, alpha)), (*not_compared, *few)
    kinds = {kind: _outcome(kind, judged, left_out) for kind in KINDS}
    return Verdict(_strongest(list(kinds.values())), kinds, judged, left_out)


def weaker_of(over_rows: Sequence[Test], over_distinct: Sequence[Test]) -> list[Test]:
    """Of each test over all rows and over each side's distinct texts, the larger p-value.

    Both must see drift. Over rows is right where rows come independently, over distinct texts where
    a text's copies come together; nobody knows which it was, and each is wrong in the other's case.
    The smaller effect and the smaller numbers of rows count, so that one text sent 200 times is too
    few rows. A test in one list alone stays as it is. Order: that of `over_rows`, then the rest.
    """
    distinct = {test.name: test for test in over_distinct}
    result = []
    for test in over_rows:
        other = distinct.pop(test.name, test)
        weaker = other if other.p_value > test.p_value else test
        by = {"p_value_over_rows": test.p_value, "p_value_over_distinct": other.p_value}
        least = {name: min(getattr(test, name), getattr(other, name)) for name in LEAST}
        result.append(replace(weaker, **least, detail={**weaker.detail, **by}))
    return result + list(distinct.values())


def _rows(test: Test) -> int:
    return min(test.n_reference, test.n_current)


def _too_few(test: Test, min_rows: int) -> NotCompared:
    reason = (
        f"{TOO_FEW}: found {test.n_reference} reference and {test.n_current} current ones, "
        f"expected at least {min_rows} of each"
    )
    return NotCompared(test.name, test.kind, reason)


def _outcome(kind: Kind, judged: Sequence[Judged], left_out: Sequence[NotCompared]) -> Outcome:
    mine = [one for one in judged if one.test.kind == kind]
    if mine:
        return "drift" if any(one.alarm for one in mine) else "no_evidence"
    few = any(one.kind == kind and one.reason.startswith(TOO_FEW) for one in left_out)
    return "too_few_rows" if few else "not_compared"


def _strongest(outcomes: Sequence[Outcome]) -> Outcome:
    """The overall outcome: drift of any kind is drift; nothing compared at all is too few rows."""
    if "drift" in outcomes:
        return "drift"
    return "no_evidence" if "no_evidence" in outcomes else "too_few_rows"
