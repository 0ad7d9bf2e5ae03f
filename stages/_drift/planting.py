"""A shift of one's own making: every row again with values or words that training never had.

It is what the detectors are tried with on the reference itself, so that a report can say what they
would have found. In records the values of open slots change, in prompt and answer alike
(stages/_value_noise.py); in other texts a few words become made-up ones, the same ones everywhere.
What a model says of its answer is left as it was: this is a shift of the input.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.slots import is_record, parse_record, render_record
from stages._value_noise import Bank, find_open_slots, invent_value, word_bank

Row = dict[str, Any]
_WORD = re.compile(r"[^\W\d_]{4,}")
_NAMED = re.compile(r"(?!\W*\d).*[^\W\d_]{2}", re.DOTALL)
"""A value that names something; amounts stay, as their units mean something."""
REPLACED = 0.3
"""Chance that a longer word of a plain text becomes a made-up one."""
VALUES = 0.5
"""Chance that an open value of a record is replaced; at least one is."""


def shift_rows(rows: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> list[Row]:
    """Each row, changed; one without text, or whose values are all amounts, stays as it is."""
    records = [row for row in rows if _is_written_record(row)]
    open_slots = find_open_slots(records)
    bank = word_bank(records, open_slots)
    drawable = all(len(found) > 1 for found in bank.values())
    shifted = []
    for row in rows:
        if drawable and _is_written_record(row) and open_slots & row["slots"].keys():
            shifted.append(_with_values(row, open_slots, bank, rng))
        else:
            shifted.append(_with_words(row, rng) if row.get("prompt") else dict(row))
    return shifted


def _is_written_record(row: Mapping[str, Any]) -> bool:
    """Whether the prompt is the record, so that it can be written anew."""
    prompt = row.get("prompt") or ""
    return bool(row.get("slots")) and is_record(prompt) and parse_record(prompt) == row["slots"]


def _with_values(
    row: Mapping[str, Any], open_slots: frozenset[str], bank: Bank, rng: np.random.Generator
) -> Row:
    """A record with other values, its prompt written anew and its answer along with it."""
    slots = parse_record(row["prompt"])  # in the order of the prompt
    may_change = [slot for slot in slots if slot in open_slots and _NAMED.match(slots[slot])]
    chosen = [slot for slot in may_change if rng.random() < VALUES]
    if may_change and not chosen:
        chosen = [may_change[int(rng.integers(len(may_change)))]]
    answer = row.get("answer")
    for slot in chosen:
        new = invent_value(slots[slot], bank, rng)
        answer = answer.replace(slots[slot], new) if answer else answer
        slots[slot] = new
    return _measured(row, prompt=render_record(slots), slots=slots, answer=answer)


def _with_words(row: Mapping[str, Any], rng: np.random.Generator) -> Row:
    """A text of which some longer words are coined ones."""
    words = sorted(set(_WORD.findall(row["prompt"])))
    changed = {word: coin(word) for word in words if rng.random() < REPLACED}

    def other(found: re.Match[str]) -> str:
        return changed.get(found.group(), found.group())

    answer = row.get("answer")
    said = _WORD.sub(other, answer) if answer else answer
    return _measured(row, prompt=_WORD.sub(other, row["prompt"]), answer=said)


def coin(word: str) -> str:
    """A word that hardly any language has: the old one from behind, and so always the same."""
    return word[::-1].lower()


def _measured(row: Mapping[str, Any], **new: Any) -> Row:
    """The row with new texts and their lengths."""
    changed = {**row, **new}
    changed["prompt_chars"] = len(changed["prompt"])
    if changed.get("answer") is not None:
        changed["answer_chars"] = len(changed["answer"])
    return changed
