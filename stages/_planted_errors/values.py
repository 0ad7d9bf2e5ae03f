"""Swap a value for another record's value of the same slot.

A value is found where the text has it word for word, but for letter case and the space before a
unit. Words that say a level of anything ("high") belong to the slot whose name stands next to them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from random import Random

Pools = Mapping[str, Sequence[str]]
"""Values by slot, from the records of the data."""

NEAR = 3  # words on each side within which a level's slot must be named
LEVELS = frozenset(("low", "average", "moderate", "medium", "high"))
YES_NO = frozenset(("yes", "no", "true", "false", "none"))  # said by other words than these
# Values that people say for one another: swapping them changes no meaning.
ALIKE = (
    frozenset(("cheap", "less than £20", "low")),
    frozenset(("moderate", "£20-25", "average")),
    frozenset(("high", "more than £30", "expensive")),
    frozenset(("low", "1 out of 5")),
    frozenset(("average", "3 out of 5")),
    frozenset(("high", "5 out of 5")),
    frozenset(("restaurant", "pub")),  # a restaurant is what people call any place
    frozenset(("restaurant", "coffee shop")),
    frozenset(("p50 latency", "median latency")),
    frozenset(("bad deploy", "faulty release")),
    frozenset(("bad config push", "config error")),
    frozenset(("expired certificate", "failed certificate renewal")),
    frozenset(("rolled back", "rolled back the release", "reverted the change")),
    frozenset(("scaled out", "added capacity")),
)
_WORD = re.compile(r"[^\W\d_]+")


def pool_values(records: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    """The distinct values of every slot, sorted."""
    pools: dict[str, set[str]] = {}
    for record in records:
        for slot, value in record.items():
            pools.setdefault(slot, set()).add(value)
    return {slot: sorted(values) for slot, values in sorted(pools.items())}


def swap_value(text: str, record: Mapping[str, str], pools: Pools, rng: Random) -> str | None:
    """The text with one value, everywhere it stands, replaced by another record's."""
    for slot in shuffled(record, rng):
        places = find_value(text, slot, record)
        others = _other_values(text, slot, record, pools, places) if places else []
        if others:
            return _replace(text, places, rng.choice(others))
    return None


def find_value(text: str, slot: str, record: Mapping[str, str]) -> list[tuple[int, int]]:
    """Where the text has a slot's value word for word; empty where that is not certain.

    It is not where another value of the record contains the same words, nor where a level stands
    next to no slot's name, or to another one's.
    """
    value = record[slot]
    others = [other for name, other in record.items() if name != slot]
    if (
        not value.strip()
        or value.lower() in YES_NO
        or any(value.lower() in other.lower() for other in others)
    ):
        return []
    places = [m.span() for m in _pattern(value).finditer(text)]
    if value.lower() not in LEVELS:
        return places
    named = [place for place in places if _is_named(text, place, slot)]
    return named if len(named) == len(places) == 1 else []


def shuffled(record: Mapping[str, str], rng: Random) -> list[str]:
    """The slots of a record in the order of chance."""
    return rng.sample(list(record), len(record))


def mend_article(text: str, place: int) -> str:
    """The text with the "a" or "an" right before `place` put right, by spelling."""
    article = re.search(r"\b([Aa])n?\s+$", text[:place])
    if article is None or not text[place : place + 1].isalpha():
        return text
    vowel = re.match(r"[aeio](?!ne\b)", text[place:], re.IGNORECASE)
    return f"{text[: article.end(1)]}{'n' if vowel else ''} {text[place:]}"


@lru_cache(maxsize=10_000)
def _pattern(value: str) -> re.Pattern[str]:
    """A regular expression for a value: "5 min" is found in "5min" and "5-min" too."""
    words = [re.escape(word).replace("%", "(?:%|percent)") for word in value.split()]
    joined = words[0]
    for before, word in pairwise(words):
        joined += (r"[\s-]?" if before[-1].isdigit() else r"\s+") + word
    return re.compile(rf"(?<![\w£.-]){joined}(?!\w|[.,:-]\w)", re.IGNORECASE)


def _is_named(text: str, place: tuple[int, int], slot: str) -> bool:
    before = _WORD.findall(text[: place[0]].lower())[-NEAR:]
    after = _WORD.findall(text[place[1] :].lower())[:NEAR]
    stems = [word[:4].lower() for word in re.findall(r"[A-Z]?[a-z]+", slot)]
    return any(word.startswith(tuple(stems)) for word in (*before, *after))


def _other_values(
    text: str,
    slot: str,
    record: Mapping[str, str],
    pools: Pools,
    places: Sequence[tuple[int, int]],
) -> list[str]:
    """Values that would be an error in these places; a level only where its slot is named."""
    asked = record[slot]
    taken = {value.lower() for value in record.values()}
    alike = {value for group in ALIKE if asked in group for value in group}
    named = all(_is_named(text, place, slot) for place in places)
    return [
        value
        for value in pools.get(slot, ())
        if value not in alike
        and value.lower() not in taken
        and value.lower() not in asked.lower()
        and asked.lower() not in value.lower()
        and (named or value.lower() not in LEVELS)
        and (not asked[0].isdigit() or _shape(value) == _shape(asked))
    ]


def _shape(value: str) -> str:
    """What is left of a quantity without its number, so that amounts differ where numbers do."""
    return re.sub(r"[\d.,:]+", "0", value)


def _replace(text: str, places: Sequence[tuple[int, int]], value: str) -> str:
    starts = {0, *(match.end() for match in re.finditer(r"[.!?]\s+", text))}
    for start, end in reversed(places):
        capital = start in starts and text[start].isupper()
        said = value[0].upper() + value[1:] if capital else value
        text = mend_article(text[:start] + said + text[end:], start)
    return text
