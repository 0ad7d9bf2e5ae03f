"""Find what an answer says about a record: every place where a value of a slot is said.

Candidates come from the schema's expressions, from known names, from the record's own values and
from quantities. One that lies inside a longer one is dropped ("Indian" in "Raja Indian Cuisine");
of two that overlap, the one that says an asked value wins, then the longer one. What a negation
does to them is in `_slots.negation`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from serving._slots.negation import Candidate, negate
from serving._slots.quantities import Number, Quantity, read_amounts, same_amount, scan
from serving._slots.schema import Compiled, Reading, SlotSchema
from serving._slots.text import Folded, fold, squeeze

_ROUNDS = 3
"""How often a candidate inside one that gave way gets another chance."""

_BEGINNING = re.compile(r"(?<!\w)\S")


@dataclass(frozen=True)
class Asked:
    """A record's value, read once: how it is compared depends on the slot's kind."""

    slot: str
    value: str
    squeezed: str  # how it is looked for when it is looked for as it is written
    amounts: tuple[tuple[str, float], ...]
    tolerance: float
    verbatim: bool  # looked for as it is written


def read_asked(slots: Mapping[str, str], schema: SlotSchema) -> tuple[Asked, ...]:
    """The slots of a record that the schema knows, in the record's order."""
    return tuple(
        _read_value(slot, value, schema) for slot, value in slots.items() if slot in schema.slots
    )


def find_candidates(text: Folded, schema: SlotSchema, asked: Sequence[Asked]) -> list[Candidate]:
    """What the text says, in its order and without overlaps, negation applied."""
    found, _ = find_all(text, schema, asked)
    return found


def find_all(
    text: Folded, schema: SlotSchema, asked: Sequence[Asked]
) -> tuple[list[Candidate], list[Number]]:
    """`find_candidates`, and the numbers that are in none of them."""
    compiled = schema.compiled
    quantities, numbers = scan(text.plain, compiled.units)
    spans: dict[tuple[int, int], list[Reading]] = {}
    for start, end, reading in (
        *_verbatim(text, asked),
        *_from_forms(text.plain, compiled),
        *_from_known(text, compiled),
    ):
        spans.setdefault((start, end), []).append(reading)
    candidates = [
        Candidate(start, end, tuple(readings), _satisfied(readings, asked, text.plain[start:end]))
        for (start, end), readings in spans.items()
    ]
    candidates += _from_quantities(quantities, schema, asked)
    chosen = _without_overlap(_settle_joined(candidates), len(text.plain))
    return negate(text.plain, chosen, compiled.cues), _outside(numbers, chosen)


def says(reading: Reading, asked: Asked, said: str) -> bool:
    """Whether a reading is the asked value; `said` is the folded text of its span."""
    if asked.amounts and reading.amounts:
        return any(
            dimension == wanted and same_amount(amount, aim, asked.tolerance)
            for dimension, amount in reading.amounts
            for wanted, aim in asked.amounts
        )
    if reading.amounts and reading.value is None:
        return False
    value = said if reading.value is None else reading.value
    return value == asked.value or (asked.verbatim and squeeze(value) == asked.squeezed)


def _read_value(slot: str, value: str, schema: SlotSchema) -> Asked:
    definition = schema.slots[slot]
    amounts: tuple[tuple[str, float], ...] = ()
    if definition["kind"] == "quantity":
        amounts = read_amounts(fold(value.strip()).plain, schema.compiled.units)
    described = (
        bool(amounts)
        or (definition["kind"] == "choice" and value in definition["values"])
        or (definition["kind"] == "flag" and value in (definition["affirm"], definition["refuse"]))
    )
    return Asked(
        slot, value, squeeze(value), amounts, float(definition.get("tolerance", 0.0)), not described
    )


def _verbatim(text: Folded, asked: Iterable[Asked]) -> Iterator[tuple[int, int, Reading]]:
    for item in asked:
        if item.verbatim:
            needle = item.squeezed
            bare = needle.removeprefix("the ")  # "The Eagle" may be said "Eagle"
            for start, end in _places(text, bare):
                if bare != needle and text.plain.endswith("the ", 0, start):
                    start -= 4
                yield start, end, Reading(item.slot, item.value)


def _from_known(text: Folded, compiled: Compiled) -> Iterator[tuple[int, int, Reading]]:
    for needle, reading in compiled.known:
        if needle in text.squeezed:
            for start, end in _places(text, needle):
                yield start, end, reading


def _places(text: Folded, needle: str) -> Iterator[tuple[int, int]]:
    """Spans of the plain text where a squeezed name stands between word borders."""
    plain, origin = text.plain, text.squeezed_origin
    at = text.squeezed.find(needle) if needle else -1
    while at >= 0:
        start, end = origin[at], origin[at + len(needle) - 1] + 1
        if not (_is_word(plain, start - 1) and _is_word(plain, start)) and not (
            _is_word(plain, end) and _is_word(plain, end - 1)
        ):
            yield start, end
        at = text.squeezed.find(needle, at + len(needle))


def _is_word(plain: str, index: int) -> bool:
    return 0 <= index < len(plain) and (plain[index].isalnum() or plain[index] == "_")


def _from_forms(plain: str, compiled: Compiled) -> Iterator[tuple[int, int, Reading]]:
    buckets, other = compiled.buckets, compiled.other
    for beginning in _BEGINNING.finditer(plain):
        start = beginning.start()
        bucket = buckets.get(plain[start], other)
        if bucket is None or not bucket.any_form.match(plain, start):
            continue
        for form in bucket.forms:
            match = form.pattern.match(plain, start)
            if match:
                for reading in form.readings:
                    yield start, match.end(), reading


def _from_quantities(
    quantities: Iterable[Quantity], schema: SlotSchema, asked: Sequence[Asked]
) -> Iterator[Candidate]:
    for quantity in quantities:
        dimensions = {dimension for dimension, _ in quantity.amounts}
        readings = [
            Reading(slot, None, amounts=quantity.amounts)
            for slot, spoken in schema.compiled.dimensions.items()
            if not spoken.isdisjoint(dimensions)
        ]
        yield Candidate(
            quantity.start,
            quantity.end,
            tuple(readings),
            _satisfied(readings, asked, ""),
            claims=quantity.claims,
            joined=quantity.joined,
        )


def _satisfied(readings: Sequence[Reading], asked: Sequence[Asked], said: str) -> frozenset[str]:
    """Slots whose asked value is among the readings of a span; `said` is its folded text."""
    return frozenset(
        item.slot
        for item in asked
        for reading in readings
        if reading.slot == item.slot and says(reading, item, said)
    )


def _settle_joined(candidates: list[Candidate]) -> list[Candidate]:
    """Take "5 min and 30 s" apart where a part, but not the whole, is an asked value."""
    explained = [(c.start, c.end) for c in candidates if c.asked and not c.joined]
    return [
        c
        for c in candidates
        if not c.joined
        or c.asked
        or not any(c.start <= start and end <= c.end for start, end in explained)
    ]


def _without_overlap(candidates: list[Candidate], length: int) -> list[Candidate]:
    """Settle overlaps: first the longer one around others, then the asked one, then the longer.

    What lies inside a candidate that itself gave way gets another chance, and a third.
    """
    taken = bytearray(length)
    chosen: list[Candidate] = []
    for _ in range(_ROUNDS):
        for candidate in sorted(_outermost(candidates), key=_precedence):
            if not any(taken[candidate.start : candidate.end]):
                taken[candidate.start : candidate.end] = b"\1" * (candidate.end - candidate.start)
                chosen.append(candidate)
        candidates = [c for c in candidates if not any(taken[c.start : c.end])]
        if not candidates:
            break
    return sorted(chosen, key=lambda c: c.start)


def _outermost(candidates: Iterable[Candidate]) -> list[Candidate]:
    outer: list[Candidate] = []
    reach = -1
    for candidate in sorted(candidates, key=lambda c: (c.start, -c.end)):
        if candidate.end > reach:
            outer.append(candidate)
            reach = candidate.end
    return outer


def _precedence(candidate: Candidate) -> tuple[bool, int, int]:
    return not candidate.asked, candidate.start - candidate.end, candidate.start


def _outside(numbers: Iterable[Number], chosen: Sequence[Candidate]) -> list[Number]:
    spans = iter([*chosen, Candidate(1 << 60, 1 << 60, ())])
    span = next(spans)
    outside = []
    for number in sorted(numbers, key=lambda n: n.start):
        while span.end <= number.start:
            span = next(spans)
        if number.end <= span.start:
            outside.append(number)
    return outside
