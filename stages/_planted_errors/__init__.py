"""Errors planted into clean texts, to measure the detectors that should find them.

Of independent making: nothing here reads a slot schema, serving/slots.py or serving/grounding.py.
What to change is found by the word lists and string rules of this package alone, in the text and in
the record as the data gives it; a value is found where the text has it word for word. So a detector
is never asked to find what its own rules put there.

A planting gives the changed text, or None where its rules do not apply; what it gives says
something else than the record. The same arguments give the same text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from stages._planted_errors.dropping import drop_slot
from stages._planted_errors.numbers import change_digit
from stages._planted_errors.polarity import deny_fact, flip_negation
from stages._planted_errors.strangers import add_foreign_name
from stages._planted_errors.values import Pools, pool_values, swap_value

__all__ = ["KINDS", "Clean", "Kind", "Planted", "Pools", "plant", "pool_values"]

Kind = Literal[
    "drop_slot", "swap_value", "flip_negation", "deny_fact", "change_digit", "add_foreign_name"
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Clean:
    """A text that says exactly its prompt; `record` is empty where the data has no records."""

    id: str
    prompt: str
    text: str
    record: Mapping[str, str]


@dataclass(frozen=True)
class Planted:
    """A clean text with one error; `clean` is its row in the sequence that was planted."""

    clean: int
    kind: Kind
    text: str


def plant(texts: Sequence[Clean], kinds: Sequence[Kind], pools: Pools, seed: int) -> list[Planted]:
    """Plant each kind of error into every text where its rules apply, one error at a time.

    Args:
        texts: clean texts.
        kinds: errors to plant.
        pools: values of other records, by slot (`pool_values`).
        seed: any integer; each text and kind has a chance of its own, so that neither the order of
            the texts nor a further kind changes the others.
    """
    return [
        Planted(number, kind, changed)
        for kind in kinds
        for number, clean in enumerate(texts)
        if (changed := plant_one(kind, clean, pools, seed))
    ]


def plant_one(kind: Kind, clean: Clean, pools: Pools, seed: int) -> str | None:
    """One error of one kind; None where no rule applies or the text stays the same."""
    rng = Random(f"{seed} {kind} {clean.id}")  # noqa: S311  planting errors, not cryptography
    changed = _changed(kind, clean, pools, rng)
    return changed if changed != clean.text else None


def _changed(kind: Kind, clean: Clean, pools: Pools, rng: Random) -> str | None:
    match kind:
        case "drop_slot":
            return drop_slot(clean.text, clean.record, rng)
        case "swap_value":
            return swap_value(clean.text, clean.record, pools, rng)
        case "flip_negation":
            return flip_negation(clean.text)
        case "deny_fact":
            return deny_fact(clean.text, rng)
        case "change_digit":
            return change_digit(clean.text, rng)
        case "add_foreign_name":
            return add_foreign_name(clean.text, clean.prompt, rng)
