"""Put another record's values into an answer: what a retrieval baseline does with its find."""

import re
from collections.abc import Mapping, Sequence

from serving._slots.mentions import find_candidates, read_asked
from serving._slots.negation import Candidate
from serving._slots.schema import SlotSchema
from serving._slots.text import fold

_SENTENCE_START = re.compile(r"(?:^|[.!?:]\s)[\s\"'(]*\Z")
_ARTICLE = re.compile(r"(?<!\w)([Aa])(n?)( )\Z")
_VOWEL = re.compile(r"(?!one|uni|use|u\.?k)[aeiou]|8|1[18](?!\d)")


def relexicalise(
    answer: str, source: Mapping[str, str], target: Mapping[str, str], schema: SlotSchema
) -> str:
    """Rewrite an answer to record `source` so that it says the values of record `target`.

    Where a value of `source` is said, the target's value of that slot is written instead. Slots
    that only one of the two records has are left alone, and so are flags: the turn of a sentence
    is not a word that can be exchanged. Text behind `MAX_CHARS` is kept as it is.
    """
    folded = fold(answer)
    asked = read_asked(source, schema)
    rewritten = folded.original
    for candidate in reversed(find_candidates(folded, schema, asked)):
        slot = _exchangeable(candidate, source, target, schema)
        if slot is not None:
            start, end = folded.original_span(candidate.start, candidate.end)
            rewritten = _exchange(rewritten, start, end, slot, source, target, schema)
    return rewritten + answer[len(folded.original) :]


def _exchangeable(
    candidate: Candidate,
    source: Mapping[str, str],
    target: Mapping[str, str],
    schema: SlotSchema,
) -> str | None:
    """The slot whose value a candidate says and that the target says otherwise."""
    if candidate.negated:
        return None
    for slot in source:
        if slot in candidate.asked and slot in target and target[slot] != source[slot]:
            return None if schema.slots[slot]["kind"] == "flag" else slot
    return None


def _exchange(
    text: str,
    start: int,
    end: int,
    slot: str,
    source: Mapping[str, str],
    target: Mapping[str, str],
    schema: SlotSchema,
) -> str:
    written = _written(slot, target[slot], schema)
    inside = _value_inside(text[start:end], slot, source[slot], schema)
    if inside is not None and inside[1] - inside[0] == end - start:
        # "cheap" becomes "expensive", but "5 out of 5" no "low customer rating": it may go on so
        written = target[slot] if target[slot].lower() in written.lower() else written
    elif inside is not None:  # "high customer rating": exchange "high" only
        start, end, written = start + inside[0], start + inside[1], target[slot]
    before, after = text[:start], text[end:]
    if written.lower().startswith("the ") and before.lower().endswith("the "):
        written = written[4:]
    if text[start].isupper() and _SENTENCE_START.search(before[-40:]):
        written = written[:1].upper() + written[1:]
    return _with_article(before, written) + written + after


def _value_inside(said: str, slot: str, value: str, schema: SlotSchema) -> tuple[int, int] | None:
    """Where a longer expression holds the value itself, or one that is said for it."""
    groups: Sequence[Sequence[str]] = schema.slots[slot].get("same", ())
    for same in [value, *(v for group in groups if value in group for v in group)]:
        match = re.search(rf"(?<!\w){re.escape(same)}(?!\w)", said, re.IGNORECASE)
        if match:
            return match.span()
    return None


def _with_article(before: str, written: str) -> str:
    """Mend "a" or "an" in front of an exchanged word."""
    article = _ARTICLE.search(before[-4:])
    if not article:
        return before
    n = "n" if _VOWEL.match(written.lower()) else ""
    return before[: len(before) - len(article[0])] + article[1] + n + article[3]


def _written(slot: str, value: str, schema: SlotSchema) -> str:
    """How a value is written: a choice's first expression where it is plain text, else itself."""
    definition = schema.slots[slot]
    ways: Sequence[str] = definition.get("values", {}).get(value, ())
    if definition["kind"] == "choice" and ways and re.fullmatch(r"[^\\\[\](){}|?*+.^$]+", ways[0]):
        return ways[0]
    return value
