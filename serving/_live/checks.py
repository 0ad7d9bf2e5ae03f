"""Check every answer against what was asked: slots where there is a schema, grounding always.

Each check says "ok", "found" or "not_run": a check that could not run, or that did not read a text
to its end, never says "ok". Findings are kinds and spans, never text.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from serving._items import Item
from serving.errors import StillhouseError
from serving.grounding import check_grounding
from serving.slots import Mention, SlotCheck, SlotSchema, check_answer, find_mentions, parse_record

CheckName = Literal["slots", "grounding"]
CheckState = Literal["ok", "found", "not_run"]
BRIEF_CHARS = 600
"""Prompt, context and answer together: checked within the event loop, longer ones beside it."""

_log = logging.getLogger(__name__)


class Found(NamedTuple):
    """One finding; the slot's name is the schema's own (or "number"), so its values are bounded."""

    check: CheckName
    kind: str
    """missing, added, wrong; number, name, code, quote, link."""
    slot: str | None = None
    start: int | None = None
    """In the answer [characters]; None where something is missing."""
    end: int | None = None


@dataclass(frozen=True)
class Checked:
    """What the checks of one answer came to."""

    slots: CheckState = "not_run"
    grounding: CheckState = "not_run"
    findings: tuple[Found, ...] = ()
    slots_asked: int = 0
    """Slots of the record that the schema knows [count]."""
    slots_unchecked: int = 0
    """Slots of the record that it does not know [count]."""
    slots_said: int = 0
    """Asked slots whose value the answer says [count]."""
    claims: int = 0
    """Numbers, names, codes, quotations and links in the answer [count]."""

    def count(self, check: CheckName) -> int:
        """Findings of one check."""
        return sum(one.check == check for one in self.findings)


class AnswerChecks:
    """The checks of one task."""

    def __init__(self, schema: SlotSchema | None) -> None:
        """`schema` as the model's contract has it."""
        self.schema = schema

    def check(self, item: Item, answer: str) -> Checked:
        """All checks of one text; a fault in a check is a check that did not run."""
        slots, grounding = Checked(), Checked()
        try:
            slots = self._slots(item, answer)
        except Exception as error:
            _not_run("slots", error)
        try:
            grounding = _grounding(item, answer)
        except Exception as error:
            _not_run("grounding", error)
        return Checked(
            slots.slots,
            grounding.grounding,
            slots.findings + grounding.findings,
            slots.slots_asked,
            slots.slots_unchecked,
            slots.slots_said,
            grounding.claims,
        )

    async def checked(self, item: Item, answer: str) -> Checked:
        """The same within the event loop: long texts are read beside it, for others wait for it."""
        if len(item.prompt) + len(item.context or "") + len(answer) <= BRIEF_CHARS:
            return self.check(item, answer)
        return await asyncio.to_thread(self.check, item, answer)

    def said(self, item: Item, answer: str) -> frozenset[tuple[str, str]] | None:
        """Slots and values that an answer says; None without a schema."""
        if self.schema is None:
            return None
        mentions = find_mentions(answer, self.schema, record_of(item) or {})
        return frozenset((one.slot, one.value) for one in mentions)

    def right(self, item: Item, answer: str) -> list[Mention]:
        """Where an answer says what its record asks; none without a schema or a record."""
        record = record_of(item)
        if self.schema is None or record is None:
            return []
        found = find_mentions(answer, self.schema, record)
        return [one for one in found if record.get(one.slot) == one.value]

    def _slots(self, item: Item, answer: str) -> Checked:
        record = record_of(item)
        if self.schema is None or not record:
            return Checked()
        check = check_answer(answer, record, self.schema)
        if not check.slots:
            return Checked(slots_unchecked=len(check.unknown))
        findings = _slot_findings(check)
        return Checked(
            slots=_state(bool(findings), complete=not check.cut),
            findings=findings,
            slots_asked=check.slots,
            slots_unchecked=len(check.unknown),
            slots_said=check.slots - len(check.missing) - len(check.wrong),
        )


def record_of(item: Item) -> Mapping[str, str] | None:
    """The record that a prompt asks about, given or written in it; None where there is none."""
    if item.slots:
        return item.slots
    try:
        return parse_record(item.prompt)
    except StillhouseError:
        return None


def _slot_findings(check: SlotCheck) -> tuple[Found, ...]:
    kinds = {"missing": check.missing, "added": check.added, "wrong": check.wrong}
    return tuple(
        Found("slots", kind, one.slot, one.start, one.end)
        for kind, found in kinds.items()
        for one in found
    )


def _grounding(item: Item, answer: str) -> Checked:
    record = " ".join(f"{slot}[{value}]" for slot, value in (item.slots or {}).items())
    source = "\n".join(part for part in (item.context, record) if part)
    found = check_grounding(answer, item.prompt, source or None)
    findings = tuple(Found("grounding", c.kind, None, c.start, c.end) for c in found.unsupported)
    state = _state(bool(findings), complete=found.complete)
    return Checked(grounding=state, findings=findings, claims=found.claims)


def _state(found: bool, *, complete: bool) -> CheckState:
    if found:
        return "found"
    return "ok" if complete else "not_run"


def _not_run(check: CheckName, error: Exception) -> None:
    """Tell the kind of a fault: its words may quote the answer."""
    _log.error("the check %s did not run: %s", check, type(error).__name__)
