"""Check an answer against the record it was asked about: what is missing, added, wrong, negated.

A record is a prompt such as `service[checkout-api], value[1.8 s]`. A slot schema (see
configs/schemas) says how each slot's values are said, so the same code serves every task, offline
in evaluation and online behind the service: standard library only, bounded on any input (an
answer is read up to 4,000 characters), thousands of checks per second.

The measure is the slot error rate of rule-based checkers for data-to-text generation (Dušek,
Howcroft and Rieser, 2019): (missing + added + wrong) / slots of the record. Repeats are no error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving._slots.mentions import Asked, find_all, find_candidates, read_asked
from serving._slots.mistakes import NUMBER
from serving._slots.negation import Candidate
from serving._slots.quantities import number_values, same_amount
from serving._slots.records import is_record, parse_record, render_record
from serving._slots.rewrite import relexicalise
from serving._slots.schema import Reading, SlotSchema
from serving._slots.text import MAX_CHARS, Folded, fold

__all__ = [
    "MAX_CHARS",
    "Finding",
    "Mention",
    "SlotCheck",
    "SlotSchema",
    "check_answer",
    "find_mentions",
    "is_record",
    "parse_record",
    "relexicalise",
    "render_record",
]


@dataclass(frozen=True)
class Mention:
    """A value that is said: `answer[start:end]` says `value` of `slot`."""

    slot: str
    value: str
    start: int
    end: int


@dataclass(frozen=True)
class Finding:
    """One error of an answer.

    Attributes:
        slot: the slot, or "number" for a number that no slot explains.
        expected: the asked value; None when nothing was asked.
        found: what the answer says instead; None when it says nothing.
        start, end: where it says so, in characters of the answer; None when it says nothing.
    """

    slot: str
    expected: str | None
    found: str | None
    start: int | None
    end: int | None


@dataclass(frozen=True)
class SlotCheck:
    """The outcome of one check.

    Attributes:
        missing, added, wrong: the errors of each kind, in record order, then in text order.
        slots: number of slots of the record that the schema knows.
        unknown: slots of the record that it does not know; not checked and not counted.
        cut: whether the answer was longer than what is read.
    """

    missing: tuple[Finding, ...]
    added: tuple[Finding, ...]
    wrong: tuple[Finding, ...]
    slots: int
    unknown: tuple[str, ...] = ()
    cut: bool = False

    @property
    def errors(self) -> int:
        """Number of errors of all kinds."""
        return len(self.missing) + len(self.added) + len(self.wrong)

    @property
    def error_rate(self) -> float:
        """Errors per asked slot; can exceed 1. A record without slots counts as one slot."""
        return self.errors / max(self.slots, 1)


def find_mentions(
    text: str, schema: SlotSchema, slots: Mapping[str, str] | None = None
) -> list[Mention]:
    """Every place where a value of a slot is said, in text order, without overlaps.

    A piece of text that can mean several values means the asked one; a piece that says the asked
    value of two slots is a mention of both. What a negation takes back is not said.

    Args:
        text: an answer; read up to `MAX_CHARS` characters.
        slots: the record, if there is one.
    """
    folded = fold(text)
    asked = read_asked(slots or {}, schema)
    mentions = []
    for candidate in find_candidates(folded, schema, asked):
        start, end = folded.original_span(candidate.start, candidate.end)
        for slot, value in _meanings(candidate, asked):
            mentions.append(Mention(slot, value or folded.original[start:end], start, end))
    return mentions


def check_answer(answer: str, slots: Mapping[str, str], schema: SlotSchema) -> SlotCheck:
    """Compare an answer with its record.

    An asked slot is wrong when the answer says another value of it, be it instead or besides, and
    missing when it says none. A value of a slot that is not asked is added, and so is a number
    that no slot explains. Each is counted once, however often it is repeated.
    """
    folded = fold(answer)
    asked = read_asked(slots, schema)
    candidates, numbers = find_all(folded, schema, asked)
    said = {slot for c in candidates if not c.negated for slot in c.asked}
    said |= {slot for c in candidates if c.negated for slot in _turned(c, asked)}
    wrong, added = _claims(folded, candidates, asked, said)
    missing = tuple(
        Finding(item.slot, item.value, None, None, None)
        for item in asked
        if item.slot not in said and item.slot not in wrong
    )
    explained = _record_numbers(slots, schema) if numbers else set()
    loose = {
        folded.plain[n.start : n.end]: (n.start, n.end)
        for n in reversed(numbers)
        if n.value is None or not any(same_amount(n.value, known) for known in explained)
    }
    added += [_finding(NUMBER, None, folded, *span) for span in reversed(loose.values())]
    return SlotCheck(
        missing,
        tuple(added),
        tuple(wrong[item.slot] for item in asked if item.slot in wrong),
        len(asked),
        tuple(slot for slot in slots if slot not in schema.slots),
        len(answer) > len(folded.original),
    )


def _meanings(candidate: Candidate, asked: Sequence[Asked]) -> list[tuple[str, str | None]]:
    """Slots and values that a candidate says; the first reading where the record decides none."""
    if candidate.negated:
        turned = [r for r in candidate.readings if r.turned is not None]
        return [(r.slot, r.turned) for r in turned[:1]]
    values = {item.slot: item.value for item in asked}
    if candidate.asked:
        return [(item.slot, values[item.slot]) for item in asked if item.slot in candidate.asked]
    return [(r.slot, r.value) for r in candidate.readings[:1]]


def _turned(candidate: Candidate, asked: Sequence[Asked]) -> set[str]:
    """Asked flags whose value a negated candidate says."""
    turned = {(r.slot, r.turned) for r in candidate.readings if r.turned is not None}
    return {item.slot for item in asked if (item.slot, item.value) in turned}


def _claims(
    text: Folded, candidates: Sequence[Candidate], asked: Sequence[Asked], said: set[str]
) -> tuple[dict[str, Finding], list[Finding]]:
    """What the answer says beyond the asked values: wrong ones by slot, added ones."""
    expected = {item.slot: item.value for item in asked}
    wrong: dict[str, Finding] = {}
    added: list[tuple[set[str | None], Finding]] = []
    for candidate in candidates:
        slots = _claimed(candidate, asked)
        if not slots:
            continue
        slot = _attributed(slots, expected, said, wrong, candidate)
        finding = _finding(slot, expected.get(slot), text, candidate.start, candidate.end)
        readings = [r for r in candidate.readings if r.slot == slot]
        if slot in expected:
            wrong.setdefault(slot, finding)
        else:
            values = {_claimed_value(r, candidate) or finding.found for r in readings}
            repeated = any(f.slot == slot and values & before for before, f in added)
            if not repeated:
                added.append((values, finding))
    return wrong, [finding for _, finding in added]


def _claimed_value(reading: Reading, candidate: Candidate) -> str | None:
    return reading.turned if candidate.negated else reading.value


def _claimed(candidate: Candidate, asked: Sequence[Asked]) -> list[str]:
    """Slots of which a candidate may say something that was not asked."""
    if candidate.negated:
        flags = [r for r in candidate.readings if r.turned is not None]
        if flags:
            said = _turned(candidate, asked)
            return [] if said else [r.slot for r in flags if not r.hint]
        return sorted(candidate.asked)  # "not in Ireland", though Ireland was asked
    if candidate.asked or not candidate.claims:
        return []
    return list(dict.fromkeys(r.slot for r in candidate.readings if not r.hint))


def _attributed(
    slots: Sequence[str],
    expected: Mapping[str, str],
    said: set[str],
    wrong: Mapping[str, Finding],
    candidate: Candidate,
) -> str:
    """The one slot a claim is counted for: first one still unsaid, then one that was not asked."""
    unsaid = [s for s in expected if s in slots and s not in said and s not in wrong]
    unasked = [s for s in slots if s not in expected]
    loose = [NUMBER] if any(r.amounts and r.value is None for r in candidate.readings) else []
    return next(iter([*unsaid, *unasked, *loose, *slots]))


def _finding(slot: str, expected: str | None, text: Folded, start: int, end: int) -> Finding:
    begin, stop = text.original_span(start, end)
    return Finding(slot, expected, text.original[begin:stop], begin, stop)


def _record_numbers(slots: Mapping[str, str], schema: SlotSchema) -> set[float]:
    units = schema.compiled.units
    return {n for value in slots.values() for n in number_values(fold(value).plain, units)}
