"""How sure is sure enough: a threshold whose error bound holds after it was chosen. Pure.

Answers are put in order, surest first. The bound of one fixed set of k answers is Clopper and
Pearson's: the largest error rate at which so few errors would still be seen with probability delta
(C. J. Clopper and E. S. Pearson 1934, "The use of confidence or fiducial limits illustrated in the
case of the binomial", Biometrika 26:404-413). Looking at many k and taking the largest that passes
is many chances to be lucky, so that each must pass at a smaller level. That is what Learn then Test
(Angelopoulos, Bates, Candès, Jordan and Lei 2021, arXiv 2110.01052) and SGR (Geifman and El-Yaniv
2017, "Selective classification for deep neural networks", NeurIPS) correct for, by testing in a
fixed sequence or by splitting delta. Here every step has one level, the largest at which a sequence
whose every answer is wrong with probability alpha would pass at any step with probability delta:
worked out exactly, step by step, as for repeated looks at a growing sample (Pocock 1977, "Group
sequential methods in the design and analysis of clinical trials", Biometrika 64:191-199). Steps
share most of their answers, so this level is two to five times that of splitting delta evenly.

It is exact where answers that score less are wrong no less often: those above the point where the
error rate reaches alpha are then wrong at a rate of alpha, those below it at alpha or more, so that
wherever the true rate is above alpha there are at least as many errors as in that sequence.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv  # scipy.stats takes a second to import

STEPS = 40
"""Numbers of accepted answers that are looked at. On 5 shapes of error, 3 ceilings and 300 to 600
answers, 40 mostly accepted more than 12, than SGR, and than Learn then Test's fixed sequence from
where no error could pass, which one unlucky error at the start ends. Where the share of errors
rises steeply, that sequence is ahead by up to 0.14: it tests each step at all of delta."""
PRECISION = 1e-2  # of the level, relative

Scores = NDArray[np.float64]
"""A score per answer, shape [answers]; higher is surer."""
Wrong = NDArray[np.bool_]
"""Whether each answer is wrong, shape [answers]."""


@dataclass(frozen=True)
class Step:
    """What accepting every answer with a score of `threshold` or more comes to."""

    threshold: float
    accepted: int
    errors: int
    bound: float
    """Upper bound of the error rate at the level of every step."""


@dataclass(frozen=True)
class Choice:
    """The threshold, and every step that was looked at."""

    step: Step | None
    """The last one whose bound is at most alpha; None where there is none."""
    steps: tuple[Step, ...]
    level: float
    """Probability of error that each step was tested at; 0 where none could pass."""


def upper_bound(errors: int, trials: int, delta: float) -> float:
    """Largest error rate that so few errors do not exclude at `delta`, one-sided."""
    if errors >= trials:
        return 1.0
    return float(betaincinv(errors + 1, trials - errors, 1.0 - delta))


def interval(errors: int, trials: int, confidence: float) -> tuple[float, float]:
    """Two-sided interval of an error rate, tails of equal size; (0, 1) of no trials."""
    tail = (1.0 - confidence) / 2.0
    low = float(betaincinv(errors, trials - errors + 1, tail)) if errors else 0.0
    return low, upper_bound(errors, trials, tail)


def fewest_answers(alpha: float, delta: float) -> int:
    """Answers of which none may be wrong, to show a rate of at most `alpha`; (1-alpha)^n <= delta.

    `alpha` lies strictly between 0 and 1.
    """
    return math.ceil(math.log(delta) / math.log1p(-alpha))


def most_errors(trials: int, alpha: float, level: float) -> int:
    """Most errors whose bound at `level` is at most `alpha`; -1 where not even none is enough."""
    return int((_cumulative(trials, alpha) <= level).sum()) - 1


def passing_probability(trials: Sequence[int], allowed: Sequence[int], alpha: float) -> float:
    """Probability that at any step the errors are no more than allowed, at a rate of `alpha`.

    Args:
        trials: answers up to each step, rising [count].
        allowed: most errors that pass there.
    """
    alive, total, before = np.ones(1), 0.0, 0  # alive[e]: e errors, and no step passed yet
    for count, most in zip(trials, allowed, strict=True):
        more = np.diff(_cumulative(count - before, alpha), prepend=0.0)
        alive, before = np.convolve(alive, more), count
        total += float(alive[: most + 1].sum())
        alive[: most + 1] = 0.0
    return total


@cache  # a calibration that is repeated on as many answers looks at the same steps
def common_level(trials: tuple[int, ...], alpha: float, delta: float) -> float:
    """The largest level of every step at which any passes with probability `delta` at most."""
    cumulative = [_cumulative(count, alpha) for count in trials]

    def passes(level: float) -> float:
        allowed = [int((below <= level).sum()) - 1 for below in cumulative]
        return passing_probability(trials, allowed, alpha)

    low, high = delta / len(trials), delta  # splitting evenly always holds
    if passes(high) <= delta:
        return high
    while high - low > PRECISION * low:
        middle = (low + high) / 2.0
        low, high = (middle, high) if passes(middle) <= delta else (low, middle)
    return low


def choose_threshold(scores: Scores, wrong: Wrong, alpha: float, delta: float) -> Choice:
    """The least threshold whose accepted answers are wrong at a rate of at most `alpha`.

    With probability 1 - `delta` over calibration sets that holds for the threshold that is chosen.
    Answers with equal scores are accepted together. Levels follow from scores alone, never from
    which answers are wrong.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, errors = scores[order], np.cumsum(wrong[order])
    counts = _counts(ranked, alpha, delta)
    if not counts:
        return Choice(None, (), 0.0)
    level = common_level(tuple(counts), alpha, delta) if alpha < 1.0 else delta
    steps = []
    for count in counts:
        found = int(errors[count - 1])
        bound = upper_bound(found, count, level)
        steps.append(Step(float(ranked[count - 1]), count, found, bound))
    passing = [step for step in steps if step.bound <= alpha]
    return Choice(passing[-1] if passing else None, tuple(steps), level)


def _counts(ranked: Scores, alpha: float, delta: float) -> list[int]:
    """Numbers of accepted answers to look at: from where none wrong could pass, to all of them."""
    answers = len(ranked)
    if answers == 0 or alpha <= 0.0:
        return []
    start = fewest_answers(alpha, delta) if alpha < 1.0 else answers
    if start > answers:
        return []
    planned = np.geomspace(start, answers, STEPS).round().astype(int)
    # an answer that scores as much as the last accepted one is accepted too
    whole = np.searchsorted(-ranked, -ranked[planned - 1], side="right")
    return [int(count) for count in np.unique(whole)]


def _cumulative(trials: int, rate: float) -> NDArray[np.float64]:
    """Binomial probability of at most 0, 1, … `trials` errors."""
    return np.asarray(bdtr(np.arange(trials + 1), trials, rate), dtype=np.float64)
