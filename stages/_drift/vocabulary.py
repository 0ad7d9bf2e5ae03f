"""What training knew: words of prompts and answers, values of slots, and which slots follow which.

Both sides of a comparison are held against it, never against each other: a window has new values
even where nothing changed, and only the share of them may grow.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from serving.slots import SlotSchema, is_record, parse_record

_WORD = re.compile(r"\w+")
_FORM_WORD = re.compile(r"\w+|[^\w\s]")
_AMOUNT = re.compile(r"\W*\d")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
LISTED = frozenset({"choice", "flag"})
"""Kinds of slot whose values are a list: a number in one is part of its name."""


@dataclass(frozen=True)
class Training:
    """What the training split says."""

    prompt_words: frozenset[str]
    answer_words: frozenset[str]
    values: Mapping[str, frozenset[str]]
    """Per slot the forms of its values (`value_form`)."""
    value_words: Mapping[str, frozenset[str]]
    """Per slot the words of these forms."""
    orders: frozenset[tuple[str, str]]
    """Slots that follow one another in a record."""
    schema: SlotSchema | None

    def form(self, slot: str, value: str) -> str:
        """A value as it is compared: amounts without their numbers, so that units remain."""
        definition = self.schema.slots.get(slot) if self.schema else None
        return value_form(value, listed=definition is not None and definition["kind"] in LISTED)

    def knows(self, slot: str, value: str) -> bool:
        """Whether training has such a value of this slot."""
        return self.form(slot, value) in self.values.get(slot, ())

    def knows_words(self, slot: str, value: str) -> bool:
        """Whether each word of a value came in some value of this slot."""
        known = self.value_words.get(slot, frozenset())
        return all(word in known for word in form_words(self.form(slot, value)))

    def outside_schema(self, slot: str, value: str) -> bool:
        """Whether the schema lists this slot's values, and this is none of them."""
        definition = self.schema.slots.get(slot) if self.schema else None
        if definition is None or definition["kind"] not in LISTED:
            return False
        if definition["kind"] == "flag":
            return value not in (definition["affirm"], definition["refuse"])
        return value not in definition["values"]


def learn(examples: Iterable[Mapping[str, Any]], schema: SlotSchema | None) -> Training:
    """What `examples` (prepared rows of train) say."""
    prompt_words, answer_words = set[str](), set[str]()
    values: dict[str, set[str]] = {}
    orders = set[tuple[str, str]]()
    empty = Training(frozenset(), frozenset(), {}, {}, frozenset(), schema)
    for example in examples:
        prompt_words.update(words(full_prompt(example)))
        for reference in example.get("references") or ():
            answer_words.update(words(reference))
        orders.update(pairwise(order_of(example)))
        for slot, value in (example.get("slots") or {}).items():
            values.setdefault(slot, set()).add(empty.form(slot, value))
    return Training(
        frozenset(prompt_words),
        frozenset(answer_words),
        {slot: frozenset(found) for slot, found in values.items()},
        {
            slot: frozenset(word for form in found for word in form_words(form))
            for slot, found in values.items()
        },
        frozenset(orders),
        schema,
    )


def full_prompt(row: Mapping[str, Any]) -> str:
    """Prompt and context as one text; empty where neither is known."""
    return "\n".join(part for part in (row.get("prompt"), row.get("context")) if part)


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores in lower case; every number is one and the same."""
    return _WORD.findall(_NUMBER.sub("0", text.lower()))


def unseen_share(text: str, known: frozenset[str]) -> float | None:
    """Share of a text's words that are not `known`, 0 to 1; None of a text without words."""
    found = words(text)
    return sum(word not in known for word in found) / len(found) if found else None


def value_form(value: str, *, listed: bool) -> str:
    """A value in lower case; of an amount every number is "#": "9.4 s" is "# s"."""
    lowered = " ".join(value.lower().split())
    if listed or not _AMOUNT.match(lowered):
        return lowered
    return _NUMBER.sub("#", lowered)


def form_words(form: str) -> list[str]:
    """Words of a value's form; signs such as "%" and "#" are words, too."""
    return _FORM_WORD.findall(form)


def order_of(row: Mapping[str, Any]) -> list[str]:
    """Slots in the order of the prompt; none where the prompt is no record.

    A row's own slots will not do: a live record keeps them sorted.
    """
    prompt = row.get("prompt") or ""
    return list(parse_record(prompt)) if row.get("slots") and is_record(prompt) else []


def order_share(row: Mapping[str, Any], known: frozenset[tuple[str, str]]) -> float | None:
    """Share of a record's neighbours that training never had so; None of less than two slots."""
    pairs = list(pairwise(order_of(row)))
    return sum(pair not in known for pair in pairs) / len(pairs) if pairs else None
