"""The loss budget: what each hop from teacher to student to variant loses, with intervals. Pure.

Ratios and differences are those that ladder and select made of paired prompts; nothing is resampled
here. A hop's loss is counted in shares of the model before it. Its share of the whole is told only
where every hop loses: with a gain among them there is nothing to divide.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages._report.charts import Bar, intervals
from stages._report.models import winner_of
from stages._report.reading import Facts, Missing
from stages._report.scales import linear
from stages._report.telling import percent, scored

SLOTS = "slot_error_rate"
Score = Mapping[str, Any]
CSV_HEAD = (
    "hop,bleu_lost_percent,low,high,slot_error_points,slot_error_points_low,slot_error_points_high"
)


@dataclass(frozen=True)
class Hop:
    """From one model to the next smaller one."""

    start: str
    end: str
    kept: Score | None
    """Ratio of BLEU."""
    rise: Score | None
    """Difference of slot errors per slot."""
    size_ratio: float | None
    chosen: bool = True
    """Whether it leads to the winner."""

    @property
    def name(self) -> str:
        """Both ends."""
        return f"{self.start} → {self.end}"

    @property
    def lost(self) -> Score | None:
        """Share of BLEU that is lost, with its interval turned round."""
        if self.kept is None:
            return None
        ends = {"low": "high", "high": "low", "score": "score"}
        return {key: 1.0 - float(self.kept[source]) for key, source in ends.items()}


def find_hops(facts: Facts) -> list[Hop]:
    """Teacher to student, then student to each variant, the winner first.

    Raises:
        Missing: there is no ladder.
    """
    distance = facts.need("ladder")["student_to_teacher"]
    hops = [
        Hop(
            "teacher",
            "student",
            distance.get("bleu_ratio"),
            distance.get(f"{SLOTS}_delta"),
            distance.get("parameters_ratio"),
        )
    ]
    decision = facts.get("decision") or {}
    winner = (decision.get("winners") or {}).get("cpu")
    kept: Mapping[str, Any] = decision.get("retention") or {}
    for name in sorted(kept, key=lambda name: name != winner):
        one = kept[name]
        ratio, rise = one.get("bleu_ratio"), one.get(f"{SLOTS}_delta")
        hops.append(Hop("student", name, ratio, rise, one.get("size_ratio"), name == winner))
    return hops


def share_losses(ratios: Sequence[float]) -> list[float] | None:
    """Each hop's share of what is lost over all; None where a hop gains or nothing is lost.

    A hop's loss is measured in the first model's units: what is left before it, times what it
    loses.
    """
    losses, left = [], 1.0
    for ratio in ratios:
        losses.append(left * (1.0 - ratio))
        left *= ratio
    total = sum(losses)
    if total <= 0 or min(losses) < 0:
        return None
    return [loss / total for loss in losses]


def tell_losses(facts: Facts) -> dict[str, Any]:
    """Charts and a row per hop.

    Raises:
        Missing: there is no ladder.
    """
    hops = find_hops(facts)
    way = [hop for hop in hops if hop.chosen]
    ratios = [hop.kept["score"] for hop in way if hop.kept is not None]
    shares = share_losses(ratios) if len(ratios) == len(way) else None
    by_hop = dict(zip([hop.name for hop in way], shares or [], strict=False))
    seeds = (facts.need("ladder").get("student") or {}).get("seeds", 1)
    return {
        "charts": [chart for chart in (_bleu_chart(hops), _slot_chart(hops)) if chart],
        "rows": [_row(hop, by_hop.get(hop.name)) for hop in hops],
        "whole": _whole(way, ratios),
        "shared": shares is not None,
        "seeds": seeds,
        "student_wins": _student_wins(facts),
    }


def as_csv(facts: Facts) -> str:
    """A row per hop, for `dvc plots show`."""
    lines = [CSV_HEAD]
    for hop in find_hops(facts):
        values = [_scaled(score, key) for score in (hop.lost, hop.rise) for key in BOUNDS]
        lines.append(",".join([hop.name.replace("→", "to"), *values]))
    return "\n".join(lines) + "\n"


BOUNDS = ("score", "low", "high")


def _scaled(score: Score | None, key: str) -> str:
    return "" if score is None else f"{100 * float(score[key]):.6g}"


def _student_wins(facts: Facts) -> bool:
    try:
        return winner_of(facts) == "student"
    except Missing:
        return False


def _whole(way: Sequence[Hop], ratios: Sequence[float]) -> str | None:
    """All hops together, where each is known."""
    if len(ratios) < len(way):
        return None
    left = 1.0
    for ratio in ratios:
        left *= ratio
    return f"{way[0].start} → {way[-1].end}: {percent(left)} of the teacher's BLEU are left"


def _row(hop: Hop, share: float | None) -> dict[str, Any]:
    return {
        "name": hop.name,
        "chosen": hop.chosen,
        "lost": scored(hop.lost, 100, unit="%"),
        "rise": scored(hop.rise, 100, 2),
        "size": percent(hop.size_ratio, 0),
        "share": percent(share, 0),
    }


def _bleu_chart(hops: Sequence[Hop]) -> Any:
    bars = [_bar(hop, hop.lost, "%") for hop in hops if hop.lost]
    return _chart("loss-bleu", "BLEU lost", "% of the model before", bars)


def _slot_chart(hops: Sequence[Hop]) -> Any:
    bars = [_bar(hop, hop.rise, "") for hop in hops if hop.rise]
    return _chart("loss-slots", "Slot errors added", "points per 100 slots", bars)


def _bar(hop: Hop, score: Score, unit: str) -> Bar:
    value, low, high = (100 * float(score[key]) for key in BOUNDS)
    told = scored(score, 100, unit=unit)
    return Bar(hop.name, value, low, high, told, 0 if hop.chosen else 4, hop.chosen)


def _chart(name: str, title: str, label: str, bars: Sequence[Bar]) -> Any:
    """None where no hop has the figure."""
    if not bars:
        return None
    values = [v for bar in bars for v in (bar.value, bar.low, bar.high) if v is not None]
    told = f"{title}, {label}: " + "; ".join(f"{bar.name} {bar.told}" for bar in bars)
    drawn = intervals(name, told, bars, linear(label, values, zero=True))
    return {"title": title, "unit": label, "drawn": drawn}
