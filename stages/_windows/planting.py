"""Prompts of a window in which something is new, at a stated share; pure and repeatable.

Of the built-in data the generator itself draws what might come later (stages/_incidents/drift.py).
Of any other data a share of held-out prompts is changed: of a record its copied values become
made-up ones, of plain text some of its words. The made-up words are few and come again, as a new
product's do.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from stages._incidents import drifted
from stages._incidents.drift import Scenario
from stages._value_noise import (
    Bank,
    copied_values,
    find_open_slots,
    invent_value,
    replace_values,
)

Example = dict[str, Any]
MADE_UP: Final = "made_up"
"""The scenario of data other than the built-in."""
COINED: Final = 24  # made-up words, half of them with a vowel first
SYLLABLES: Final = 3
CHANGED_WORDS: Final = 0.3  # of a changed plain text's words
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_WORD = re.compile(r"[^\W\d_]{4,}")  # shorter ones are mostly articles and prepositions


def plant_incidents(
    seed: int, rows: int, scenarios: Sequence[Scenario], share: float
) -> list[Example]:
    """Fresh incidents of which `share` is changed, by each of the scenarios in turn.

    Returns:
        rows as `stages._incidents.drifted` gives them; `meta["drift"]` names what changed.
    """
    drawn = [drifted(seed, rows, scenario, share) for scenario in scenarios]
    made, changed = [], 0
    for versions in zip(*drawn, strict=True):
        made.append(versions[changed % len(versions)])
        changed += "drift" in versions[0]["meta"]
    return made


def plant_changes(
    held_out: Sequence[Example],
    train: Sequence[Example],
    rows: int,
    share: float,
    rng: np.random.Generator,
) -> list[Example]:
    """Held-out examples in a random order, each at most once, of which `share` is changed.

    A changed record keeps the one reference that could be changed with it, if any; a changed
    plain text has none. Both have `meta["drift"]`.
    """
    open_slots, words = find_open_slots(train), coin_words(rng)
    bank = {vowel: [w for w in words if (w[0] in _VOWELS) == vowel] for vowel in (True, False)}
    order = rng.permutation(len(held_out))[:rows]
    changes = set(order[: round(share * len(order))].tolist())
    made = []
    for place in rng.permutation(order).tolist():
        example = held_out[place]
        if place not in changes:
            made.append(example)
        elif example.get("slots"):
            changed = change_record(example, open_slots, bank, rng)
            made.append(changed or change_value(example, words, rng))
        else:
            made.append(change_text(example, words, rng))
    return made


def coin_words(rng: np.random.Generator) -> list[str]:
    """Words that no language has, sorted."""
    words: set[str] = set()
    while len(words) < COINED:
        letters = [
            f"{_CONSONANTS[rng.integers(len(_CONSONANTS))]}{_VOWELS[rng.integers(len(_VOWELS))]}"
            for _ in range(SYLLABLES)
        ]
        word = "".join(letters)
        words.add(word[1:] if len(words) % 2 else word)
    return sorted(words)


def change_record(
    example: Example, open_slots: frozenset[str], bank: Bank, rng: np.random.Generator
) -> Example | None:
    """The example with made-up values in prompt, slots and its first reference that has any.

    None where no reference has a value of an open slot word for word.
    """
    may_change = {value for slot, value in example["slots"].items() if slot in open_slots}
    for reference in example["references"]:
        copied = [v for v in copied_values(example["slots"], reference) if v in may_change]
        new = {value: invent_value(value, bank, rng) for value in copied}
        if copied and (found := replace_values(example, reference, new)):
            made, text = found
            return _changed(made, [text])
    return None


def change_value(
    example: Mapping[str, Any], words: Sequence[str], rng: np.random.Generator
) -> Example:
    """The example with one value made up, in a slot drawn at random; no reference says it."""
    slot = sorted(example["slots"])[int(rng.integers(len(example["slots"])))]
    value, word = example["slots"][slot], words[int(rng.integers(len(words)))]
    prompt = example["prompt"].replace(f"{slot}[{value}]", f"{slot}[{word}]", 1)
    if prompt == example["prompt"]:  # no record, but a text that came with slots
        return change_text(example, words, rng)
    slots = {**example["slots"], slot: word}
    return _changed({**example, "prompt": prompt, "slots": slots}, [])


def change_text(
    example: Mapping[str, Any], words: Sequence[str], rng: np.random.Generator
) -> Example:
    """The example with some words of its prompt replaced by made-up ones; at least one is new."""
    prompt = example["prompt"]
    there = list(_WORD.finditer(prompt))
    chosen = [match for match in there if rng.random() < CHANGED_WORDS]
    chosen = chosen or there[:1]
    for match in reversed(chosen):
        word = words[int(rng.integers(len(words)))]
        prompt = prompt[: match.start()] + word + prompt[match.end() :]
    if not there:
        prompt = f"{prompt} {words[int(rng.integers(len(words)))]}"
    return _changed({**example, "prompt": prompt}, [])


def _changed(example: Example, references: list[str]) -> Example:
    meta = (example.get("meta") or {}) | {"drift": MADE_UP}
    return {**example, "references": references, "meta": meta}
