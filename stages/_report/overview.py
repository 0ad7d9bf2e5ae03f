"""The pipeline at a glance: the figures that matter most, and one line per stage. Pure."""

from collections.abc import Callable, Mapping
from typing import Any

from stages._report.models import Model, find_winner, list_models, winner_of
from stages._report.reading import Facts, Missing
from stages._report.telling import interval, millions, percent, plain, scored, short, usd, whole

VERDICTS = {
    "drift": "Drift",
    "no_evidence": "No evidence of drift",
    "too_few_rows": "Too few rows to say",
    "not_compared": "Not compared",
}
Tile = dict[str, str]
Report = Mapping[str, Any]


def tell_overview(facts: Facts) -> dict[str, Any]:
    """One line per stage; those that left no report say so."""
    steps = []
    for name, tell in STEPS.items():
        try:
            steps.append({"name": name, "told": tell(facts), "absent": False})
        except Missing as missing:
            steps.append({"name": name, "told": str(missing), "absent": True})
    return {"steps": steps}


def tell_headline(facts: Facts) -> dict[str, Any]:
    """The winner against its teacher, in a few figures.

    Raises:
        Missing: nothing was evaluated or decided.
    """
    winner = find_winner(facts)
    models = {model.name: model for model in list_models(facts)}
    teacher, baseline = models.get("teacher"), models.get("baseline")
    tiles = [_bleu(winner, teacher, baseline), _slots(winner, teacher), _size(winner, teacher)]
    tiles += [_cost(winner, teacher), _latency(winner, teacher), _memory(winner, teacher)]
    return {
        "winner": winner,
        "below_baseline": _is_below(winner, baseline),
        "tiles": [tile for tile in tiles if tile],
    }


def _is_below(winner: Model, baseline: Model | None) -> bool:
    """Whether the baseline has more BLEU than the winner, interval beside interval."""
    score, other = winner.score("bleu"), baseline.score("bleu") if baseline else None
    return bool(score and other and score["high"] < other["low"])


def _bleu(winner: Model, teacher: Model | None, baseline: Model | None) -> Tile | None:
    score = winner.score("bleu")
    if score is None:
        return None
    others = (("teacher", teacher), ("baseline", baseline))
    told = [(name, model.score("bleu")) for name, model in others if model]
    beside = ", ".join(f"{name} {scored(score)}" for name, score in told if score)
    return _tile("BLEU on test", plain(score["score"]), interval(score), beside)


def _slots(winner: Model, teacher: Model | None) -> Tile | None:
    score = winner.score("slot_error_rate")
    if score is None:
        return None
    above = teacher.score("slot_error_rate") if teacher else None
    beside = f"teacher {scored(above, 100, unit='%')}" if above else ""
    value = percent(score["score"])
    return _tile("Slot errors", value, f"{interval(score, 100)}", beside)


def _size(winner: Model, teacher: Model | None) -> Tile | None:
    if winner.parameters is None:
        return None
    own, above = winner.parameters, teacher.parameters if teacher else None
    ratio = f"{percent(own / above, 0)} of its teacher's" if above else ""
    beside = f"teacher {millions(above)}" if above else ""
    return _tile("Parameters", millions(own), ratio, beside)


def _cost(winner: Model, teacher: Model | None) -> Tile | None:
    if winner.cost_usd is None:
        return None
    above = teacher.cost_usd if teacher else None
    return _tile(
        "Cost of a million requests",
        usd(winner.cost_usd),
        _times(above, winner.cost_usd, "cheaper"),
        f"teacher {usd(above)}" if above else "",
    )


def _latency(winner: Model, teacher: Model | None) -> Tile | None:
    if winner.p95_ms is None:
        return None
    above = teacher.p95_ms if teacher else None
    return _tile(
        "95 % of answers within",
        f"{short(winner.p95_ms)} ms",
        _times(above, winner.p95_ms, "faster"),
        f"teacher {short(above)} ms" if above else "",
    )


def _memory(winner: Model, teacher: Model | None) -> Tile | None:
    own = winner.benchmark.get("peak_memory_mb")
    if own is None:
        return None
    above = teacher.benchmark.get("peak_memory_mb") if teacher else None
    disk = winner.benchmark.get("disk_mb")
    return _tile(
        "Memory in use",
        f"{whole(own)} MB",
        f"{short(disk)} MB on disk" if disk else "",
        f"teacher {whole(above)} MB" if above else "",
    )


def _times(above: float | None, own: float, what: str) -> str:
    return f"{short(above / own)} × {what}" if above and own and above > own else ""


def _tile(label: str, value: str, detail: str, beside: str) -> Tile:
    return {"label": label, "value": value, "detail": detail, "beside": beside}


def _prepare(facts: Facts) -> str:
    counts = facts.need("counts")
    prompts = counts["prompts"]
    told = f"{whole(counts['rows_used']['train'])} training pairs, {whole(prompts['test'])} test "
    return told + f"prompts; {whole(counts['rows_rejected'])} rows rejected"


def _baseline(facts: Facts) -> str:
    report = facts.need("baseline")
    return f"scikit-learn; BLEU {scored(report.get('bleu'))} on validation"


def _teacher(facts: Facts) -> str:
    report = facts.need("teacher")
    score = (report.get("validation") or {}).get("bleu")
    size = report.get("parameters")
    what = f"{millions(size)} parameters" if size else "size unknown"
    told = f"; BLEU {scored(score)} on validation" if score else ""
    return f"{report['source']}, {what}{told}"


def _label(facts: Facts) -> str:
    report = facts.need("label")
    return (
        f"{whole(report['labels'])} labels kept, {whole(report['rejected'])} rejected; "
        f"{usd(report['cost']['usd'])}"
    )


def _distill(facts: Facts) -> str:
    found = facts.need("distill")
    return "; ".join(
        f"{name}: {run['recipe']['method']}, {millions(run['parameters'])}"
        for name, run in sorted(found.items(), key=lambda item: item[0] != "student")
    )


def _quantize(facts: Facts) -> str:
    found = facts.need("quantize")
    kept = (facts.get("decision") or {}).get("retention", {})
    parts = []
    for name in found:
        ratio = (kept.get(name) or {}).get("size_ratio")
        parts.append(f"{name} {percent(ratio, 0)}" if ratio is not None else name)
    return f"{', '.join(parts)} of the student's bytes" if kept else ", ".join(parts)


def _detectors(facts: Facts) -> str:
    found = facts.need("detectors")["detectors"]
    run = sum(one["status"] == "run" for one in found.values())
    return f"{run} of {len(found)} quality detectors tried on planted errors"


def _evaluate(facts: Facts) -> str:
    models = list_models(facts)
    return f"{len(models)} candidates on {whole(models[0].evaluation['examples'])} test prompts"


def _ladder(facts: Facts) -> str:
    report = facts.need("ladder")
    gain = scored(report["kd_gain"])
    return f"{report['verdict'].replace('_', ' ')}: student less control {gain} BLEU"


def _benchmark(facts: Facts) -> str:
    found = facts.need("benchmark")
    devices = {device for one in found.values() for device in one.get("by_device", {})}
    noisy = [name for name, one in found.items() if (one.get("machine") or {}).get("noisy")]
    told = f"{len(found)} candidates on {', '.join(sorted(devices)) or 'no device'}"
    return told + (f"; busy machine: {', '.join(noisy)}" if noisy else "")


def _select(facts: Facts) -> str:
    decision = facts.need("decision")
    own = [c for c in decision["candidates"] if c["eligible"] and c["device"] == "cpu"]
    passed = sum(c["passed"] for c in own)
    cuda = decision["winners"].get("cuda") or "none"
    told = f"{passed} of {len(own)} passed every gate; winner on CPU {winner_of(facts)}"
    return f"{told}, on CUDA {cuda}"


def _route(facts: Facts) -> str:
    rungs = facts.need("route")["rungs"]
    shares = [f"{one['rung']} {percent(one['accepted_share'], 0)}" for one in rungs]
    return f"answered by {', '.join(shares)}"


def _package(facts: Facts) -> str:
    release = facts.need("release")
    parity = release["golden_parity"]
    same = f"{parity['identical']} of {parity['requests']} golden answers identical"
    return f"{release['bento_tag']}; {same}"


def _drift(facts: Facts) -> str:
    report = facts.need("drift")
    window = report["rests_on"]["window"]["id"]
    return f"window {window}: {VERDICTS.get(report['verdict'], report['verdict'])}"


STEPS: dict[str, Callable[[Facts], str]] = {
    "prepare": _prepare,
    "baseline": _baseline,
    "teacher": _teacher,
    "label": _label,
    "distill": _distill,
    "quantize": _quantize,
    "detectors": _detectors,
    "evaluate": _evaluate,
    "ladder": _ladder,
    "benchmark": _benchmark,
    "select": _select,
    "route": _route,
    "package": _package,
    "drift": _drift,
}
