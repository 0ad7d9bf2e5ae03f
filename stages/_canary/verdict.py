"""What the counts of a canary come to: promote, hold or roll back. Pure: no network, no clock.

A metric is `worse` once there is evidence that the challenger exceeds the champion by more than the
margin, and `within` once there is evidence that it does not. One that is worse is enough to roll
back, so each gets its part of alpha (Bonferroni). To promote, all must be within, and a challenger
outside of one margin is promoted only if that one test is wrong, so each has the whole of alpha
(intersection and union: Berger 1982, "Multiparameter hypothesis testing and acceptance sampling").
Latency needs more. A process that waits seconds for a core makes all requests of that time slow,
and they are one event, not a hundred: the split is drawn per request, the wait is not. So to roll
back for `slow`, the challenger must also be slower by more than the margin in most stretches of
time (`Stretches`), which one wait or two are not.

All of it needs the split to be the stated one, also of the answers that were checked for slot
errors: a metric whose own counts speak against that decides nothing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from stages._canary.evidence import (
    Counts,
    Split,
    log_evidence_above,
    log_evidence_below,
    log_evidence_most,
    log_evidence_split,
    lower_bound,
    upper_bound,
)
from stages._params.canary import Canary, Metric

Kind = Literal["open", "promote", "hold", "roll_back"]
State = Literal["open", "within", "worse"]
SPLIT_ALPHA = 0.001
"""Chance to doubt a split that is as stated: a doubt costs a whole canary."""


@dataclass(frozen=True)
class Arms:
    """One metric's counts since the warm-up."""

    champion: Counts
    challenger: Counts
    sent: tuple[int, int] | None = None
    """Requests that went to either, those under way included, which a slow arm has more of [count];
    None: the totals are all that is known."""
    stretches: tuple[int, int] | None = None
    """Those in which the challenger was worse by more than the margin, and the others [count];
    None: each request stands for itself."""


class Stretches:
    """Time cut into stretches, each as long as it takes both arms to end some requests."""

    REQUESTS = 20
    """Of either arm [count]: a share of them is known to 0.1."""

    def __init__(self, margin: float) -> None:
        """`margin`: what is above it is worse."""
        self._margin, self._since = margin, Arms(Counts(0, 0), Counts(0, 0))
        self.counts = (0, 0)
        """Worse and not worse."""

    def add(self, now: Arms) -> None:
        """The counts at one more look."""
        champion = now.champion - self._since.champion
        challenger = now.challenger - self._since.challenger
        if min(champion.total, challenger.total) < self.REQUESTS:
            return
        difference = challenger.bad / challenger.total - champion.bad / champion.total
        above, below = self.counts
        worse = difference > self._margin
        self.counts, self._since = (above + worse, below + (not worse)), now


@dataclass(frozen=True)
class Tested:
    """One metric, as it stands at a look."""

    name: Metric
    verdict: State
    margin: float
    arms: Arms
    split: Split
    alpha: float
    """Of the evidence to promote."""
    alpha_worse: float
    """Of the evidence to roll back."""

    @property
    def low(self) -> float:
        """The difference of the shares of bad requests is above it, at `alpha_worse`."""
        return lower_bound(self.alpha_worse, self.arms.champion, self.arms.challenger, self.split)

    @property
    def high(self) -> float:
        """The difference is below it, at `alpha`."""
        return upper_bound(self.alpha, self.arms.champion, self.arms.challenger, self.split)


@dataclass(frozen=True)
class Verdict:
    """What to do, and why."""

    kind: Kind
    reason: str
    tests: tuple[Tested, ...] = ()


def judge(
    counts: Mapping[Metric, Arms],
    centres: Mapping[Metric, float],
    rules: Canary,
    *,
    doubts: Sequence[str] = (),
    over: bool = False,
) -> Verdict:
    """The verdict at one look.

    Args:
        counts: of every metric that has a margin, since the warm-up.
        centres: shares of bad requests in the warm-up, of both arms together.
        doubts: reasons why what was counted cannot promote; it can still roll back.
        over: whether this is the last look.
    """
    margins = rules.margins.chosen()
    tests = tuple(
        look_at(name, counts[name], Split(rules.share, centres[name]), rules) for name in margins
    )
    worse = [test.name for test in tests if test.verdict == "worse"]
    if worse:
        told = f"the challenger is worse by more than the margin: {', '.join(worse)}"
        return Verdict("roll_back", told, tests)
    against = [*doubts, *_undecided(tests, rules)]
    if not against:
        return Verdict("promote", "the challenger is within all margins", tests)
    return Verdict("hold" if over else "open", "; ".join(against), tests)


def look_at(name: Metric, arms: Arms, split: Split, rules: Canary) -> Tested:
    """One metric against its margin."""
    margins = rules.margins.chosen()
    margin, alpha_worse = margins[name], rules.alpha / len(margins)
    seen = arms.champion, arms.challenger, split
    state: State = "open"
    if arms.champion.total and arms.challenger.total and not _is_doubted(arms, rules.share):
        worse = log_evidence_above(margin, *seen) >= -math.log(alpha_worse)
        if worse and arms.stretches is not None:
            worse = log_evidence_most(*arms.stretches) >= -math.log(rules.alpha)
        if worse:
            state = "worse"
        elif log_evidence_below(margin, *seen) >= -math.log(rules.alpha):
            state = "within"
    return Tested(name, state, margin, arms, split, rules.alpha, alpha_worse)


def _is_doubted(arms: Arms, share: float) -> bool:
    """Requests that reach the challenger by another rule than the stated one compare nothing."""
    return log_evidence_split(share, *_sent(arms)) >= -math.log(SPLIT_ALPHA)


def _sent(arms: Arms) -> tuple[int, int]:
    return arms.sent or (arms.champion.total, arms.challenger.total)


def _undecided(tests: Sequence[Tested], rules: Canary) -> list[str]:
    most = max((test.arms.challenger.total for test in tests), default=0)
    few = [f"{most} requests of the challenger, expected {rules.min_requests}"]
    still = [_told(test, rules.share) for test in tests if test.verdict == "open"]
    return [*(few if most < rules.min_requests else []), *still]


def _told(test: Tested, share: float) -> str:
    """Why a metric is not decided."""
    for arm, counts in (("champion", test.arms.champion), ("challenger", test.arms.challenger)):
        if counts.total == 0:
            return f"{test.name}: nothing was counted of the {arm}"
    if _is_doubted(test.arms, share):
        found = _sent(test.arms)[1] / sum(_sent(test.arms))
        return f"{test.name}: {found:.1%} went to the challenger, expected {share:.1%}"
    return f"{test.name}: not decided about the margin {test.margin:g}"
