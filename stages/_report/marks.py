"""An answer cut into pieces: what it says rightly, wrongly or unasked, and what it leaves out.

With a slot schema the slot check decides, anew on the text; without one, evaluate's findings of
claims that the prompt does not support. All pieces together are the answer, letter for letter.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from serving.slots import Mention, SlotCheck, SlotSchema, check_answer, find_mentions

MOST_CHARS = 280
"""Of an answer that are shown; a model that runs away would fill pages."""
Kind = Literal["right", "wrong", "added", "unsupported"]
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Piece:
    """A stretch of an answer; without a kind, plain text."""

    text: str
    kind: Kind | None = None
    told: str = ""
    """What the mark means, in words."""


@dataclass(frozen=True)
class Marked:
    """An answer with its marks."""

    pieces: Sequence[Piece]
    missing: Sequence[str]
    """Slots with the values that were asked and are not said."""
    errors: int | None
    """Slot errors; None where slots were not checked."""


@dataclass(frozen=True)
class Span:
    """Characters of an answer that get a mark."""

    start: int
    end: int
    kind: Kind
    told: str


def mark(line: Line, schema: SlotSchema | None) -> Marked:
    """The answer of one line of reports/evaluate/<candidate>.jsonl with its marks."""
    text, record = line["output"], line.get("slots")
    if schema is None or not record:
        found = [one["found"] for one in line.get("unsupported") or []]
        return Marked(cut(text, _unsupported(text, found)), (), None)
    check = check_answer(text, record, schema)
    right = [m for m in find_mentions(text, schema, record) if record.get(m.slot) == m.value]
    spans = [*_errors(check), *_right(right)]
    missing = tuple(f"{one.slot}: {one.expected}" for one in check.missing)
    return Marked(cut(text, spans), missing, check.errors)


def clip(pieces: Sequence[Piece], most: int = MOST_CHARS) -> tuple[list[Piece], int]:
    """The pieces up to so many characters, and how many characters are left out."""
    kept: list[Piece] = []
    left = most
    for piece in pieces:
        if left > 0:
            kept.append(replace(piece, text=piece.text[:left]))
        left -= len(piece.text)
    return kept, max(-left, 0)


def cut(text: str, spans: Iterable[Span]) -> list[Piece]:
    """Pieces of the text; of spans that overlap the one given first keeps its place."""
    kept: list[Span] = []
    for span in spans:
        inside = 0 <= span.start < span.end <= len(text)
        if inside and all(span.end <= o.start or o.end <= span.start for o in kept):
            kept.append(span)
    pieces, at = [], 0
    for span in sorted(kept, key=lambda one: one.start):
        pieces += [Piece(text[at : span.start])] if at < span.start else []
        pieces.append(Piece(text[span.start : span.end], span.kind, span.told))
        at = span.end
    return [*pieces, *([Piece(text[at:])] if at < len(text) else [])]


def _errors(check: SlotCheck) -> list[Span]:
    """Wrong values before added ones."""
    spans = [
        Span(f.start, f.end, "wrong", f"wrong {f.slot}: asked was {f.expected}")
        for f in check.wrong
        if f.start is not None and f.end is not None
    ]
    return spans + [
        Span(f.start, f.end, "added", f"not asked: {f.slot}")
        for f in check.added
        if f.start is not None and f.end is not None
    ]


def _right(mentions: Iterable[Mention]) -> list[Span]:
    return [Span(m.start, m.end, "right", m.slot) for m in mentions]


def _unsupported(text: str, found: Iterable[str]) -> list[Span]:
    """The first place of each claim."""
    places = [(text.find(claim), claim) for claim in found if claim]
    return [
        Span(at, at + len(claim), "unsupported", "not in the prompt")
        for at, claim in places
        if at >= 0
    ]
