"""Curves: training, batching as benchmark measured it, load as a comparison of its own. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from stages._report.charts import Line, lines
from stages._report.models import colours_of, list_models
from stages._report.reading import Facts, Missing, Table
from stages._report.scales import Axis, linear, logarithmic
from stages._report.telling import millions, short, whole

MOST_POINTS = 200
"""Of one curve: more are not seen, and make the file large."""
TRAINING = (
    ("train_nats", "Training loss", "nats per token (log)", "curve"),
    ("kl_nats", "Distance to the teacher", "KL, nats per token (log)", "curve"),
    ("bleu", "BLEU on validation", "while training", "validations"),
    ("slot_error_rate", "Slot errors on validation", "per slot, while training", "validations"),
)
Points = Sequence[tuple[float, float]]
CSV_HEAD = "batch_size,baseline,teacher,student,winner"


def tell_training(facts: Facts) -> dict[str, Any]:
    """Loss and validation scores by step, of the teacher and every recipe.

    Raises:
        Missing: there is no curve.
    """
    tables = facts.get("curves") or {}
    palette = colours_of(facts)
    charts = [chart for one in TRAINING if (chart := _training_chart(tables, palette, *one))]
    if not charts:
        raise Missing("no model was trained here, or its curves are not there")
    return {"charts": charts}


def tell_batching(facts: Facts) -> dict[str, Any]:
    """Tokens a second at each batch size.

    Raises:
        Missing: nothing was evaluated, or nothing measured.
    """
    found, palette = [m for m in list_models(facts) if m.benchmark], colours_of(facts)
    curves = [
        Line(model.name, _rates(model.benchmark["throughput_tokens_per_s"]), palette[model.name])
        for model in found
    ]
    if not curves:
        raise Missing("no candidate was measured")
    chart = lines(
        "batching",
        "Throughput by batch size",
        _ends(curves, "tokens/s"),
        curves,
        _batch_axis(curves, "requests in one batch (log)"),
        logarithmic("tokens per second (log)", _heights(curves)),
    )
    return {"chart": chart}


def tell_load(facts: Facts) -> dict[str, Any]:
    """The service under load, from benchmarks/serve_load.json.

    Raises:
        Missing: it was not measured.
    """
    report = facts.need("load")
    by_clients = report["throughput"]
    servers = report["servers"]
    curves = [
        Line(
            servers[name]["what"],
            [(float(n), float(one["tokens_per_s"][name])) for n, one in by_clients.items()],
            place,
            name == "offline",
        )
        for place, name in enumerate(servers)
        if all(name in one["tokens_per_s"] for one in by_clients.values())
    ]
    chart = lines(
        "load",
        "Throughput under load",
        _ends(curves, "tokens/s"),
        curves,
        _batch_axis(curves, "clients at the same time (log)"),
        logarithmic("tokens per second (log)", _heights(curves)),
    )
    return {"chart": chart, "facts": _load_facts(report), "machine": report["machine"]}


def as_csv(facts: Facts) -> str:
    """Tokens a second by batch size of the four that matter, for `dvc plots show`."""
    models = {model.name: model for model in list_models(facts)}
    winner = next((name for name, model in models.items() if model.wins), "")
    names = ("baseline", "teacher", "student", winner)
    rates = [
        (models[name].benchmark.get("throughput_tokens_per_s") or {}) if name in models else {}
        for name in names
    ]
    sizes = sorted({int(size) for rate in rates for size in rate})
    rows = [[str(size), *(_rate(rate, size) for rate in rates)] for size in sizes]
    return "\n".join([CSV_HEAD, *(",".join(row) for row in rows)]) + "\n"


def _rate(rates: Mapping[str, float], size: int) -> str:
    return f"{rates[str(size)]:.6g}" if str(size) in rates else ""


def _training_chart(
    tables: Mapping[str, Mapping[str, Table]],
    palette: Mapping[str, int],
    column: str,
    title: str,
    label: str,
    kind: str,
) -> Any:
    """One column of every run that has it; None where none has."""
    found = [
        Line(name, thin(points), palette[name])
        for name, own in tables.items()
        if (points := _column(own.get(kind) or [], column))
    ]
    if not found:
        return None
    steps = _step_axis(found)
    heights = _heights(found)
    log = kind == "curve" and min(heights) > 0
    y = logarithmic(label, heights, 5) if log else linear(label, heights)
    return lines(f"training-{column}", title, _ends(found, label), found, steps, y)


def thin(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most so many points, evenly; the last one always."""
    if len(points) <= most:
        return list(points)
    stride = -(-len(points) // (most - 1))
    kept = list(points[::stride])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _column(table: Table, column: str) -> list[tuple[float, float]]:
    """Step and value of the rows that have both."""
    return [
        (float(row["step"]), float(row[column])) for row in table if row.get(column) and row["step"]
    ]


def _rates(rates: Mapping[str, float]) -> list[tuple[float, float]]:
    return sorted((float(size), float(rate)) for size, rate in rates.items())


def _heights(curves: Sequence[Line]) -> list[float]:
    return [height for curve in curves for _, height in curve.points]


def _batch_axis(curves: Sequence[Line], label: str) -> Axis:
    """Labels where something was measured."""
    sizes = sorted({x for curve in curves for x, _ in curve.points})
    return Axis(label, sizes[0], max(sizes[-1], sizes[0] * 2), tuple(sizes), log=True)


def _step_axis(curves: Sequence[Line]) -> Axis:
    """From the first step to the last one, so that no curve ends before the frame does."""
    last = max(x for curve in curves for x, _ in curve.points)
    ticks = linear("", (0.0, last)).ticks
    return Axis("step", 0.0, last, tuple(tick for tick in ticks if tick <= last))


def _ends(curves: Sequence[Line], unit: str) -> str:
    """Where every curve ends, in words."""
    told = (f"{curve.name} ends at {short(curve.points[-1][1])}" for curve in curves)
    return f"{unit}: {'; '.join(told)}."


def _load_facts(report: Mapping[str, Any]) -> list[str]:
    """What else was measured, a sentence each."""
    peak, steady, over = report["peak"], report["latency"], report["overload"]
    latency = steady["latency_ms"]
    refused = over["results"].get("503", 0)
    return [
        f"Peak: {millions(peak['tokens_per_s'])} tokens/s, {whole(peak['answers_per_s'])} answers/s"
        f" with {peak['clients']} clients.",
        f"At a steady {whole(steady['rate_per_s'])} requests/s: half within "
        f"{short(latency['p50'])} ms, 95 % within {short(latency['p95'])} ms, 99 % within "
        f"{short(latency['p99'])} ms.",
        f"At {whole(over['rate_per_s'])} requests/s, far beyond what it can do, it answered "
        f"{whole(over['results'].get('200', 0))} in time, refused {whole(refused)} at once and left"
        f" {whole(over['unanswered_in_time'])} unanswered.",
    ]
