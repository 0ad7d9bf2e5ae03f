"""Gates: bounds of intervals against thresholds, with three verdicts. Pure: scores in, gates out.

A gate passes when the bound of its interval that speaks against the candidate keeps the threshold,
fails when the other bound misses it too, and is inconclusive in between, or when there are too few
prompts or no figure: only "pass" passes. So a pass and a fail each carry the interval's confidence,
and a small test set can produce neither (non-inferiority: Piaggio et al. 2012, "Reporting of
Noninferiority and Equivalence Randomized Trials", CONSORT extension).

All gates must pass, so a candidate that is worse in any one respect passes with at most the risk of
that one gate (Berger 1982, intersection-union tests). Over k candidates that are all worse the risk
that some one passes grows to at most k times it; the reports name every candidate that was tried.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from stages._scores import Score, Statistics

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Gate:
    """One gate's outcome; bounds are None where a figure has no interval, or is absent."""

    gate: str
    value: float | None
    low: float | None
    high: float | None
    threshold: float | None
    verdict: Verdict
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """The form in which decision.json carries it."""
        return asdict(self)

    def describe(self) -> str:
        """One line for people: gate, value, interval, threshold."""
        shown = "no figure" if self.value is None else f"{self.value:.4g}"
        bounds = "" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]"
        limit = "" if self.threshold is None else f" against {self.threshold:.4g}"
        return f"{self.gate} {shown}{bounds}{limit}: {self.verdict}, {self.reason}"


def at_least(
    name: str, score: Score, threshold: float, prompts: int, min_prompts: int, what: str
) -> Gate:
    """The interval's lower bound must reach the threshold; `what` names the figure in the reason.

    A loss is a fall of the score; the interval's lower half is the smallest loss that so many
    prompts tell from none.
    """
    turned = Score(-score.score, -score.high, -score.low, score.signature)
    gate = at_most(name, turned, -threshold, prompts, min_prompts, what)
    return replace(
        gate, value=score.score, low=score.low, high=score.high, threshold=float(threshold)
    )


def at_most(
    name: str, score: Score, threshold: float, prompts: int, min_prompts: int, what: str
) -> Gate:
    """The interval's upper bound must not exceed the threshold."""
    detectable = score.high - score.score
    told = f"{prompts} prompts can detect a loss of {detectable:.3g}"
    if score.low == score.high:
        told = f"no resample of {prompts} prompts differs"
    verdict: Verdict = "inconclusive"
    if prompts < min_prompts:
        reason = f"{told}, and a verdict needs {min_prompts} prompts"
    elif score.high <= threshold:
        verdict, reason = "pass", f"{what} keeps the threshold with the whole interval; {told}"
    elif score.low > threshold:
        verdict, reason = "fail", f"{what} misses the threshold with the whole interval; {told}"
    elif score.score <= threshold:
        reason = f"{told}, a pass needs {_prompts_needed(score, threshold, prompts)}"
    else:
        reason = f"{told}, and {what} itself misses the threshold, though not the whole interval"
    return Gate(name, score.score, score.low, score.high, float(threshold), verdict, reason)


def _prompts_needed(score: Score, threshold: float, prompts: int) -> str:
    """How many prompts would narrow the interval enough, as its width falls with their root."""
    room, half = threshold - score.score, score.high - score.score
    if room <= 0:
        return "a better value"
    return f"about {math.ceil(prompts * (half / room) ** 2):,} prompts of the same kind"


def no_rise(name: str, score: Score, tolerance: float, prompts: int, min_prompts: int) -> Gate:
    """No rise of what must not rise: a proven one fails however small, `at_most` for the rest.

    That nothing rose cannot be shown by any sample, so the tolerance says which rise must be
    excluded. A point below it does not pass by itself: on few prompts it always would.
    """
    gate = at_most(name, score, tolerance, prompts, min_prompts, "the rise")
    if prompts >= min_prompts and score.low > 0:
        return replace(gate, verdict="fail", reason="a rise is proven: the interval lies above 0")
    return gate


def ceiling(name: str, value: float | None, threshold: float) -> Gate:
    """A measured figure of a machine against its limit; it has no interval over prompts."""
    if value is None or not math.isfinite(value):
        return absent(name, threshold, "it was not measured")
    verdict: Verdict = "pass" if value <= threshold else "fail"
    reason = "within the limit" if value <= threshold else "above the limit"
    return Gate(name, float(value), None, None, float(threshold), verdict, reason)


def absent(name: str, threshold: float | None, reason: str) -> Gate:
    """A gate without its figure: inconclusive, since limits fail closed."""
    return Gate(name, None, None, None, threshold, "inconclusive", reason)


def itself(name: str, value: float, threshold: float) -> Gate:
    """A gate of the reference against itself, which no sample is needed for."""
    reason = "the reference itself, so nothing is lost"
    return Gate(name, value, value, value, float(threshold), "pass", reason)


def passed(gates: Sequence[Gate]) -> bool:
    """Whether every gate passed, and there was one."""
    return bool(gates) and all(gate.verdict == "pass" for gate in gates)


def widened_for_rare_errors(
    score: Score, ours: Statistics, theirs: Statistics, confidence: float
) -> Score:
    """A paired difference of error rates whose interval holds where hardly a prompt differs.

    A bootstrap draws no error that the sample does not have: with no prompt that differs its
    interval is [0, 0], on ten prompts as on ten thousand. So the interval is made at least as wide
    as the one from the counts b of prompts that got worse and c that got better: Poisson limits of
    each (Garwood 1936) joined by MOVER (Zou and Donner 2008, "Construction of confidence limits
    about effect measures"). b = c = 0 gives 3.69 errors at 95 %.

    Args:
        ours, theirs: rows [prompts, 2] of errors and slots, for the same prompts.
    """
    excess = ours.rows[:, 0] - theirs.rows[:, 0]
    worse, better = int((excess > 0).sum()), int((excess < 0).sum())
    size = float(np.abs(excess[excess != 0]).mean()) if worse + better else 1.0  # errors per change
    scale = size / max(float(theirs.rows[:, 1].sum()), 1.0)
    low_worse, high_worse = poisson_limits(worse, confidence)
    low_better, high_better = poisson_limits(better, confidence)
    below = math.hypot(worse - low_worse, high_better - better)
    above = math.hypot(high_worse - worse, better - low_better)
    low, high = (worse - better - below) * scale, (worse - better + above) * scale
    return replace(
        score,
        low=min(score.low, low),
        high=max(score.high, high),
        signature=f"{score.signature}|widened:mover-poisson",
    )


def poisson_limits(count: int, confidence: float) -> tuple[float, float]:
    """Exact limits of a Poisson mean after `count` events (Garwood 1936): gamma quantiles."""
    from scipy.special import gammaincinv

    tail = (1.0 - confidence) / 2.0
    low = float(gammaincinv(count, tail)) if count else 0.0
    return low, float(gammaincinv(count + 1, 1.0 - tail))
