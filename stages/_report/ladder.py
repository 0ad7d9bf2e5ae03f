"""The distillation ladder: every rung's scores, what each step adds, and the verdict. Pure."""

from collections.abc import Mapping
from typing import Any

from stages._report.charts import Bar, intervals
from stages._report.models import colours_of
from stages._report.reading import Facts
from stages._report.scales import linear
from stages._report.telling import millions, percent, scored, seconds, short

SLOTS = "slot_error_rate"
VERDICTS = {
    "distilled": "Distilling won",
    "won_unfairly": "The student scores higher, but the control is not comparable",
    "won_without_seeds": "The student scores higher, but on too few seeds for a claim",
    "won_without_sweep": "The student scores higher, but the control had no sweep of its own",
    "inconclusive": "Inconclusive: neither is shown to be better",
    "lost": "Distilling lost",
}
Report = Mapping[str, Any]


def tell_ladder(facts: Facts) -> dict[str, Any]:
    """Rungs from the foot to the teacher.

    Raises:
        Missing: there is no ladder.
    """
    report = facts.need("ladder")
    rungs, palette = rungs_of(report), colours_of(facts)
    bars = [
        Bar(
            name,
            rung["bleu"]["score"],
            rung["bleu"]["low"],
            rung["bleu"]["high"],
            scored(rung["bleu"]),
            colour=palette.get(name, 4),
            strong=name == "student",
        )
        for name, rung in rungs.items()
    ]
    axis = linear("BLEU", [v for bar in bars for v in (bar.low, bar.high) if v is not None])
    told = "; ".join(f"{bar.name} {bar.told}" for bar in bars)
    return {
        "verdict": VERDICTS.get(report["verdict"], report["verdict"]),
        "won": report["verdict"] == "distilled",
        "reason": report["reason"],
        "not_shared": report.get("not_shared") or [],
        "chart": intervals("ladder-bleu", f"BLEU of each rung: {told}", bars, axis),
        "has_slots": any(SLOTS in rung for rung in rungs.values()),
        "rows": [_row(name, rung) for name, rung in rungs.items()],
        "steps": [_step(step) for step in report.get("steps", [])],
        "labels": report.get("labels"),
    }


def rungs_of(report: Report) -> dict[str, Report]:
    """The rungs among the report's keys: whatever has a BLEU; the teacher last."""
    found = {
        name: rung for name, rung in report.items() if isinstance(rung, Mapping) and "bleu" in rung
    }
    return dict(sorted(found.items(), key=lambda item: item[0] == "teacher"))


def _row(name: str, rung: Report) -> dict[str, Any]:
    fidelity, recipe = rung.get("fidelity") or {}, rung.get("recipe") or {}
    how = ", ".join(str(recipe[key]) for key in ("method", "init") if key in recipe)
    return {
        "name": name,
        "how": how or "–",
        "seeds": rung.get("seeds"),
        "bleu": scored(rung["bleu"]),
        "slots": scored(rung.get(SLOTS), 100, unit="%"),
        "agreement": percent(fidelity.get("top1_agreement")),
        "kl": short(fidelity.get("mean_kl")),
        "parameters": millions(rung.get("parameters")),
        "tokens": millions(rung.get("training_tokens")),
        "time": seconds(rung.get("seconds")),
    }


def _step(step: Report) -> dict[str, str]:
    return {
        "name": f"{step['from']} → {step['to']}",
        "what": step["what"],
        "bleu": scored(step.get("bleu")),
        "slots": scored(step.get(SLOTS), 100, 2),
    }
