"""Who wins: figures of a machine, Pareto front, objective with ties, the incumbent. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from stages._gates import Gate, absent, ceiling, passed
from stages._params.select import Gates, Objective

Report = Mapping[str, Any]
Device = Literal["cpu", "cuda"]
CEILINGS: tuple[Objective, ...] = ("latency_p95_ms", "peak_memory_mb", "disk_mb")
QUALITY = {"bleu": -1.0, "slot_error_rate": 1.0}  # signed so that less is better
MACHINE = ("device", "threads", "processor", "cpu_flags", "hourly_price_usd")
COSTS: tuple[Objective, ...] = ("cost_per_1k_requests_usd", "peak_memory_mb")


@dataclass(frozen=True)
class Contender:
    """A candidate on one device: what it is, what it costs, how its gates came out."""

    name: str
    folder: str
    sha256: str
    """Digest of the model that was evaluated."""
    data_sha256: str
    """Of the test split."""
    scores: Mapping[str, Report]
    figures: Mapping[str, float | None]
    machine: Report
    """What the figures were measured on, and the price that cost is worked out from."""
    gates: Sequence[Gate] = field(default_factory=tuple)
    eligible: bool = True
    """Only the student and its variants can win."""
    noisy: bool = False
    """Whether the machine changed its speed during the benchmark."""
    answered_on: str | None = None
    """Device that made the answers its scores are of; None where it was not told."""

    @property
    def passed(self) -> bool:
        """Whether it can win and every gate passed."""
        return self.eligible and passed(self.gates)

    def to_dict(self) -> dict[str, Any]:
        """The form in which winner.json and a release carry a winner."""
        return {
            "candidate": self.name,
            "folder": self.folder,
            "model_sha256": self.sha256,
            "data_sha256": self.data_sha256,
            "scores": dict(self.scores),
            "figures": dict(self.figures),
            "machine": dict(self.machine),
        }


def figures_of(benchmark: Report | None) -> dict[str, float | None]:
    """The figures that objectives and ceilings name; None for what was not measured."""
    report = benchmark or {}
    found = {
        "cost_per_1k_requests_usd": report.get("cost_per_1k_requests_usd"),
        "latency_p95_ms": (report.get("latency_ms") or {}).get("p95"),
        "peak_memory_mb": report.get("peak_memory_mb"),
        "disk_mb": report.get("disk_mb"),
    }
    return {name: _finite(value) for name, value in found.items()}


def machine_of(benchmark: Report | None) -> dict[str, Any]:
    """What must be equal for times, memory and cost of two runs to be compared."""
    report = benchmark or {}
    facts = {key: report.get(key) for key in MACHINE}
    return {**facts, "gpu": (report.get("gpu") or {}).get("name")}


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < math.inf else None


def machine_gates(
    gates: Gates, figures: Mapping[str, float | None], objective: Objective
) -> list[Gate]:
    """Ceilings that are on, and that the objective was measured: nothing unmeasured can win."""
    limits = {name: getattr(gates, name) for name in CEILINGS}
    outcomes = [ceiling(n, figures[n], limit) for n, limit in limits.items() if limit is not None]
    value, name = figures[objective], f"{objective}_measured"
    if value is None:
        return [*outcomes, absent(name, None, "it was not measured, and it is the objective")]
    return [*outcomes, Gate(name, value, None, None, None, "pass", "the objective is known")]


def pareto_front(points: Mapping[str, Sequence[float]]) -> set[str]:
    """Names of the points that no other beats: nowhere worse and somewhere better (less)."""

    def beats(other: Sequence[float], point: Sequence[float]) -> bool:
        pairs = list(zip(other, point, strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return {
        name
        for name, point in points.items()
        if not any(beats(other, point) for other in points.values())
    }


def pareto(contenders: Sequence[Contender]) -> set[str]:
    """Front over quality (BLEU, slot errors), cost and memory; who lacks a figure is not on it.

    A metric that nobody has, such as slot errors of data without records, is no axis.
    """
    axes: dict[str, dict[str, float]] = {}
    for metric, sign in QUALITY.items():
        scores = {c.name: c.scores[metric]["score"] for c in contenders if metric in c.scores}
        axes[metric] = {name: sign * score for name, score in scores.items()}
    for cost in COSTS:
        costs = {c.name: c.figures[cost] for c in contenders}
        axes[cost] = {name: value for name, value in costs.items() if value is not None}
    measured = [axis for axis in axes.values() if axis]
    points = {
        c.name: [axis[c.name] for axis in measured]
        for c in contenders
        if all(c.name in axis for axis in measured)
    }
    return pareto_front(points)


def choose(
    passing: Sequence[Contender],
    objectives: Sequence[Objective],
    tie_share: float,
    incumbent: str | None,
) -> tuple[Contender, str]:
    """The one with the least objective; ties go to the incumbent, then to the next objective.

    Args:
        passing: at least one, each with a figure for the first objective.
        tie_share: figures within this share of the least one tie.
        incumbent: digest of the model that serves now, which nothing replaces for a tie.

    Returns:
        The winner and the words that say what decided.
    """
    left = list(passing)
    for number, objective in enumerate(objectives):
        values = [_or_infinite(c.figures[objective]) for c in left]
        least = min(values)
        tied = [c for c, v in zip(left, values, strict=True) if v <= least * (1.0 + tie_share)]
        stays = [c for c in tied if c.sha256 == incumbent]
        if number == 0 and stays:
            return stays[0], f"it serves now, and no other has less {objective} by {tie_share:.0%}"
        if len(tied) == 1:
            told = _told(tied[0], objective, left)
            return tied[0], f"it has the least {told}" if number == 0 else f"after a tie, {told}"
        left = tied
    names = ", ".join(c.name for c in left)
    return left[0], f"{names} tie in every objective, and it is named first"


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else value


def _told(winner: Contender, objective: Objective, among: Sequence[Contender]) -> str:
    others = [c for c in among if c is not winner]
    if not others:
        return f"{objective}, {winner.figures[objective]:.4g}, as the only one that passed"
    nearest = min(others, key=lambda c: _or_infinite(c.figures[objective]))
    behind = _or_infinite(nearest.figures[objective])
    return f"{objective}, {winner.figures[objective]:.4g} against {behind:.4g} of {nearest.name}"


def compare_with_incumbent(
    winner: Report, record: Report | None, objective: Objective, tie_share: float
) -> dict[str, str]:
    """Whether the winner should replace the model that serves now, and why.

    Figures of two runs are compared, not pairs of answers, since the incumbent's are not here: so
    a difference counts only where two intervals don't overlap, which is stricter than a paired
    test. Quality decides first; without a difference the winner must cost less by `tie_share`.

    Args:
        winner, record: as in winner.json; the record is None before the first release.

    Returns:
        `verdict`: first | same | replace | keep | not_comparable, and `reason`.
    """
    if record is None:
        return _said("first", "nothing was released yet")
    if record.get("model_sha256") == winner["model_sha256"]:
        return _said("same", "the winner is the model that serves now")
    if problem := _not_comparable(winner, record):
        return _said("not_comparable", problem)
    better, worse = [], []
    for metric, sign in QUALITY.items():
        if metric not in winner["scores"] or metric not in record.get("scores", {}):
            continue
        low, high = sorted(sign * winner["scores"][metric][k] for k in ("low", "high"))
        old = sorted(sign * record["scores"][metric][k] for k in ("low", "high"))
        better += [metric] if high < old[0] else []
        worse += [metric] if low > old[1] else []
    if worse:
        return _said("keep", f"the incumbent is better in {' and '.join(worse)}")
    if better:
        return _said("replace", f"the winner is better in {' and '.join(better)}")
    return _by_objective(winner, record, objective, tie_share)


def _said(verdict: str, reason: str) -> dict[str, str]:
    return {"verdict": verdict, "reason": reason}


def _not_comparable(winner: Report, record: Report) -> str | None:
    if not record.get("data_sha256") or record["data_sha256"] != winner["data_sha256"]:
        return "the incumbent was scored on another test split"
    shared = [m for m in QUALITY if m in winner["scores"] and m in record.get("scores", {})]
    if not shared:
        return "the incumbent's record has no score to compare"
    signed = [[side["scores"][m].get("signature") for m in shared] for side in (winner, record)]
    return None if signed[0] == signed[1] else "the incumbent was scored by another signature"


def _by_objective(
    winner: Report, record: Report, objective: Objective, tie_share: float
) -> dict[str, str]:
    ours, theirs = (_finite(side.get("figures", {}).get(objective)) for side in (winner, record))
    if ours is None or theirs is None:
        return _said("not_comparable", f"the incumbent's record has no {objective}")
    if objective != "disk_mb" and record.get("machine") != winner["machine"]:
        return _said("not_comparable", f"the incumbent's {objective} is of another machine")
    told = f"{objective} is {ours:.4g} against {theirs:.4g}, and no difference in quality is shown"
    if ours * (1.0 + tie_share) < theirs:
        return _said("replace", told)
    return _said("keep", f"{told}, which is no reason to change")
