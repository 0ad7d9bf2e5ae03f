"""All tests of one comparison, and the verdict that they come to.

Where prompts repeat, everything is compared twice, over rows and over each side's different
prompts, and the weaker result counts (`verdict.weaker_of`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stages._drift.classifier import ClassifierResult
from stages._drift.comparing import (
    SAME,
    Seed,
    Side,
    try_counts,
    try_numbers,
    try_shares,
    try_texts,
    try_vectors,
)
from stages._drift.features import Table, distinct_places
from stages._drift.verdict import (
    KINDS,
    TOO_FEW,
    Judged,
    Kind,
    NotCompared,
    Outcome,
    Test,
    Verdict,
    reach_verdict,
    weaker_of,
)
from stages._params.drift import Drift


@dataclass(frozen=True)
class Compared:
    """What came of comparing two sides."""

    verdict: Verdict
    classifier: ClassifierResult | None
    """Of the rows with text, reference first; None where it was not run."""


def compare(reference: Side, current: Side, settings: Drift, seed: Seed) -> Compared:
    """The verdict on `current`; the same arguments give the same.

    Args:
        seed: of all draws; each test has its own stream, named by the seed and the test.
    """
    places = distinct_places(reference.table), distinct_places(current.table)
    if min(len(one) for one in places) < settings.min_rows:
        return Compared(_too_few(len(places[0]), len(places[1]), settings.min_rows), None)
    tests, missing, classifier = run_tests(reference, current, settings, seed)
    if any(len(p) < len(s.table) for p, s in zip(places, (reference, current), strict=True)):
        once = [
            Side(side.table.take(kept), side.vectors)
            for kept, side in zip(places, (reference, current), strict=True)
        ]
        tests = weaker_of(tests, run_tests(once[0], once[1], settings, (*seed, 1))[0])
    verdict = reach_verdict(tests, missing, settings.alpha, settings.min_rows)
    return Compared(_with_constants(verdict), classifier)


def run_tests(
    reference: Side, current: Side, settings: Drift, seed: Seed
) -> tuple[list[Test], list[NotCompared], ClassifierResult | None]:
    """Every test that two sides allow, and what they do not."""
    pair: tuple[Table, Table] = reference.table, current.table
    texts, classifier = try_texts(*pair, settings, seed)
    names = dict.fromkeys([*pair[0].categories, *pair[1].categories])
    outcomes: list[Test | NotCompared] = [
        texts,
        try_vectors(reference, current, settings, seed),
        *(try_numbers(name, *pair, settings, seed) for name in pair[0].numbers),
        *(try_shares(name, *pair, settings) for name in pair[0].shares),
        *(try_counts(name, *pair, settings, seed) for name in names),
    ]
    tests = [one for one in outcomes if isinstance(one, Test)]
    missing = [one for one in outcomes if isinstance(one, NotCompared)]
    return tests, missing, classifier


def alarms(judged: Sequence[Judged]) -> list[Judged]:
    """Tests that raise an alarm, those furthest above their floor first."""
    raised = [one for one in judged if one.alarm]
    return sorted(raised, key=lambda one: (-_excess(one.test), one.test.p_value, one.test.name))


def _excess(test: Test) -> float:
    """How far an effect is above its floor, as a share of what is left above it."""
    return (test.effect - test.floor) / (1.0 - test.floor) if test.floor < 1.0 else 0.0


def _with_constants(verdict: Verdict) -> Verdict:
    """A kind of which all that is known is the same on both sides shows no drift either.

    Such columns are no tests: they cannot alarm, and would make the others' p-values larger.
    """
    same = {one.kind for one in verdict.not_compared if one.reason.startswith(SAME)}
    kinds: dict[Kind, Outcome] = {
        kind: "no_evidence"
        if outcome in ("not_compared", "too_few_rows") and kind in same
        else outcome
        for kind, outcome in verdict.kinds.items()
    }
    nothing = verdict.outcome == "too_few_rows" and "no_evidence" in kinds.values()
    return replace(verdict, kinds=kinds, outcome="no_evidence" if nothing else verdict.outcome)


def _too_few(reference: int, current: int, least: int) -> Verdict:
    reason = (
        f"{TOO_FEW}: found {reference} different reference prompts and {current} in the window, "
        f"expected at least {least} of each"
    )
    missing = tuple(NotCompared("everything", kind, reason) for kind in KINDS)
    return Verdict("too_few_rows", dict.fromkeys(KINDS, "too_few_rows"), (), missing)
