"""drift.json: the verdict, every test behind it, and what both rest on, in figures and in words."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stages._drift.detecting import Compared
from stages._drift.evidence import top_features
from stages._drift.features import Table, distinct_places
from stages._drift.sources import Read
from stages._drift.verdict import Judged
from stages._params.drift import Drift


def report_on(
    compared: Compared,
    tables: Sequence[Table],
    sides: tuple[Read, Read],
    calibration: Mapping[str, Any],
    settings: Drift,
) -> dict[str, Any]:
    """What drift.json says, but for what the window's folder tells by itself.

    Args:
        tables: of reference and window.
        sides: the same as they were read.
    """
    verdict = compared.verdict
    rests_on = describe_sides(tables, sides)
    rests_on["said"] = say(rests_on, compared, settings)
    return {
        "verdict": verdict.outcome,
        "verdicts": dict(verdict.kinds),
        "alpha": settings.alpha,
        "detectors": [describe(one) for one in verdict.judged],
        "top_features": top_features(verdict.judged, compared.classifier),
        "calibration": dict(calibration),
        "rests_on": rests_on,
        "not_compared": [
            {"name": one.name, "kind": one.kind, "reason": one.reason}
            for one in verdict.not_compared
        ],
    }


def describe(judged: Judged) -> dict[str, Any]:
    """One test, under the names that other programs rely on."""
    test = judged.test
    return {
        "name": test.name,
        "kind": test.kind,
        "statistic": test.statistic,
        "p_value": test.p_value,
        "p_adjusted": judged.p_adjusted,
        "effect": test.effect,
        "threshold": test.floor,
        "alarm": judged.alarm,
        "n_reference": test.n_reference,
        "n_current": test.n_current,
        "detail": dict(test.detail),
    }


def describe_sides(tables: Sequence[Table], sides: tuple[Read, Read]) -> dict[str, Any]:
    """How many rows of each side there were, were used, and have what a test needs."""
    models = sides[0].models
    told = {}
    for name, table, side in zip(("reference", "window"), tables, sides, strict=True):
        with_text = sum(bool(text) for text in table.texts)
        digests = Counter(row.get("model_sha256") for row in side.rows)
        told[name] = {
            **side.told,
            "with_text": with_text,
            "without_text": len(table) - with_text,
            "different": len(distinct_places(table)),
            "by_the_same_models": sum(n for digest, n in digests.items() if digest in models),
        }
    return told


def say(told: Mapping[str, Any], compared: Compared, settings: Drift) -> list[str]:
    """The same in sentences, what could not be used among them."""
    window, reference = told["window"], told["reference"]
    lines = [
        f"window {window['id']}: {_used(window)}",
        f"reference {reference['id']}, answered by {reference['answered_by']}: {_used(reference)}",
    ]
    for name, side in (("window", window), ("reference", reference)):
        if side["without_text"]:
            lines.append(
                f"{side['without_text']} rows of the {name} have no text: of these only figures "
                f"are compared, and repeats are not seen"
            )
    if others := window["sampled"] - window["by_the_same_models"]:
        lines.append(
            f"{others} rows of the window were answered by other models than the reference: their "
            f"answers are not compared"
        )
    rejected = window["rejected"] or {}
    if any(rejected.values()):
        lost = ", ".join(f"{count} {what}" for what, count in rejected.items())
        lines.append(f"not used of the window's sources: {lost}")
    tests, missing = len(compared.verdict.judged), len(compared.verdict.not_compared)
    lines.append(f"{tests} tests were made, {missing} could not be; each says why")
    if tests >= settings.alpha * (settings.permutations + 1):
        lines.append(
            f"with {settings.permutations} permutations one drifted feature among {tests} tests "
            f"cannot raise an alarm: set drift.permutations to {round(4 * tests / settings.alpha)}"
        )
    return lines


def _used(side: Mapping[str, Any]) -> str:
    of = f"{side['sampled']} of {side['rows']} rows, sampled" if side["left_out"] else ""
    return f"{of or str(side['sampled']) + ' rows'}, {side['different']} different prompts"
