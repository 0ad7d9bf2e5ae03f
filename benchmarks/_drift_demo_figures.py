"""What the demo shows: the right features, slot errors before and after, and the table. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from serving.slots import SlotSchema, check_answer
from stages._incidents.drift import FLEET
from stages._scores import bootstrap_weights, corpus_score, paired_difference, slot_statistics

Row = Mapping[str, Any]
RESAMPLES, CONFIDENCE, SEED = 1000, 0.95, 20
EXPECTED = {
    "new services": ("slot_values.service",),
    "new units": ("slot_values.value", "slot_values.metric"),
}
"""What was planted, and the features of which one must be among the top ones."""
SIDES = ("before", "after")


def find_planted(top_features: Sequence[Row], words: Sequence[str]) -> dict[str, Any]:
    """Whether drift's report names what was planted.

    Args:
        top_features: of drift.json.
        words: that speak most for the window, of evidence.json.
    """
    named = [feature["name"] for feature in top_features]
    features = {what: [name for name in names if name in named] for what, names in EXPECTED.items()}
    new = {word for part in (*FLEET.domains, *FLEET.suffixes) for word in part.split("-")}
    seen = sorted({word for term in words for word in term.split() if word in new})
    return {
        "features": features,
        "new_words": seen,
        "right": all(features.values()) and bool(seen),
        "top_features": named,
    }


def slot_errors(
    rows: Sequence[Row], answers: Mapping[str, Sequence[str]], schema: SlotSchema
) -> dict[str, Any]:
    """Slot errors per slot with 95 % bootstrap intervals over prompts, and the paired difference.

    Args:
        rows: prompts with their slots.
        answers: "before" and, if there is an after, "after": a text per row.
    """
    weights = bootstrap_weights(len(rows), RESAMPLES, SEED)
    statistics = {
        side: slot_statistics(
            [check_answer(text, row["slots"], schema) for text, row in zip(said, rows, strict=True)]
        )["slot_error_rate"]
        for side, said in answers.items()
    }
    told: dict[str, Any] = {
        side: corpus_score(one, weights, CONFIDENCE).to_dict() for side, one in statistics.items()
    }
    if "after" in statistics:
        pair = statistics["after"], statistics["before"]
        told["difference"] = paired_difference(*pair, weights, CONFIDENCE).to_dict()
    return told | {"prompts": len(rows)}


def table(errors: Mapping[str, Mapping[str, Row]]) -> list[str]:
    """Slot errors per slot in percent, a line per model and slice."""
    lines = [f"{'answered by':14}{'slice':8}{'before':22}{'after':22}difference"]
    for who, slices in errors.items():
        for name, one in slices.items():
            cells = [_shown(one.get(side)) for side in (*SIDES, "difference")]
            lines.append(f"{who:14}{name:8}" + "".join(f"{cell:22}" for cell in cells).rstrip())
    return lines


def _shown(score: Row | None) -> str:
    if score is None:
        return "-"
    low, middle, high = (100 * score[name] for name in ("low", "score", "high"))
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]"


def conclude(
    features: Row, quiet: str, drifted: str, ending: str, errors: Mapping[str, Mapping[str, Row]]
) -> list[str]:
    """What came of it, what did not work included.

    Args:
        quiet: the verdict on traffic as usual.
        drifted: the verdict on traffic with new services and units.
        ending: of the retraining.
    """
    told = [
        _said(quiet != "drift", f"traffic as usual: {quiet}"),
        _said(drifted == "drift", f"traffic with new services and units: {drifted}"),
        _said(bool(features["right"]), f"what was planted is named: {_named(features)}"),
        _said(ending == "promoted", f"the retrained model was {ending}"),
    ]
    if ending != "promoted":
        return told
    cascade = errors["cascade"]
    new, old = cascade["new"], cascade["old"]
    better, held = new["difference"]["high"] < 0.0, old["difference"]["low"] <= 0.0
    back = new["after"]["low"] <= old["before"]["high"]
    return [
        *told,
        _said(better, f"new slice, slot errors per slot: {_change(new)}"),
        _said(back, "the new slice is back near the old one's level (intervals touch)"),
        _said(held, f"old slice, slot errors per slot: {_change(old)}"),
    ]


def _said(true: bool, what: str) -> str:
    return f"{'as it should be' if true else 'NOT AS IT SHOULD BE'}: {what}"


def _named(features: Row) -> str:
    found = [
        f"{what} by {', '.join(names) or 'nothing'}" for what, names in features["features"].items()
    ]
    words = ", ".join(features["new_words"]) or "none"
    return f"{'; '.join(found)}; new words among the top ones: {words}"


def _change(one: Row) -> str:
    return f"{_shown(one['before'])} before, {_shown(one['after'])} after, in percent"
