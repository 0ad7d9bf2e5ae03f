"""Find and mask personal data by pattern and checksum: standard library only, linear time.

Used on training data and on live requests, so precision goes first: a version is no IP address, a
number with a thousands separator no telephone number. Wherever a kind has a check digit it must be
right; kinds whose check lets one random number in ten pass also need their grouping or a word such
as "NHS" before them. Names and postal addresses have no pattern and are not looked for.

A `Span` never carries the text it stands for. Text past `max_chars` is not looked at, and
`Scan.complete` says so: "not run" is not "clean". Every quantifier is bounded and no pattern can
start inside a run of its own characters, so time grows with the length of the text and no faster.

Before matching, each character is put into its compatibility form (full-width and other digits
become 0-9, dashes become -) and invisible ones are dropped; spans point into the text as given.
The patterns are in serving/_personal_rules.py, their checks in serving/_personal_checks.py.
"""

import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple, get_args

from serving._personal_checks import is_address
from serving._personal_rules import RULES, Kind

ALL: tuple[Kind, ...] = get_args(Kind)
MAX_CHARS = 1_000_000
_OVERLAP = 700  # longer than any match, so none can be cut in two unseen at the end of a scan


class Span(NamedTuple):
    """Where personal data stands: text[start:end]."""

    kind: Kind
    start: int
    end: int


class Scan(NamedTuple):
    """What was found, in order and without overlaps; not `complete` when text was left unread."""

    spans: tuple[Span, ...]
    complete: bool


def find(
    text: str, kinds: Iterable[Kind] = ALL, *, max_chars: int = MAX_CHARS, every_ip: bool = False
) -> Scan:
    """Personal data in `text`; matches that overlap become one span with the longest one's kind.

    Args:
        text: what to look through.
        kinds: what to look for.
        max_chars: characters read; the rest makes the scan incomplete.
        every_ip: also find private, reserved and documentation addresses, which name nobody.
    """
    folded, origins = _fold(text[:max_chars])
    wanted, found = frozenset(kinds), []
    for kind, pattern, accepts in RULES:
        if kind in wanted:
            check = is_address if kind == "ip" and every_ip else accepts
            matches = (match for match in pattern.finditer(folded) if check(match))
            found += [Span(kind, match.start(), match.end()) for match in matches]
    spans = _merged(found)
    if origins is not None:
        spans = [Span(s.kind, origins[s.start], origins[s.end - 1] + 1) for s in spans]
    return Scan(tuple(spans), len(text) <= max_chars)


def scrub(text: str, kinds: Iterable[Kind] = ALL, *, max_chars: int = MAX_CHARS) -> str:
    """`text` with each span replaced by its kind, as in "[email]".

    Text that was not looked at is not passed on: "[not scanned]" stands for it.
    """
    scan = find(text, kinds, max_chars=max_chars)
    end = len(text) if scan.complete else max(0, max_chars - _OVERLAP)
    parts, position = [], 0
    for span in scan.spans:
        if span.start >= end:
            break
        parts += [text[position : span.start], f"[{span.kind}]"]
        position = span.end
    parts += [text[position:end], "" if scan.complete else "[not scanned]"]
    return "".join(parts)


def _merged(spans: list[Span]) -> list[Span]:
    """Spans in order; overlapping ones joined, so that masking leaves no rest of either."""
    merged: list[Span] = []
    longest = 0
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if merged and span.start < merged[-1].end:
            last, length = merged[-1], span.end - span.start
            kind, longest = (span.kind, length) if length > longest else (last.kind, longest)
            merged[-1] = Span(kind, last.start, max(last.end, span.end))
        else:
            merged.append(span)
            longest = span.end - span.start
    return merged


@lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Cf":
        return ""
    if category == "Pd" or character == "−":
        return "-"
    return unicodedata.normalize("NFKC", character)


def _fold(text: str) -> tuple[str, list[int] | None]:
    """The text in compatibility form and, where lengths changed, each character's origin in it."""
    folded = {ord(c): _fold_character(c) for c in set(text) if not c.isascii()}
    changed = {code: part for code, part in folded.items() if part != chr(code)}
    if not changed:
        return text, None
    if all(len(part) == 1 for part in changed.values()):
        return text.translate(changed), None
    parts = [changed.get(ord(character), character) for character in text]
    return "".join(parts), [index for index, part in enumerate(parts) for _ in part]
