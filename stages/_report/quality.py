"""Quality against cost and latency: every candidate with intervals, and who beats whom. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from stages._report.charts import Point, scatter
from stages._report.models import Model, colours_of, list_models
from stages._report.reading import Facts
from stages._report.scales import linear, logarithmic
from stages._report.telling import interval, percent, plain, scored, short, usd, whole


class Measure(NamedTuple):
    """A metric as it is drawn."""

    key: str
    title: str
    unit: str
    scale: float
    more_is_better: bool


MEASURES = (
    Measure("bleu", "BLEU", "higher is better", 1.0, True),
    Measure("slot_error_rate", "Slot errors", "% of slots, lower is better", 100.0, False),
    Measure("hallucination_rate", "Unsupported", "% of answers, lower is better", 100.0, False),
    Measure("semantic_similarity", "Similarity", "higher is better", 1.0, True),
)
DRAWN = 2
"""Measures that are drawn; the table has all of them."""
PRICES: tuple[tuple[str, str, Callable[[Model], float | None]], ...] = (
    ("cost", "USD per million requests (log)", lambda model: model.cost_usd),
    ("latency", "95th percentile of latency, ms (log)", lambda model: model.p95_ms),
)
CSV_HEAD = (
    "model,bleu,bleu_low,bleu_high,slot_error_rate,cost_per_1k_requests_usd,latency_p95_ms,front"
)


def tell_quality(facts: Facts) -> dict[str, Any]:
    """Charts, and a row per candidate.

    Raises:
        Missing: nothing was evaluated.
    """
    models = list_models(facts)
    palette = colours_of(facts)
    used = [one for one in MEASURES if any(model.score(one.key) for model in models)]
    charts = [
        chart
        for measure in used[:DRAWN]
        for name, label, price in PRICES
        if (chart := _chart(models, measure, name, label, price, palette))
    ]
    return {
        "charts": charts,
        "measures": used,
        "rows": [_row(model, used) for model in models],
        "unmeasured": [model.name for model in models if not model.benchmark],
        "prompts": models[0].evaluation["examples"],
        "signature": (models[0].score("bleu") or {}).get("signature"),
        "machines": sorted({_machine(model) for model in models if model.benchmark}),
    }


def as_csv(facts: Facts) -> str:
    """The points, a row per candidate, for `dvc plots show`."""
    lines = [CSV_HEAD]
    for model in list_models(facts):
        bleu, slots = model.score("bleu") or {}, model.score("slot_error_rate") or {}
        values = [bleu.get(key) for key in ("score", "low", "high")]
        values += [slots.get("score"), model.cost_per_1k_usd, model.p95_ms]
        cells = ["" if value is None else f"{value:.6g}" for value in values]
        lines.append(",".join([model.name, *cells, str(int(bool(model.decision.get("pareto"))))]))
    return "\n".join(lines) + "\n"


def find_front(points: Sequence[tuple[float, float]], more_is_better: bool) -> list[bool]:
    """Which points no other one beats: not dearer and not worse, and better in one of the two."""
    signed = [(x, -y if more_is_better else y) for x, y in points]
    return [not any(a <= x and b <= y and (a, b) != (x, y) for a, b in signed) for x, y in signed]


def _chart(
    models: Sequence[Model],
    measure: Measure,
    name: str,
    label: str,
    price: Callable[[Model], float | None],
    palette: Mapping[str, int],
) -> Any:
    """Every candidate that has both figures; None where there is none."""
    points = _points(models, measure, price, palette)
    if not points:
        return None
    heights = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    told = "; ".join(f"{p.name} {short(p.y)} at {short(p.x)}" for p in points)
    return scatter(
        f"{measure.key}-{name}",
        f"{measure.title} against {name}",
        f"{measure.title} ({measure.unit}) and {label}: {told}.",
        points,
        logarithmic(label, [p.x for p in points]),
        linear(measure.unit, heights),
    )


def _points(
    models: Sequence[Model],
    measure: Measure,
    price: Callable[[Model], float | None],
    palette: Mapping[str, int],
) -> list[Point]:
    """The candidates in the plane of one measure and one price."""
    points = [
        Point(
            name=model.name,
            x=x,
            y=measure.scale * float(score["score"]),
            low=_scaled(score, "low", measure.scale),
            high=_scaled(score, "high", measure.scale),
            colour=palette[model.name],
        )
        for model in models
        if (score := model.score(measure.key)) and (x := price(model))
    ]
    front = find_front([(point.x, point.y) for point in points], measure.more_is_better)
    return [replace(point, front=on) for point, on in zip(points, front, strict=True)]


def _scaled(score: Mapping[str, Any], key: str, scale: float) -> float | None:
    return None if score.get(key) is None else scale * float(score[key])


def _row(model: Model, used: Sequence[Measure]) -> dict[str, Any]:
    decision, latency = model.decision, model.benchmark.get("latency_ms") or {}
    return {
        "name": model.name,
        "role": model.role,
        "wins": model.wins,
        "pareto": decision.get("pareto", False),
        "eligible": decision.get("eligible", False),
        "passed": decision.get("passed", False),
        "scores": [_cell(model, measure) for measure in used],
        "p50": short(latency.get("p50")),
        "p95": short(latency.get("p95")),
        "cost": usd(model.cost_usd),
        "memory": whole(model.benchmark.get("peak_memory_mb")),
        "disk": short(model.benchmark.get("disk_mb")),
    }


def _cell(model: Model, measure: Measure) -> dict[str, str]:
    score = model.score(measure.key)
    if score is None:
        return {"value": "–", "interval": ""}
    if measure.scale == 1.0 and measure.key == "semantic_similarity":
        return {"value": plain(score["score"], 3), "interval": interval(score, 1.0, 3)}
    if measure.scale == 1.0:
        return {"value": plain(score["score"]), "interval": interval(score)}
    return {"value": percent(score["score"]), "interval": interval(score, measure.scale)}


def _machine(model: Model) -> str:
    found = model.benchmark
    price = scored({"score": found.get("hourly_price_usd")}, digits=2)
    where = found.get("processor") or found.get("device")
    return f"{where}, {found.get('threads')} threads, {price} USD an hour assumed"
