"""What a verdict can be checked by: words and values that changed most, and prompts to look at.

Prompts of a window are somebody's, and reports travel: personal data is masked as far as patterns
find it (serving/personal_data.py), and a prompt is cut to `MAX_CHARS`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.personal_data import scrub
from stages._drift.classifier import ClassifierResult
from stages._drift.comparing import CLASSIFIER, MMD
from stages._drift.detecting import alarms
from stages._drift.features import SLOT_VALUES, Row, Table
from stages._drift.verdict import Judged
from stages._drift.vocabulary import Training, full_prompt

MAX_CHARS = 400
SHOWN = 8
"""Values of a slot, and words of a finding."""
FINDINGS = {
    "prompt_chars": "length of prompts [characters]",
    "prompt_unseen_words": "share of a prompt's words that training never had",
    "slot_count": "slots in a record",
    "slots_not_in_training": "share of a record's values that training never had",
    "slot_order_not_in_training": "share of neighbouring slots in an order that training never had",
    "answer_chars": "length of answers [characters]",
    "answer_to_prompt_chars": "length of answers, in lengths of their prompts",
    "answer_unseen_words": "share of an answer's words that training's answers never had",
    "mean_logprob": "mean log-probability of an answer's tokens [nats]",
    "min_logprob": "log-probability of an answer's least likely token [nats]",
    "confidence": "confidence in an answer",
    "unknown_slots": "prompts with a slot that the schema does not know",
    "values_outside_schema": "prompts with a value that the schema does not list",
    "cut_answers": "answers that reached the limit of tokens",
    "answers_with_slot_errors": "answers with a slot error",
    "answers_with_ungrounded_claims": "answers with a claim that the prompt does not support",
    "slot_names": "which slots are asked",
    "rung": "which model answered",
    "cache": "where answers came from",
    CLASSIFIER: "prompts as a whole, told apart by their words",
    MMD: "prompts as a whole, as sentence vectors",
}
"""What each test is about, for people."""


def describe_test(name: str) -> str:
    """What a test is about."""
    if name.startswith(SLOT_VALUES):
        return f"values of the slot {name.removeprefix(SLOT_VALUES)}"
    return FINDINGS[name]


def top_features(
    judged: Sequence[Judged], classifier: ClassifierResult | None
) -> list[dict[str, Any]]:
    """What drifted, most of all first, each with what was found in it."""
    return [
        {
            "name": one.test.name,
            "kind": one.test.kind,
            "what": describe_test(one.test.name),
            "effect": one.test.effect,
            "threshold": one.test.floor,
            "found": _found(one, classifier),
        }
        for one in alarms(judged)
    ]


def _found(one: Judged, classifier: ClassifierResult | None) -> str:
    """One line of plain words."""
    detail = one.test.detail
    if "shares" in detail:
        moved = [
            f"{value}: {after:.1%} of them, {before:.1%} in the reference"
            for value, before, after in detail["shares"][:3]
        ]
        return "; ".join(moved)
    if "quantiles" in detail:
        before, after = detail["reference"], detail["current"]
        return (
            f"the middle is {after[1]:.4g} ({before[1]:.4g} in the reference), one in ten is above "
            f"{after[2]:.4g} ({before[2]:.4g})"
        )
    if "reference" in detail:
        return f"{detail['current']:.1%} of them, {detail['reference']:.1%} in the reference"
    if one.test.name == CLASSIFIER and classifier is not None:
        words = [word for word, _ in classifier.top_terms["current"][:SHOWN]]
        return f"most of all by {', '.join(words)}" if words else "by no word alone"
    return "they lie apart"


def gather(
    reference: Table,
    current: Table,
    classifier: ClassifierResult | None,
    training: Training,
    examples: int,
) -> dict[str, Any]:
    """Words, prompts and values that changed most, as evidence.json tells them.

    Args:
        examples: prompts of each side that are most unlike the other side.
    """
    words: dict[str, Any] = {"current": [], "reference": []}
    prompts: dict[str, Any] = {"current": [], "reference": []}
    if classifier is not None:
        words = {
            side: [{"term": term, "weight": weight} for term, weight in found]
            for side, found in classifier.top_terms.items()
        }
        prompts = _typical(reference, current, classifier, examples)
    return {
        "words": words,
        "examples": prompts,
        "slots": changed_values(reference.rows, current.rows, training),
        "schema": violations(current.rows, training),
    }


def _typical(
    reference: Table, current: Table, classifier: ClassifierResult, examples: int
) -> dict[str, list[dict[str, Any]]]:
    """Prompts of each side that the classifier was surest of without having learned from them."""
    before, after = (
        [row for row in side.rows if full_prompt(row)] for side in (reference, current)
    )
    scores = np.split(classifier.scores, [len(before)])
    return {
        "current": _surest(after, scores[1], examples),
        "reference": _surest(before, -scores[0], examples),
    }


def _surest(rows: Sequence[Row], scores: Any, examples: int) -> list[dict[str, Any]]:
    """Different prompts with the highest scores."""
    order = np.argsort(-scores, kind="stable")
    chosen: dict[str, dict[str, Any]] = {}
    for place in order:
        if len(chosen) == examples:
            break
        row = rows[int(place)]
        told: dict[str, Any] = {"id": str(row["id"]), "prompt": _shown(row.get("prompt"))}
        told |= {"answer": _shown(row.get("answer")), "score": float(scores[place])}
        chosen.setdefault(full_prompt(row), told)
    return list(chosen.values())


def _shown(text: str | None) -> str | None:
    if text is None:
        return None
    masked = scrub(text)
    return masked if len(masked) <= MAX_CHARS else masked[:MAX_CHARS] + "…"


def changed_values(
    reference: Sequence[Row], current: Sequence[Row], training: Training
) -> list[dict[str, Any]]:
    """Slots by how much the share of their values with new words has grown.

    Each with the values of the window that training never had: those with new words first, then the
    most frequent.
    """
    before, after = (_slot_values(rows) for rows in (reference, current))
    told = []
    for slot in sorted(after.keys() | before.keys()):
        old, new = before.get(slot, []), after.get(slot, [])
        asked = {
            "reference": len(old) / max(len(reference), 1),
            "current": len(new) / max(len(current), 1),
        }
        told.append({"slot": slot, "asked": asked, **_novelty(slot, old, new, training)})
    return sorted(told, key=lambda one: (*(-rise for rise in _growth(one)), one["slot"]))


def _novelty(
    slot: str, old: Sequence[str], new: Sequence[str], training: Training
) -> dict[str, Any]:
    """Shares of new values on both sides, and which the window has."""
    unseen = [value for value in new if not training.knows(slot, value)]
    strange = [value for value in unseen if not training.knows_words(slot, value)]
    forms = Counter(training.form(slot, value) for value in strange or unseen)
    return {
        "not_in_training": {
            "reference": _mean([not training.knows(slot, value) for value in old]),
            "current": _mean([not training.knows(slot, value) for value in new]),
        },
        "with_new_words": {
            "reference": _mean([not training.knows_words(slot, value) for value in old]),
            "current": _mean([not training.knows_words(slot, value) for value in new]),
        },
        "new_values": [[scrub(form), count] for form, count in _first(forms)],
    }


def _first(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]


def _growth(told: Mapping[str, Any]) -> list[float]:
    """How much larger the window's shares of values with new words and of new values are."""
    pairs = (told["with_new_words"], told["not_in_training"])
    return [(one["current"] or 0.0) - (one["reference"] or 0.0) for one in pairs]


def _mean(holds: Sequence[bool]) -> float | None:
    return sum(holds) / len(holds) if holds else None


def _slot_values(rows: Sequence[Row]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows:
        for slot, value in (row.get("slots") or {}).items():
            found.setdefault(slot, []).append(value)
    return found


def violations(rows: Sequence[Row], training: Training) -> dict[str, Any]:
    """What the schema does not allow, counted in rows: a fact that needs no statistics."""
    slots: Counter[str] = Counter()
    values: Counter[str] = Counter()
    for row in rows if training.schema else ():
        for slot, value in (row.get("slots") or {}).items():
            if training.schema and slot not in training.schema.slots:
                slots[slot] += 1
            elif training.outside_schema(slot, value):
                values[f"{slot}: {scrub(value)}"] += 1
    return {
        "checked": training.schema is not None,
        "unknown_slots": [list(item) for item in _first(slots)],
        "values_not_listed": [list(item) for item in _first(values)],
    }
