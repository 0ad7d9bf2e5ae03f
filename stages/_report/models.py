"""The candidates: in which order, in which role, who won, and what was measured of each. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from stages._report.reading import Facts, Missing

ROLES = {
    "baseline": "traditional model",
    "teacher": "teacher",
    "student": "student",
    "control": "control: plainly trained",
}
COLOURS = {"teacher": 1, "student": 2, "control": 3, "baseline": 4}
"""Of the style sheet: one model has one colour in every chart; the winner has the first."""
OTHER_COLOURS = (5, 6, 7, 0)
Report = Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """One candidate with its reports; an empty one where it was not measured."""

    name: str
    role: str
    evaluation: Report
    benchmark: Report
    decision: Report
    """What select says of it on the CPU."""
    wins: bool

    def score(self, metric: str) -> Report | None:
        """A metric with its interval; None where it does not apply."""
        found = self.evaluation.get(metric)
        return found if isinstance(found, Mapping) and "score" in found else None

    @property
    def cost_per_1k_usd(self) -> float | None:
        """Of 1,000 requests, as benchmark and select have it."""
        return self.benchmark.get("cost_per_1k_requests_usd")

    @property
    def cost_usd(self) -> float | None:
        """Of a million requests: of a small model fewer cost fractions of a cent."""
        return None if self.cost_per_1k_usd is None else 1000.0 * self.cost_per_1k_usd

    @property
    def p95_ms(self) -> float | None:
        """Latency of one request at a time."""
        return (self.benchmark.get("latency_ms") or {}).get("p95")

    @property
    def noisy(self) -> bool:
        """Whether the machine was busy for a part of its benchmark."""
        return bool((self.benchmark.get("machine") or {}).get("noisy"))

    @property
    def parameters(self) -> float | None:
        """None where they are unknown, as behind an endpoint, or there are none."""
        return (self.evaluation.get("model") or {}).get("parameters")


def list_models(facts: Facts) -> list[Model]:
    """All evaluated candidates in the order of params.yaml.

    Raises:
        Missing: none was evaluated.
    """
    evaluations = facts.need("evaluate")
    order = [*(facts.get("summary") or {}), *evaluations]
    benchmarks, decision = facts.get("benchmark") or {}, facts.get("decision") or {}
    decided = {c["name"]: c for c in decision.get("candidates", []) if c["device"] == "cpu"}
    winner = (decision.get("winners") or {}).get("cpu")
    return [
        Model(
            name=name,
            role=_role(name, evaluations[name]),
            evaluation=evaluations[name],
            benchmark=_measured(benchmarks.get(name)),
            decision=decided.get(name, {}),
            wins=name == winner,
        )
        for name in dict.fromkeys(order)
        if name in evaluations
    ]


def winner_of(facts: Facts) -> str:
    """The candidate that won on the CPU.

    Raises:
        Missing: nothing was decided.
    """
    found = facts.need("decision")["winners"].get("cpu")
    if not found:
        raise Missing("select found no winner on the CPU")
    return str(found)


def find_winner(facts: Facts) -> Model:
    """The candidate that won on the CPU, with its reports.

    Raises:
        Missing: nothing was decided, or the winner's evaluation is not there.
    """
    name = winner_of(facts)
    found = next((model for model in list_models(facts) if model.name == name), None)
    if found is None:
        raise Missing(facts.absent.get(f"evaluate {name}", f"there is no evaluation of {name}"))
    return found


def colours(names: Iterable[str], winner: str | None) -> dict[str, int]:
    """A colour for each name, the same in every chart that has it."""
    found, others = {}, cycle(OTHER_COLOURS)
    for name in names:
        found[name] = 0 if name == winner else COLOURS.get(name, -1)
        if found[name] < 0:
            found[name] = next(others)
    return found


def colours_of(facts: Facts) -> dict[str, int]:
    """Colours of all candidates and recipes."""
    winner = ((facts.get("decision") or {}).get("winners") or {}).get("cpu")
    names = [*(facts.get("summary") or {}), *(facts.get("evaluate") or {})]
    names += facts.get("curves") or {}
    return colours(dict.fromkeys(names), winner)


def _role(name: str, evaluation: Report) -> str:
    if name in ROLES:
        return ROLES[name]
    model = evaluation.get("model") or {}
    scheme = model.get("scheme")
    return f"variant: {model.get('engine')}, {scheme}" if scheme else "other"


def _measured(benchmark: Report | None) -> Report:
    """Figures of the first device; none of a model that was left out for its price."""
    return benchmark if benchmark and "device" in benchmark else {}
