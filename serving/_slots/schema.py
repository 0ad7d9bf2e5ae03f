"""A slot schema: how the values of a task's records are said; plain data, compiled once.

It is written in YAML (configs/schemas) and travels as the same structure in JSON:

    name: incidents
    words: {rate: 'rates?|ratings?'}    # optional: {rate} in an expression stands for this
    slots:
      service:
        kind: name                      # open class: the value itself is said
        pattern: '[a-z]+-(?:api|db)'    # optional: what such a value looks like
        known: [checkout-api]           # optional: values that are found though nobody asks
        values: {checkout-api: ['the checkout service']}    # optional: other ways to say one
      region:
        kind: choice                    # closed class: every value with the ways to say it
        values: {eu-west-1: ['eu-west-1', 'Ireland'], eu-west-2: ['London']}
        same: [[eu-west-1, eu-west-2]]  # optional: values that are said for one another
        hints: {eu-west-1: ['Europe']}  # optional: says it, but too vaguely to be an error
      data_loss:
        kind: flag                      # two opposite values; a negation turns `say` round
        affirm: 'yes'
        refuse: 'no'
        say: ['data loss']
        deny: ['all data is safe']      # optional; `hints` for either value, too
      duration:
        kind: quantity                  # number with unit; equal within `tolerance` (relative)
        units: {min: {dimension: time, factor: 60, say: ['min', 'minutes?']}}
        tolerance: 0.01                 # optional, default 0
        values: {30 min: ['half an hour']}    # optional: other ways to say one amount
    negation: ['not', "n't", 'no']

Expressions are matched with the folded text (lower case, no accents) between word borders; which
ones are allowed is told in `_slots.patterns`. In names, letter case, accents, hyphen or space,
apostrophes and a leading "the" make no difference. A unit whose `say` holds an empty text is the
unit of bare numbers.
"""

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from serving._slots.mistakes import schema_mistakes
from serving._slots.patterns import read_pattern
from serving._slots.quantities import Units, read_amounts, read_units
from serving._slots.text import fold, squeeze
from serving.errors import StillhouseError


@dataclass(frozen=True)
class Reading:
    """What a piece of text can mean: this value of this slot.

    Attributes:
        value: the slot's value; None when it is the matched text itself.
        turned: the value it means under a negation; None where it then means nothing.
        amounts: for a quantity, the amount in each dimension.
        hint: true when it is too vague to count against an answer.
    """

    slot: str
    value: str | None
    turned: str | None = None
    amounts: tuple[tuple[str, float], ...] = ()
    hint: bool = False


@dataclass(frozen=True)
class Form:
    """One way to say something: the expression and all its readings."""

    pattern: re.Pattern[str]
    readings: tuple[Reading, ...]


@dataclass(frozen=True)
class Bucket:
    """Forms that can start with one character; `any_form` tells quickly whether one does."""

    any_form: re.Pattern[str]
    forms: tuple[Form, ...]


@dataclass(frozen=True)
class Compiled:
    """A schema ready for search; `other` serves the characters that have no bucket."""

    buckets: Mapping[str, Bucket]
    other: Bucket | None
    known: tuple[tuple[str, Reading], ...]
    units: Units
    dimensions: Mapping[str, frozenset[str]]
    cues: re.Pattern[str] | None


@dataclass(frozen=True)
class SlotSchema:
    """How the values of a task's records are said.

    Attributes:
        name: the task's name.
        slots: per slot its definition, as given (kind, values, units, ...).
        negation: words that turn a statement round.
        words: expressions that others use as {name}.
    """

    name: str
    slots: Mapping[str, Mapping[str, Any]]
    negation: tuple[str, ...] | None = None
    words: Mapping[str, str] | None = None

    @classmethod
    def from_dict(cls, data: Any) -> "SlotSchema":
        """Check `data` and take it over; equal data gives the same schema, which is read once.

        Raises:
            StillhouseError: with every mistake in it, by slot and key.
        """
        known = repr(data)  # and not JSON, which forgets types that are mistakes
        found = _READ.get(known)
        if found is None:
            if len(_READ) >= READ_AT_MOST:
                _READ.clear()
            found = _READ[known] = cls._read(data)
        return found

    @classmethod
    def _read(cls, data: Any) -> "SlotSchema":
        mistakes = list(schema_mistakes(data))
        if mistakes:
            name = data.get("name", "without a name") if isinstance(data, Mapping) else "of a task"
            count = f"{len(mistakes)} mistake{'s' * (len(mistakes) > 1)}"
            raise StillhouseError(
                f"slot schema {name} has {count}: {'; '.join(mistakes)}. Mend the schema file."
            )
        given = copy.deepcopy(dict(data))
        negation = tuple(given["negation"]) if "negation" in given else None
        return cls(given["name"], given["slots"], negation, given.get("words"))

    def to_dict(self) -> dict[str, Any]:
        """The data that `from_dict` was given."""
        data: dict[str, Any] = {"name": self.name}
        if self.words is not None:
            data["words"] = dict(self.words)
        data["slots"] = copy.deepcopy(dict(self.slots))
        if self.negation is not None:
            data["negation"] = list(self.negation)
        return data

    @cached_property
    def compiled(self) -> Compiled:
        """Expressions ready for search, built on first use."""
        return _compile(self)


_READ: dict[str, SlotSchema] = {}
READ_AT_MOST = 16  # schemas kept


def _compile(schema: SlotSchema) -> Compiled:
    units = read_units(
        [unit for slot in schema.slots.values() for unit in slot.get("units", {}).values()]
    )
    said: dict[str, list[Reading]] = {}
    for source, reading in _said(schema, units):
        readings = said.setdefault(source, [])
        readings += [reading] if reading not in readings else []
    sources: dict[str, list[Reading]] = {}
    firsts: dict[str, frozenset[str] | None] = {}
    for source, readings in said.items():
        part = read_pattern(source, schema.words or {})
        sources[part.source] = [*sources.get(part.source, []), *readings]
        firsts[part.source] = part.first
    ordered = sorted(sources, key=len, reverse=True)
    initials = sorted({c for first in firsts.values() for c in first or ()})
    everywhere = [s for s in ordered if firsts[s] is None]
    buckets = {
        c: _bucket([s for s in ordered if c in (firsts[s] or ()) or s in everywhere], sources)
        for c in initials
    }
    other = _bucket(everywhere, sources) if everywhere else None
    dimensions = {
        slot: frozenset(unit["dimension"] for unit in definition["units"].values())
        for slot, definition in schema.slots.items()
        if definition["kind"] == "quantity"
    }
    return Compiled(buckets, other, _known(schema), units, dimensions, _cues(schema.negation or ()))


def _said(schema: SlotSchema, units: Units) -> Iterable[tuple[str, Reading]]:
    """Every expression of the schema with its reading, in the schema's order."""
    for slot, definition in schema.slots.items():
        if "pattern" in definition:
            yield definition["pattern"], Reading(slot, None)
        if definition["kind"] == "flag":
            yield from _flag_forms(slot, definition)
            continue
        for key in ("values", "hints"):
            for value, ways in definition.get(key, {}).items():
                is_quantity = definition["kind"] == "quantity"
                amounts = read_amounts(fold(value).plain, units) if is_quantity else ()
                same = [v for group in definition.get("same", ()) if value in group for v in group]
                for source in ways:
                    for meant in dict.fromkeys([value, *same]):
                        yield source, Reading(slot, meant, None, amounts, key == "hints")


def _flag_forms(slot: str, definition: Mapping[str, Any]) -> Iterable[tuple[str, Reading]]:
    affirm, refuse = definition["affirm"], definition["refuse"]
    hints = definition.get("hints", {})
    for source in definition["say"]:
        yield source, Reading(slot, affirm, turned=refuse)
    for source in definition.get("deny", ()):
        yield source, Reading(slot, refuse, turned=refuse)
    for source in hints.get(affirm, ()):
        yield source, Reading(slot, affirm, turned=refuse, hint=True)
    for source in hints.get(refuse, ()):
        yield source, Reading(slot, refuse, turned=refuse, hint=True)


def _bucket(sources: list[str], readings: Mapping[str, list[Reading]]) -> Bucket:
    forms = [Form(re.compile(rf"(?:{s})(?!\w)"), tuple(readings[s])) for s in sources]
    return Bucket(re.compile(rf"(?:{'|'.join(sources)})(?!\w)"), tuple(forms))


def _known(schema: SlotSchema) -> tuple[tuple[str, Reading], ...]:
    return tuple(
        (squeeze(value), Reading(slot, value))
        for slot, definition in schema.slots.items()
        for value in dict.fromkeys([*definition.get("known", ()), *definition.get("values", ())])
        if definition["kind"] == "name" and squeeze(value)
    )


def _cues(negation: tuple[str, ...]) -> re.Pattern[str] | None:
    folded = [fold(cue).plain.strip() for cue in negation if cue.strip()]
    if not folded:
        return None
    ordered = sorted(map(re.escape, folded), key=len, reverse=True)
    tied = [cue for cue in ordered if cue.startswith("n't")]  # the end of a word: "isn't"
    apart = [cue for cue in ordered if cue not in tied]
    spelled = tied + ([rf"(?<!\w)(?:{'|'.join(apart)})"] if apart else [])
    return re.compile(rf"(?:{'|'.join(spelled)})(?!\w)")
