"""A canary from its first look to its verdict: warm-up, then the tests at every look."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from stages._canary.arms import Arm, Asking, Reading
from stages._canary.series import Tally, UnreadableError, choose_limit, counts_of
from stages._canary.verdict import Arms, Kind, Stretches, Verdict, judge
from stages._params.canary import Canary, Metric

MOST_UNREAD = 6
"""Looks in a row: then it ends, for nobody should be sent to a challenger that has died."""


@dataclass(frozen=True)
class Basis:
    """What the warm-up has fixed."""

    champion: Reading
    challenger: Reading
    """What was counted until then counts no more."""
    limit_s: float
    """What takes longer is slow [s]."""
    centres: Mapping[Metric, float]
    stretches: Stretches
    """Of `slow` since then."""


@dataclass(frozen=True)
class Look:
    """One look at both arms."""

    seconds: float
    """Since the start."""
    champion: int
    challenger: int
    """Requests since the warm-up, in the warm-up since the start [count]."""
    verdict: Verdict


@dataclass(frozen=True)
class Watched:
    """All that a canary has seen."""

    looks: tuple[Look, ...]
    basis: Basis | None
    """None: the warm-up never ended."""

    @property
    def verdict(self) -> Verdict:
        """The last look's."""
        return self.looks[-1].verdict


def watch_arms(
    champion: Arm,
    challenger: Arm,
    asking: Asking,
    rules: Canary,
    tell: Callable[[Look], None],
    clock: Callable[[], float] = time.monotonic,
) -> Watched:
    """Look at both arms until there is a verdict, or one of them cannot be read any more.

    Args:
        tell: called with every look.
        clock: seconds from any beginning.

    Raises:
        StillhouseError: the first look failed, or an arm serves another model than it should.
    """
    started = clock()
    looks: list[Look] = []
    basis, unread, missed = None, None, 0
    while not looks or looks[-1].verdict.kind == "open":
        try:
            seen = asking.look()
            readings, unread, missed = (champion.read(seen), challenger.read(seen)), None, 0
        except UnreadableError as error:
            if not looks:
                raise
            unread, missed = str(error), missed + 1
        if basis is None and unread is None:
            basis = find_basis(*readings, rules)
        seconds = clock() - started
        over = seconds >= 60.0 * rules.minutes or missed == MOST_UNREAD
        doubts = [*([unread] if unread else []), *_restarts(challenger)]
        looks.append(_look(seconds, readings, basis, rules, doubts, over=over))
        tell(looks[-1])
        if looks[-1].verdict.kind == "open":
            time.sleep(rules.look_s)
    return Watched(tuple(looks), basis)


def find_basis(champion: Reading, challenger: Reading, rules: Canary) -> Basis | None:
    """What the warm-up fixes; None while it has too few requests of the champion."""
    if _ended(champion.counted) < rules.warm_up_requests:
        return None
    limit_s = choose_limit(champion.counted, rules.slow_share)
    centres: dict[Metric, float] = {}
    for metric in rules.margins.chosen():
        seen = counts_of(metric, champion.counted, limit_s)
        seen += counts_of(metric, challenger.counted, limit_s)
        centres[metric] = (seen.bad + 0.5) / (seen.total + 1.0)  # Jeffreys, never 0 or 1
    stretches = Stretches(rules.margins.slow or 0.0)
    return Basis(champion, challenger, limit_s, centres, stretches)


def _look(
    seconds: float,
    readings: tuple[Reading, Reading],
    basis: Basis | None,
    rules: Canary,
    doubts: list[str],
    *,
    over: bool,
) -> Look:
    if basis is None:
        champion, challenger = (_ended(reading.counted) for reading in readings)
        told = f"warm-up: {champion} requests of the champion, expected {rules.warm_up_requests}"
        kind: Kind = "hold" if over else "open"
        return Look(seconds, champion, challenger, Verdict(kind, "; ".join([*doubts, told])))
    ours = _since(readings[0], basis.champion)
    theirs = _since(readings[1], basis.challenger)
    champion, challenger = _ended(ours.counted), _ended(theirs.counted)
    sent = champion + ours.under_way, challenger + theirs.under_way
    counts = {
        metric: Arms(
            counts_of(metric, ours.counted, basis.limit_s),
            counts_of(metric, theirs.counted, basis.limit_s),
            sent=None if metric == "slot_errors" else sent,
        )
        for metric in rules.margins.chosen()
    }
    if "slow" in counts:
        basis.stretches.add(counts["slow"])
        counts["slow"] = replace(counts["slow"], stretches=basis.stretches.counts)
    verdict = judge(counts, basis.centres, rules, doubts=doubts, over=over)
    return Look(seconds, champion, challenger, verdict)


def _ended(tally: Tally) -> int:
    return counts_of("errors", tally, 0.0).total


def _since(now: Reading, before: Reading) -> Reading:
    counted = {key: value - before.counted.get(key, 0) for key, value in now.counted.items()}
    return Reading(counted, now.under_way - before.under_way)


def _restarts(challenger: Arm) -> list[str]:
    if not challenger.restarts:
        return []
    return [
        f"the challenger was restarted ({challenger.restarts}), and what it last did is unknown"
    ]
