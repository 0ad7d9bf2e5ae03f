"""Whether to retrain: verdicts of windows in time, and the brakes. Pure: no file, no clock.

One window in drift is no reason to train: of many windows some alarm by chance, and traffic that
was odd for a day is normal again. So k of the last n windows must be in drift, the newest among
them, as monitoring rules have it (a violated newest window, and k violated ones of n). Then there
must be something to learn from, and three brakes must let go: the same window is never taken twice,
retrainings keep a distance, and a week has a budget of them. Every outcome says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from stages._params.watch import Watch

Verdict = Literal["drift", "no_evidence", "too_few_rows"]
Ending = Literal["promoted", "refused", "failed"]
Kind = Literal["nothing", "wait", "no_new_labels", "cooling_down", "over_budget", "retrain"]
WEEK = timedelta(days=7)


@dataclass(frozen=True)
class Watched:
    """A window and the verdict on it."""

    window: str
    first: datetime
    last: datetime
    """Times of its first and last row, with their zone."""
    verdict: Verdict


@dataclass(frozen=True)
class Attempt:
    """A retraining that was started."""

    window: str
    last: datetime
    """Time of the window's last row."""
    gold_sha256: str | None
    """Of the gold that it had, None without any."""
    started: datetime
    ending: Ending | None
    """None: it never ended, or still runs."""


@dataclass(frozen=True)
class Labels:
    """What the newest window has to learn from and to measure with."""

    prompts: int
    """Prompts with text that the present models did not learn from; the teacher answers them."""
    gold: int
    """Those of such prompts that have references."""
    gold_sha256: str | None = None
    """Of the file with the references, None without one."""


@dataclass(frozen=True)
class History:
    """All that is known: verdicts and attempts in the order in which they were written."""

    windows: Sequence[Watched]
    attempts: Sequence[Attempt]
    labels: Labels


@dataclass(frozen=True)
class Outcome:
    """What to do, about which window, and why."""

    kind: Kind
    window: str | None
    reason: str
    until: datetime | None = None
    """When a brake lets go, where time alone releases it."""


def decide(history: History, now: datetime, rules: Watch) -> Outcome:
    """What to do about the newest window; the first of all reasons against retraining counts.

    Args:
        now: with its zone.
    """
    windows = in_order(history.windows)
    if not windows:
        return Outcome("nothing", None, "no window was watched yet")
    newest = windows[-1]
    reasons = (
        _no_drift(newest),
        _already_done(newest, history),
        _too_few_alarms(windows, history.attempts, rules),
        _no_new_labels(newest, history.labels, rules),
        _cooling_down(newest, history.attempts, now, rules),
        _over_budget(newest, history.attempts, now, rules),
    )
    against = next((reason for reason in reasons if reason is not None), None)
    return against or Outcome("retrain", newest.window, _alarm(windows, history.attempts, rules))


def in_order(windows: Sequence[Watched]) -> list[Watched]:
    """Each window once, by the time of its last row; of equal ones by the order of writing."""
    once: dict[str, Watched] = {}
    for window in windows:
        once.setdefault(window.window, window)
    return sorted(once.values(), key=lambda window: (window.last, window.first))


def _no_drift(newest: Watched) -> Outcome | None:
    if newest.verdict == "drift":
        return None
    told = "has too few rows for a verdict" if newest.verdict == "too_few_rows" else "shows none"
    return Outcome("nothing", newest.window, f"the newest window, {newest.window}, {told}")


def _already_done(newest: Watched, history: History) -> Outcome | None:
    """A window is done once it was promoted or refused; more gold makes it another attempt."""
    for attempt in reversed(history.attempts):
        same = (attempt.window, attempt.gold_sha256) == (newest.window, history.labels.gold_sha256)
        if same and attempt.ending in ("promoted", "refused"):
            told = f"{newest.window} was retrained on already, and {attempt.ending}"
            return Outcome("nothing", newest.window, told)
    return None


def _counted(windows: Sequence[Watched], attempts: Sequence[Attempt]) -> list[Watched]:
    """Windows with a verdict that are newer than the last one that a new model has learned."""
    learned = [attempt.last for attempt in attempts if attempt.ending == "promoted"]
    return [
        window
        for window in windows
        if window.verdict != "too_few_rows" and (not learned or window.last > max(learned))
    ]


def _tally(
    windows: Sequence[Watched], attempts: Sequence[Attempt], rules: Watch
) -> tuple[int, int]:
    """Windows in drift, and windows that were looked at."""
    recent = _counted(windows, attempts)[-rules.windows :]
    return sum(window.verdict == "drift" for window in recent), len(recent)


def _too_few_alarms(
    windows: Sequence[Watched], attempts: Sequence[Attempt], rules: Watch
) -> Outcome | None:
    newest = windows[-1]
    if newest not in _counted(windows, attempts):
        told = f"{newest.window} is not newer than the window that was promoted last"
        return Outcome("nothing", newest.window, told)
    alarms, looked_at = _tally(windows, attempts, rules)
    if alarms >= rules.alarms:
        return None
    told = f"{alarms} of the last {looked_at} windows in drift; it takes {rules.alarms} of "
    return Outcome("wait", newest.window, told + f"{rules.windows}")


def _alarm(windows: Sequence[Watched], attempts: Sequence[Attempt], rules: Watch) -> str:
    alarms, looked_at = _tally(windows, attempts, rules)
    return f"{alarms} of the last {looked_at} windows in drift, the newest among them"


def _no_new_labels(newest: Watched, labels: Labels, rules: Watch) -> Outcome | None:
    lacking = []
    if labels.prompts < rules.min_prompts:
        lacking.append(f"{labels.prompts} new prompts with text (at least {rules.min_prompts})")
    if labels.gold < rules.min_gold:
        lacking.append(f"{labels.gold} new prompts with gold (at least {rules.min_gold})")
    if not lacking:
        return None
    return Outcome("no_new_labels", newest.window, f"drift, but {' and '.join(lacking)}")


def _cooling_down(
    newest: Watched, attempts: Sequence[Attempt], now: datetime, rules: Watch
) -> Outcome | None:
    ended = [attempt for attempt in attempts if attempt.ending in ("promoted", "refused")]
    if not ended:
        return None
    last = max(ended, key=lambda attempt: attempt.started)
    until = last.started + timedelta(hours=rules.cool_down_hours)
    if now >= until:
        return None
    told = f"the last retraining, on {last.window}, began {_shown(last.started)}"
    told += f"; the next may begin {_shown(until)}"
    return Outcome("cooling_down", newest.window, told, until)


def _over_budget(
    newest: Watched, attempts: Sequence[Attempt], now: datetime, rules: Watch
) -> Outcome | None:
    budget = rules.retrainings_per_week
    recent = sorted(one.started for one in attempts if one.started > now - WEEK)
    if len(recent) < budget:
        return None
    told = f"{len(recent)} retrainings within seven days, the budget is {budget}"
    until = recent[-budget] + WEEK if budget else None
    return Outcome("over_budget", newest.window, told, until)


def _shown(time: datetime) -> str:
    return time.isoformat(sep=" ", timespec="minutes")
