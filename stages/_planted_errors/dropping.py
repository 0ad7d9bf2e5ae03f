"""Leave out what a text says of one slot.

Four ways, the most fluent first: a whole sentence that has the value of no other slot, a part set
off by commas, the words after a preposition ("near Burger King"), an adjective before its noun.
"""

import re
from collections.abc import Mapping
from random import Random

from stages._planted_errors.values import find_value, mend_article, shuffled

Place = tuple[int, int]
_PREPOSITION = re.compile(
    r"(?:\s+(?:located|situated|placed|set|found|starting|beginning))?"
    r"\s+(?:near to|near|close to|next to|in|at|by|on|for|from|since|within|with|of|due to)"
    r"(?:\s+(?:the|a|an|its|our|about))?\s+$",
    re.IGNORECASE,
)
_LEANING = re.compile(r"\b(?:is|are|was|were|be|been|it's|rated|costs?|than|to|and|or)\s*$")
_GOES_ON = re.compile(
    r"(?:\s+(?:area|district|range|region))?(?=\s*(?:[.,;]|$)|\s+(?:and|with|that|which|serv|offer|"
    r"is|are|was|were|has|have|at|in|for|since|from|on|near|by|but|it)\b)"
)
_ADJECTIVE = re.compile(r"\b(?:a|an|the|serves|serving|offers|offering|provides|providing)\s+$")
_NOUN = re.compile(
    r"\s+(?=(?:food|restaurant|pub|coffee|place|venue|cuisine|eatery|dining|incident|issue|service|"
    r"[a-z]+ incident|establishment|outlet)\b)"
)


def drop_slot(text: str, record: Mapping[str, str], rng: Random) -> str | None:
    """The text without what it says of one slot; None where nothing comes out cleanly."""
    places = {slot: find_value(text, slot, record) for slot in record}
    for slot in shuffled(record, rng):
        if len(places[slot]) != 1:
            continue
        others = [place for name, found in places.items() if name != slot for place in found]
        for rule in (_sentence, _aside, _after_preposition, _adjective):
            cut = rule(text, places[slot][0], others)
            if cut is not None:
                return _without(text, cut)
    return None


def _sentence(text: str, place: Place, others: list[Place]) -> Place | None:
    bounds = [0, *(m.end() for m in re.finditer(r"[.!?]\s+", text)), len(text)]
    start = max(b for b in bounds if b <= place[0])
    end = min(b for b in bounds if b >= place[1])
    alone = not any(start <= other[0] < end for other in others)
    return (start, end) if alone and (start, end) != (0, len(text)) else None


def _aside(text: str, place: Place, others: list[Place]) -> Place | None:
    """The words between two commas, brackets, or a comma and the end, with the first sign."""
    start = max(text.rfind(sign, 0, place[0]) for sign in (",", "("))
    after = re.search(r"[,.);](?=\s|$)", text[place[1] :])
    if start < 0 or after is None or re.search(r"[.;:]\s", text[start : place[0]]):
        return None
    end = place[1] + after.start()
    if text[end] == ")":
        end += 1
    said = re.sub(r"^[,(]\s*", "", text[start:end])
    if re.match(r"(?:and|but|or)\b", said) or any(start <= other[0] < end for other in others):
        return None
    return start, end


def _after_preposition(text: str, place: Place, others: list[Place]) -> Place | None:
    before = _PREPOSITION.search(text[: place[0]])
    after = _GOES_ON.match(text[place[1] :])
    if before is None or after is None or _LEANING.search(text[: before.start()]):
        return None
    cut = before.start(), place[1] + after.end()
    return None if any(cut[0] <= other[0] < cut[1] for other in others) else cut


def _adjective(text: str, place: Place, others: list[Place]) -> Place | None:
    """An adjective between an article or a verb and the noun that goes on without it."""
    after = _NOUN.match(text[place[1] :])
    if after is None or place in others or not _ADJECTIVE.search(text[: place[0]]):
        return None
    return place[0], place[1] + after.end()


def _without(text: str, cut: Place) -> str | None:
    """What is left, tidied; None where that is no text any more."""
    rest = text[cut[1] :].lstrip() if text[: cut[0]].endswith(" ") else text[cut[1] :]
    left = mend_article(text[: cut[0]] + rest, cut[0])
    left = re.sub(r"\s+([.,;])", r"\1", left).strip()
    left = re.sub(r"^[,;]\s*", "", left)
    left = left[:1].upper() + left[1:] if text[:1].isupper() else left
    return left if len(left.split()) >= 3 else None
