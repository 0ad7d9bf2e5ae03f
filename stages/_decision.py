"""The decision per device: winners, failed gates, Pareto front, incumbent, and the reason. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from stages._forgetting import compare_retrained
from stages._gates import Gate
from stages._params.select import Select
from stages._releases import Record
from stages._selection import (
    Contender,
    Device,
    choose,
    compare_with_incumbent,
    pareto,
)

SCORES = ("bleu", "slot_error_rate", "wrong", "semantic_similarity", "hallucination_rate")
Standing = Mapping[str, Any]
"""A winner as winner.json and the record of its release hold it."""
Contenders = Mapping[Device, Sequence[Contender]]


@dataclass(frozen=True)
class Retraining:
    """The model in force among the candidates, and what each other one shows against it."""

    sha256: str
    gates: Mapping[str, Sequence[Gate]]
    """By candidate (stages/_forgetting.py)."""


@dataclass(frozen=True)
class Decision:
    """What was decided, before files know of it."""

    winners: Mapping[Device, Contender | None]
    candidates: Sequence[Mapping[str, Any]]
    incumbent: Mapping[str, Any] | None
    objectives: Sequence[str]
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """The form in which decision.json carries it."""
        names = {device: winner and winner.name for device, winner in self.winners.items()}
        return {
            "winners": {"cpu": None, "cuda": None, **names},
            "candidates": list(self.candidates),
            "incumbent": self.incumbent,
            "objectives": list(self.objectives),
            "reason": self.reason,
        }


def decide(
    settings: Select,
    contenders: Contenders,
    record: Record | None,
    retraining: Retraining | None = None,
) -> Decision:
    """Choose a winner on every device that has contenders; None where none passes.

    Args:
        record: the release in force, None before the first.
        retraining: what is known of it on the same prompts, where it is a candidate.
    """
    winners: dict[Device, Contender | None] = {}
    reasons: list[str] = []
    incumbent: dict[str, Any] = {}
    for device, found in contenders.items():
        standing = cast(Standing | None, record and record["winners"].get(device))
        winner, reason = _choose(settings, device, found, standing)
        winners[device] = winner
        if winner is not None and record is not None:
            compared = _compare(settings, winner, standing, retraining)
            incumbent[device] = {**_named(standing), **compared}
            reason += f" Against release {record['serves']}: {compared['reason']}."
        reasons.append(reason)
    return Decision(
        winners=winners,
        candidates=[
            _candidate(device, contender, front)
            for device, found in contenders.items()
            for front in [pareto(found)]
            for contender in found
        ],
        incumbent=_head(record) | incumbent if record is not None else None,
        objectives=settings.objectives,
        reason=" ".join(reasons),
    )


def _compare(
    settings: Select, winner: Contender, standing: Standing | None, retraining: Retraining | None
) -> dict[str, str]:
    """The winner against what serves: pair by pair where both answered, else figure by figure."""
    objective, tie = settings.objectives[0], settings.tie_share
    compared = compare_with_incumbent(winner.to_dict(), standing, objective, tie)
    serves = standing["model_sha256"] if standing else None
    if retraining is None or retraining.sha256 != serves or compared["verdict"] == "same":
        return compared
    return compare_retrained(retraining.gates[winner.name])


def _choose(
    settings: Select,
    device: Device,
    found: Sequence[Contender],
    standing: Standing | None,
) -> tuple[Contender | None, str]:
    passing = [contender for contender in found if contender.passed]
    if not passing:
        told = "; ".join(
            f"{c.name}: {', '.join(_short(gate) for gate in _failed(c))}"
            for c in found
            if c.eligible
        )
        return None, f"No candidate passed every gate on {device}: {told or 'there is none'}."
    serving = standing["model_sha256"] if standing else None
    winner, why = choose(passing, settings.objectives, settings.tie_share, serving)
    names = ", ".join(contender.name for contender in passing)
    noisy = ", ".join(contender.name for contender in passing if contender.noisy)
    doubt = f" The machine was busy while it measured {noisy}: benchmark again." if noisy else ""
    if winner.answered_on not in (None, device):
        doubt += (
            f" Its scores are of answers made on {winner.answered_on}: set run.device to {device} "
            f"and answer again before it ships there."
        )
    return winner, f"On {device} {winner.name} wins: {why} (passed: {names}).{doubt}"


def _head(record: Record) -> dict[str, Any]:
    """The record that was compared with, and the release whose models it says are in force."""
    return {"release": record["release"], "serves": record["serves"]}


def _named(standing: Standing | None) -> dict[str, Any]:
    """What identifies the incumbent; its figures are in its release's record."""
    return {key: (standing or {}).get(key) for key in ("candidate", "model_sha256")}


def _candidate(device: Device, contender: Contender, front: set[str]) -> dict[str, Any]:
    return {
        "name": contender.name,
        "device": device,
        "eligible": contender.eligible,
        "passed": contender.passed,
        "failed": [gate.to_dict() for gate in _failed(contender)],
        "pareto": contender.name in front,
        "noisy": contender.noisy,
        "answered_on": contender.answered_on,
        "model_sha256": contender.sha256,
        "figures": dict(contender.figures),
        "gates": [gate.to_dict() for gate in contender.gates],
    }


def _failed(contender: Contender) -> list[Gate]:
    """Gates that were not passed, inconclusive ones too."""
    return [gate for gate in contender.gates if gate.verdict != "pass"]


def _short(gate: Gate) -> str:
    """Gate, the bound that decides or the figure, and the threshold, for one line of many."""
    bounds = "" if gate.low is None else f" [{gate.low:.4g}, {gate.high:.4g}]"
    value = "not measured" if gate.value is None else f"{gate.value:.4g}{bounds}"
    limit = "" if gate.threshold is None else f" against {gate.threshold:.4g}"
    return f"{gate.gate} {value}{limit} ({gate.verdict})"


def describe_gates(contenders: Contenders) -> Iterator[str]:
    """Lines for people: who passed, and every gate that somebody did not pass."""
    for device, found in contenders.items():
        for contender in (c for c in found if c.eligible):
            failed = _failed(contender)
            verdict = f"{len(failed)} gates not passed" if failed else "passed every gate"
            yield f"{device}: {contender.name}: {verdict}"
            yield from (f"  {gate.describe()}" for gate in failed)
