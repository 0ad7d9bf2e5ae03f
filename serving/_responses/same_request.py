"""Whether two prompts that are near in meaning ask the same: what no cosine can tell.

Sentence vectors put "from Leeds to York" beside "from York to Leeds", 250 beside 205 and "allow"
beside "do not allow", nearer than many a true paraphrase, so no threshold parts them. Two records
ask the same if their slots are equal, in any order. Two texts do if these are equal:

- numbers with their units or the word behind them, and everything else with a digit in it;
- names, codes, quotations and links, which serving/grounding.py finds both ways;
- negations, and words that have an opposite ("enable", "before", "north"), each as often;
- with `words`, all other words too, up to their endings, politeness, words of grammar and a short
  list of words that mean the same; prepositions with them, and in the same order, but for a phrase
  set before a comma. So "to B from A" is "from A to B"; "man bites dog" is not "dog bites man".

It errs on the side of "different": a miss costs an answer, a false hit gives a wrong one. What it
reads are lists of English words; of other languages only slots, numbers and equal words are known.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from serving._responses._word_lists import (
    GRAMMAR,
    NEGATIONS,
    NUMBER_WORDS,
    OPPOSITES,
    ORDER,
    PRONOUNS,
    ROLES,
    SAME,
)
from serving._slots.records import is_record, parse_record
from serving._source_terms import fold_word, read_numbers, read_terms, spell, stems
from serving.grounding import check_against

Verdict = Literal["same", "different", "unknown"]
Strictness = Literal["words", "values"]
MAX_CHARS = 4_000
"""Characters of a prompt that are compared; of longer ones nothing is known."""

_TOKEN = re.compile(r"[$€£¥,;:]|[^\W_]+(?:['’.,:/-][^\W_]+)*%?|%")
_CONTRACTED = re.compile(r"\b(\w+?)n['’]t\b")
# "Could you please tell me how …", "Please give me …": who asks whom is said by every question.
_POLITE = re.compile(
    r"^\W*(?:please\W+|(?:can|could|would|will) you (?:please )?|(?:hi|hello)\W+)*"
    r"(?:(?:tell me|let me know) (?=how|what|wh|if)|(give|show|tell) me )?",
    re.IGNORECASE,
)
_WHOLE = {"ca": "can", "wo": "will", "sha": "shall"}


def same_request(one: str, other: str, strictness: Strictness = "words") -> Verdict:
    """Whether an answer to one prompt answers the other; unknown where that cannot be checked."""
    if max(len(one), len(other)) > MAX_CHARS:
        return "unknown"
    records = is_record(one), is_record(other)
    if all(records):
        return "same" if _slots(one) == _slots(other) else "different"
    if any(records):
        return "different"
    here, there = _tokens(one), _tokens(other)
    if not any(_is_word(token) for token in here) or not any(_is_word(token) for token in there):
        return "unknown"
    equal = (
        _numbers(one, here) == _numbers(other, there)
        and _polar(here) == _polar(there)
        and _same_values(one, other)
    )
    if equal and strictness == "words":
        equal = _said(here) == _said(there)
    return "same" if equal else "different"


def _slots(prompt: str) -> dict[str, str]:
    return {slot: " ".join(value.split()) for slot, value in parse_record(prompt).items()}


def _tokens(text: str) -> list[str]:
    """Words and numbers in lower case, "don't" as "do not"."""
    asked = _POLITE.sub(lambda m: f"{m[1]} " if m[1] else "", text, count=1)
    whole = _CONTRACTED.sub(lambda m: f"{_WHOLE.get(m[1].lower(), m[1])} not", asked)
    return [_plain(token) for token in _TOKEN.findall(whole)]


def _plain(token: str) -> str:
    if any(c.isdigit() for c in token):
        return token.replace(",", "").lower()
    folded = fold_word(token) or token
    return NUMBER_WORDS.get(folded, folded)


def _is_word(token: str) -> bool:
    return token not in GRAMMAR and any(c.isalnum() for c in token)


def _numbers(text: str, tokens: list[str]) -> tuple[Counter[tuple[str, str]], Counter[str]]:
    """Numbers with what they count, in base units where those are known; and other digits."""
    said = Counter[tuple[str, str]]()
    for folded, quantities, numbers in read_numbers(text):
        with_unit = {quantity.start for quantity in quantities}
        said.update((name, spell(value)) for q in quantities for name, value in q.amounts)
        for number in numbers:
            value = folded.plain[number.start : number.end]
            if number.start not in with_unit:
                value = value if number.value is None else spell(number.value)
                said[_unit(folded.plain, number.start, number.end), value] += 1
    codes = [t.lower() for t in tokens if any(c.isdigit() for c in t) and any(map(str.isalpha, t))]
    return said, Counter([*codes, *(token for token in tokens if token in ORDER)])


def _unit(plain: str, start: int, end: int) -> str:
    """The sign of money before a number, or the word that it counts."""
    before = plain[:start].rstrip()[-1:]
    if before in "$€£¥" and before:
        return before
    after = re.match(r"[ -]{0,3}([a-z%°$€£¥]+)", plain[end:])
    return _base(after[1]) if after and _is_word(after[1]) else ""


def _polar(tokens: list[str]) -> Counter[str]:
    """Negations, all one, and every word that has an opposite."""
    found = Counter("not" for token in tokens if token in NEGATIONS)
    found.update(base for token in tokens if (base := _base(token)) in OPPOSITES)
    found.update(token for token in tokens if token in OPPOSITES and _base(token) not in OPPOSITES)
    return found


def _same_values(one: str, other: str) -> bool:
    """Whether each text supports all names, codes, quotations and links of the other."""
    here, there = read_terms(one), read_terms(other)
    if here.links != there.links or here.times != there.times:
        return False
    return not any(
        claim.kind != "number"
        for text, terms in ((one, there), (other, here))
        for claim in check_against(text, terms).unsupported
    )


def _said(tokens: list[str]) -> list[str]:
    """Words and prepositions that count, in one order for the two moves that change no meaning.

    "After 5 years, how many" is "how many after 5 years", and "to B from A" is "from A to B".
    Other phrases stay where they are: "after the accident in A before the trial in B" is not the
    same with A and B exchanged, though each is "in".
    """
    first = tokens[0] if tokens else ""
    pauses = [place for place, token in enumerate(tokens) if token in _PAUSES]
    if (first in ROLES or first in NEGATIONS) and len(pauses) == 1:
        tokens = [*tokens[pauses[0] + 1 :], *tokens[: pauses[0]]]
    phrases = list(_phrases(tokens))
    for place in range(len(phrases) - 1):
        if [phrase[0] for phrase in phrases[place : place + 2]] == ["to", "from"]:
            phrases[place], phrases[place + 1] = phrases[place + 1], phrases[place]
    return [word for phrase in phrases for word in phrase if word]


def _phrases(tokens: list[str]) -> Iterator[list[str]]:
    """Runs of words that count, each with the preposition before it, or an empty text for none."""
    phrase = [""]
    for token in tokens:
        if token in ROLES or token in _ENDS or token in _PAUSES:
            yield phrase
            phrase = [ROLES.get(token, "")]
        if token in NEGATIONS:
            phrase.append(f"not {token}" if token in ROLES else "not")
        elif token not in ROLES and _is_word(token):
            phrase.append(PRONOUNS.get(token) or _base(token))
    yield phrase


_PAUSES = frozenset(",;:")
_ENDS = frozenset({"and", "but", "that", "it", "do", "does", "can", "could", "would"})
"""Grammar behind which a preposition no longer holds."""


def _base(word: str) -> str:
    """The word without its ending, or the one that stands for all of its meaning."""
    if word in SAME:
        return SAME[word]
    if word in OPPOSITES:
        return word
    for stem in sorted(stems(word), key=len):
        for form in (stem, f"{stem}e"):
            if form in SAME:
                return SAME[form]
            if form in OPPOSITES:
                return form
    found = sorted(stems(word), key=len)
    return found[0] if found and word.isalpha() else word
