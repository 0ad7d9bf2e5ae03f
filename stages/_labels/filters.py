"""Which of a teacher's answers a student may learn from, and why the others are turned away.

Sequence-level distillation (Kim and Rush, 2016) copies whatever the teacher writes, mistakes
included; answers that can be seen to be wrong are cheaper to drop than to unlearn.
"""

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Literal

from serving.slots import MAX_CHARS, SlotSchema, check_answer
from stages._duplicates import normalise
from stages._labels.records import Label, Rejected

Reason = Literal[
    "unfinished", "empty", "broken_text", "too_long", "slot_errors", "duplicate", "surplus"
]
# What a decoder writes for bytes that are no character, and halves of a surrogate pair.
_BROKEN = re.compile("[\ufffd\ud800-\udfff]")


@dataclass(frozen=True)
class Filters:
    """What an answer has to pass; goes into the manifest."""

    max_tokens: int | None = None
    """Longest answer in tokens, end-of-sequence included; None: any."""
    max_chars: int = MAX_CHARS
    """Longest answer in characters; beyond the default, slots are not checked to the end."""
    max_slot_errors: int | None = 0
    """Slot errors an answer may have against its record; None: not checked."""
    distinct: bool = True
    """Whether a text that another answer to the same prompt already gave is dropped."""


def sort_out(
    labels: Iterable[Label],
    filters: Filters,
    slots: Mapping[str, str] | None = None,
    schema: SlotSchema | None = None,
    keep: int | None = None,
) -> tuple[list[Label], list[Rejected]]:
    """Divide the answers to one prompt into those to keep and those turned away, in their order.

    Args:
        labels: all answers to one prompt, best first: of equal texts the first is kept.
        filters: what they have to pass.
        slots, schema: the prompt's record and how it is said; without both, slots go unchecked.
        keep: good answers beyond this number are turned away as surplus; None: all are kept.
    """
    kept: list[Label] = []
    rejected: list[Rejected] = []
    seen: set[str] = set()
    for label in labels:
        found = reason_to_reject(label, filters, slots, schema, seen)
        if found is None and keep is not None and len(kept) == keep:
            found = ("surplus", f"{keep} answers to this prompt are enough")
        if found is None:
            kept.append(label)
            seen.add(text_key(label.text))
        else:
            rejected.append(_reject(label, *found))
    return kept, rejected


def reason_to_reject(
    label: Label,
    filters: Filters,
    slots: Mapping[str, str] | None = None,
    schema: SlotSchema | None = None,
    seen: Set[str] = frozenset(),
) -> tuple[Reason, str] | None:
    """The first reason not to learn from an answer, with its detail; None to keep it.

    Args:
        seen: `text_key` of the answers to the same prompt that were kept before.
    """
    if label.finish_reason != "stop":
        return "unfinished", f"finish reason {label.finish_reason!r}"
    if not label.text.strip():
        return "empty", "no text"
    if broken := _BROKEN.search(label.text):
        return "broken_text", f"no character at {broken.start()}"
    if filters.max_tokens is not None and label.tokens > filters.max_tokens:
        return "too_long", f"{label.tokens} tokens, limit {filters.max_tokens}"
    if len(label.text) > filters.max_chars:
        return "too_long", f"{len(label.text)} characters, limit {filters.max_chars}"
    if filters.max_slot_errors is not None and slots and schema is not None:
        errors = _slot_errors(label.text, slots, schema)
        if len(errors) > filters.max_slot_errors:
            return "slot_errors", "; ".join(errors)
    if filters.distinct and text_key(label.text) in seen:
        return "duplicate", "another answer to this prompt says the same"
    return None


def text_key(text: str) -> str:
    """What texts share that differ in letter case, punctuation and white space only."""
    return normalise(text) or " ".join(text.split())


def _slot_errors(text: str, slots: Mapping[str, str], schema: SlotSchema) -> list[str]:
    """One line per slot error: `missing region[eu-west-1]`, `wrong value: 2 s, not 1.8 s`."""
    check = check_answer(text, slots, schema)
    missing = [f"missing {item.slot}[{item.expected}]" for item in check.missing]
    added = [f"added {item.slot}: {item.found}" for item in check.added]
    wrong = [f"wrong {item.slot}: {item.found}, not {item.expected}" for item in check.wrong]
    return missing + added + wrong


def _reject(label: Label, reason: Reason, detail: str) -> Rejected:
    return Rejected(
        example_id=label.example_id,
        text=_BROKEN.sub("\ufffd", label.text),  # a lone surrogate can't be written
        tokens=label.tokens,
        finish_reason=label.finish_reason,
        rank=label.rank,
        source=label.source,
        reason=reason,
        detail=detail,
    )
