"""Training pairs whose values are made up, so that a model learns to copy and not to choose.

Where a slot had a dozen values in training ("metric", "region"), a small model learns the dozen and
answers an unseen thirteenth with one of them. Replacing a value by other words, in the record and
in the reference alike, leaves copying as the only way to be right: data recombination in the sense
of Jia and Liang (2016, arXiv:1606.03622), with words drawn instead of induced.

Values are replaced only where the reference has them word for word; quantities stay as they are.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from serving.slots import is_record, parse_record

Example = dict[str, Any]
Bank = Mapping[bool, Sequence[str]]
"""Words by whether they begin with a vowel: the "a" or "an" before a value stays right."""
_DIGIT = re.compile(r"\d")
COINED = 0.2  # share of drawn words that no data has
CODED = 0.1  # share that are codes like "5xx" and "AA2": a character that comes twice is what an
# induction head loses its place at, and a model that never saw one may repeat it to the end
_WORD = re.compile(r"[^\W\d_]{2,}")  # a single letter is an article, or the p of "p99"
_QUANTITY = re.compile(r"\W*\d")
_GOES_ON = re.compile(r"[-\u2010\u2011]\w|[.,:]\d")  # "eu-west" of "eu-west-1", "v1" of "v1.8"
LEAST_WORDS = 20  # fewer make no values worth learning
CLOSED = 8  # a slot with so few values in training is a choice, and its values stay


def invent_values(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    """The examples with a `share` of their copied values replaced; one example per reference.

    What is no record, has a context, or has no copied value, stays as it is. The same arguments
    give the same examples.

    Args:
        examples: prepared examples with `prompt`, `slots` and `references`.
        share: probability that a value is replaced, 0 to 1.
        seed: any integer from 0.
    """
    open_slots = find_open_slots(examples)
    bank = word_bank(examples, open_slots)
    if share == 0.0 or sum(map(len, bank.values())) < LEAST_WORDS:
        return list(examples)
    rng = np.random.default_rng([seed, 7])
    made = (_invent(example, share, open_slots, bank, rng) for example in examples)
    return [example for several in made for example in several]


def find_open_slots(examples: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """Slots with more than a few values."""
    values: dict[str, set[str]] = {}
    for example in examples:
        for slot, value in (example.get("slots") or {}).items():
            values.setdefault(slot, set()).add(value)
    return frozenset(slot for slot, found in values.items() if len(found) > CLOSED)


def word_bank(examples: Sequence[Mapping[str, Any]], open_slots: frozenset[str]) -> Bank:
    """Words of values that may be replaced and of no others, each once, in alphabetical order.

    Words of quantities and choices mean something ("users", "no") and would be read so; words of
    two letters are units or prepositions.
    """
    words: dict[bool, set[str]] = {True: set(), False: set()}
    for example in examples:
        for slot, value in (example.get("slots") or {}).items():
            replaceable = slot in open_slots and not _QUANTITY.match(value)
            words[replaceable].update(_WORD.findall(value))
    free = sorted(word for word in words[True] - words[False] if len(word) > 2)
    return {vowel: [w for w in free if _begins_with_vowel(w) == vowel] for vowel in (True, False)}


def invent_value(value: str, bank: Bank, rng: np.random.Generator) -> str:
    """A value of the same form, one or all of its words drawn anew, and every digit.

    Capitals stay as they were, but for codes. Some words are coined of two halves, so that none of
    the tokens after a word's first can be guessed, and some are codes with a repeated letter, such
    as "EE5" and "3www".
    """
    words = len(_WORD.findall(value))
    chosen = set(range(words)) if rng.random() < 0.5 else {int(rng.integers(words))}
    numbers = iter(range(words))

    def other(found: re.Match[str]) -> str:
        drawable = bank[_begins_with_vowel(found.group())]
        if next(numbers) not in chosen or not drawable:
            return found.group()
        drawn = drawable[int(rng.integers(len(drawable)))]
        kind = rng.random()
        if kind < CODED:
            return _code(_begins_with_vowel(found.group()), rng)
        if kind < CODED + COINED:
            end = drawable[int(rng.integers(len(drawable)))]
            drawn = drawn[: len(drawn) // 2] + end[len(end) // 2 :]
        if found.group().isupper():
            return drawn.upper()
        return drawn.capitalize() if found.group()[0].isupper() else drawn.lower()

    return _WORD.sub(other, _DIGIT.sub(lambda _: str(rng.integers(10)), value))


def _code(vowel: bool, rng: np.random.Generator) -> str:
    """Such as "5xx", or "AA2" where a vowel has to come first; never "8xx", an "an" of a kind."""
    repeats, digit = int(rng.integers(2, 4)), "012345679"[int(rng.integers(9))]
    if vowel:
        return "AEIO"[int(rng.integers(4))] * repeats + digit
    return digit + chr(ord("a") + int(rng.integers(26))) * repeats


def copied_values(slots: Mapping[str, str], text: str) -> list[str]:
    """Values that the text has word for word, wherever it has them, and that name something.

    Not among them: quantities, whose units mean something; values that two slots share; values that
    stand in a longer hyphenated word; values spelled otherwise than in small letters, capitals, or
    with the first letter changed, as a sentence's start does.
    """
    shared = Counter(value.lower() for value in slots.values())
    joined: set[str] = set()
    found: dict[str, None] = {}
    for value, match in _mentions(slots, text):
        found[value] = None
        if _is_joined(match) or _spelled_as(match.group(), value, value) is None:
            joined.add(value)
    return [
        value
        for value in found
        if value not in joined
        and shared[value.lower()] == 1
        and _WORD.search(value)
        and not _QUANTITY.match(value)
    ]


def replace_values(
    example: Example, reference: str, new: Mapping[str, str]
) -> tuple[Example, str] | None:
    """The example with new values in prompt and slots, and the reference with the same ones.

    None where that would change something else, such as a value that overlaps another.

    Args:
        new: new values by the old ones, which are among `copied_values`.
    """
    slots = example["slots"]
    changed = {slot: new.get(value, value) for slot, value in slots.items()}
    prompt = example["prompt"]
    for slot, value in slots.items():
        prompt = prompt.replace(f"{slot}[{value}]", f"{slot}[{changed[slot]}]", 1)
    text, end = "", 0
    for value, match in _mentions(slots, reference):
        written = _spelled_as(match.group(), value, new[value]) if value in new else match.group()
        text, end = text + reference[end : match.start()] + (written or ""), match.end()
    text += reference[end:]
    kept = all(
        _says(text, changed[slot]) for slot, value in slots.items() if _says(reference, value)
    )
    if not kept or not is_record(prompt) or parse_record(prompt) != changed:
        return None
    return example | {"prompt": prompt, "slots": changed}, text


def _invent(
    example: Example,
    share: float,
    open_slots: frozenset[str],
    bank: Bank,
    rng: np.random.Generator,
) -> Iterator[Example]:
    slots, prompt = example.get("slots"), example["prompt"]
    whole = slots and not example.get("context")
    if not whole or not is_record(prompt) or parse_record(prompt) != slots:
        yield example
        return
    may_change = {value for slot, value in slots.items() if slot in open_slots}
    for reference in example["references"]:
        copied = [value for value in copied_values(slots, reference) if value in may_change]
        new = {v: invent_value(v, bank, rng) for v in copied if rng.random() < share}
        made, text = replace_values(example, reference, new) or (example, reference)
        yield made | {"references": [text]}


def _mentions(slots: Mapping[str, str], text: str) -> Iterator[tuple[str, re.Match[str]]]:
    """Each value where it stands in the text as whole words; of two that overlap, the longer."""
    values = sorted(set(slots.values()), key=lambda value: (-len(value), value))
    any_value = "|".join(f"({re.escape(value)})" for value in values)
    for match in re.finditer(rf"(?<!\w)(?:{any_value})(?!\w)", text, re.IGNORECASE):
        assert match.lastindex is not None, "every alternative is a group"
        yield values[match.lastindex - 1], match


def _is_joined(match: re.Match[str]) -> bool:
    """Whether the words go on after a hyphen or a decimal point."""
    before = match.string[max(match.start() - 2, 0) : match.start()][::-1]
    return bool(_GOES_ON.match(match.string, match.end()) or _GOES_ON.match(before))


def _spelled_as(found: str, value: str, new: str) -> str | None:
    """`new` in the letters in which `found` spells `value`; None for any other spelling."""
    ways: tuple[Callable[[str], str], ...]
    ways = (str, _capitalise, lambda text: text[:1].lower() + text[1:], str.lower, str.upper)
    return next((way(new) for way in ways if way(value) == found), None)


def _begins_with_vowel(word: str) -> bool:
    return word[0].lower() in "aeiou"


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def _says(text: str, value: str) -> bool:
    """Whether the text has the value as whole words, in any letters."""
    parts = text.lower().split(value.lower())
    ends = ((left[-1:], right[:1]) for left, right in pairwise(parts))
    return any(not _in_word(before) and not _in_word(after) for before, after in ends)


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"
