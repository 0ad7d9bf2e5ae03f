"""The regular expressions a slot schema may use: a subset that cannot run away on hostile text.

A schema's ways to say a value are matched against whatever a model or a stranger wrote. Python's
`re` backtracks, so one careless `(a+)+` would let an answer hold a worker for hours. Each
expression is therefore read before it is compiled: literals, classes, groups, alternatives,
lookarounds and quantifiers are allowed; an open end (`*`, `+`, `{2,}`) stops at `MAX_REPEAT`; and
the ways to match at one place must stay few (see `_slots.paths`). Reading also spells the
expression like the folded text it is matched with (see `_slots.text`) and finds the characters it
can start with, which makes the search fast.

`{word}` stands for the alternatives that the schema's `words` define under that name.
"""

import re
import string
from collections.abc import Mapping
from dataclasses import replace

from serving._slots.paths import Part, PatternError, alternatives, in_a_row, repeated
from serving._slots.text import fold_character

MAX_REPEAT = 20
"""Where an open-ended quantifier stops."""
MAX_LENGTH = 3_000
"""Characters of an expression, words included."""
MAX_DEPTH = 20
"""Groups inside groups."""

_DIGITS = frozenset(string.digits)
_ESCAPES: dict[str, frozenset[str] | None] = {
    "d": _DIGITS, "s": frozenset(" "), "w": None, "D": None, "S": None, "W": None,
}  # fmt: skip
_GROUPS = ("(?:", "(?=", "(?!", "(?<=", "(?<!")
_WORD = re.compile(r"\{([a-z][a-z_ ]*)\}")


def read_pattern(source: str, words: Mapping[str, str] | None = None) -> Part:
    """Read one expression.

    Args:
        source: the expression.
        words: what `{name}` stands for: alternatives, which may use the names before it.

    Raises:
        PatternError: it is no expression, or one that is not allowed here.
    """
    source = _with_words(source, words or {})
    if len(source) > MAX_LENGTH:
        raise PatternError(f"is longer than {MAX_LENGTH} characters; write several shorter ones")
    depth = 0
    for character in source:
        depth += (character == "(") - (character == ")")
        if depth > MAX_DEPTH:
            raise PatternError(f"has more than {MAX_DEPTH} groups inside each other")
    part, position = _alternatives(source, 0)
    if position < len(source):
        raise PatternError("has a ) that nothing opened")
    return part


def _with_words(source: str, words: Mapping[str, str]) -> str:
    # A word may use those before it only, so nothing can go in circles.
    for name in reversed(list(words)):
        if len(source) <= MAX_LENGTH:
            source = source.replace(f"{{{name}}}", f"(?:{words[name]})")
    missing = _WORD.search(source)
    if missing:
        raise PatternError(f"uses {missing[0]}, which is not among the words before it")
    return source


def _alternatives(source: str, position: int) -> tuple[Part, int]:
    parts = []
    while True:
        part, position = _sequence(source, position)
        parts.append(part)
        if source[position : position + 1] != "|":
            return alternatives(parts), position
        position += 1


def _sequence(source: str, position: int) -> tuple[Part, int]:
    parts = []
    while position < len(source) and source[position] not in "|)":
        part, position = _atom(source, position)
        part, position = _quantified(part, source, position)
        parts.append(part)
    return in_a_row(parts), position


def _atom(source: str, position: int) -> tuple[Part, int]:
    character = source[position]
    if character == "(":
        return _group(source, position)
    if character == "[":
        return _character_class(source, position)
    if character == "\\":
        return _escape(source, position), position + 2
    if character in "*+?{":
        raise PatternError(f"has a {character} with nothing to repeat; write \\{character}")
    if character == ".":
        return Part(".", None, False, 1, None), position + 1
    if character in "^$":
        return _mark(character), position + 1
    return _literal(character), position + 1


def _literal(character: str) -> Part:
    spelled = fold_character(character)
    escaped = "".join(f"\\{c}" if c in string.punctuation else c for c in spelled)
    return Part(escaped, frozenset(spelled[:1]), not spelled, 1, {spelled: 1})


def _mark(source: str) -> Part:
    """A piece that stands for a place, not for a character."""
    return Part(source, frozenset(), True, 1, {"": 1})


def _one_of(source: str, letters: frozenset[str] | None) -> Part:
    return Part(source, letters, False, 1, None if letters is None else dict.fromkeys(letters, 1))


def _group(source: str, position: int) -> tuple[Part, int]:
    opening = "(?:"
    if source.startswith("(?", position):
        opening = next((g for g in _GROUPS if source.startswith(g, position)), "")
        if not opening:
            raise PatternError(f"uses {source[position : position + 3]}, which is not supported")
        position += len(opening)
    else:
        position += 1  # a capturing group: nothing here needs what it captures
    part, position = _alternatives(source, position)
    if source[position : position + 1] != ")":
        raise PatternError("has a ( that is never closed")
    closed = f"{opening}{part.source})"
    if opening == "(?:":
        return replace(part, source=closed), position + 1
    return replace(_mark(closed), paths=part.paths, texts={"": part.paths}), position + 1


def _escape(source: str, position: int) -> Part:
    letter = source[position + 1 : position + 2]
    if letter in ("b", "B"):
        return _mark(f"\\{letter}")
    if letter in _ESCAPES:
        return _one_of(f"\\{letter}", _ESCAPES[letter])
    if letter and letter in string.punctuation + " ":
        return _one_of(f"\\{letter}", frozenset(letter))
    raise PatternError(f"uses \\{letter}, which is not supported")


def _character_class(source: str, position: int) -> tuple[Part, int]:
    inside = position + 1
    negated = source[inside : inside + 1] == "^"
    spelled, first = ("[^" if negated else "["), set[str]()
    known = not negated
    inside += negated
    begin = inside
    while inside < len(source) and (source[inside] != "]" or inside == begin):
        if source[inside] == "\\":
            escape = _escape(source, inside)
            spelled, inside = spelled + escape.source, inside + 2
            known = known and escape.first is not None
            first |= escape.first or set()
            continue
        letter = fold_character(source[inside])[:1] or source[inside]
        if letter == "-" and first and source[inside + 1 : inside + 2] not in ("]", "\\", ""):
            last = fold_character(source[inside + 1])[:1]
            first |= {chr(code) for code in range(ord(spelled[-1]), ord(last) + 1)}
        spelled += f"\\{letter}" if letter in "[]&~|" else letter
        first.add(letter)
        inside += 1
    if inside >= len(source):
        raise PatternError("has a [ that is never closed")
    return _one_of(spelled + "]", frozenset(first) if known else None), inside + 1


def _quantified(part: Part, source: str, position: int) -> tuple[Part, int]:
    bounds, position = _bounds(source, position)
    if bounds is None or not part.source:
        return part, position
    low, high = bounds
    lazy = source[position : position + 1] == "?"
    position += lazy
    if source[position : position + 1] in ("*", "+"):
        raise PatternError("repeats a repetition")
    spelled = f"(?:{part.source})" if len(part.source) > 1 else part.source
    spelled += "?" if (low, high) == (0, 1) else f"{{{low},{high}}}"
    return repeated(part, low, high, spelled + "?" * lazy), position


def _bounds(source: str, position: int) -> tuple[tuple[int, int] | None, int]:
    mark = source[position : position + 1]
    if mark in ("?", "*", "+"):
        return {"?": (0, 1), "*": (0, MAX_REPEAT), "+": (1, MAX_REPEAT)}[mark], position + 1
    if mark != "{":
        return None, position
    close = source.find("}", position)
    low, comma, high = source[position + 1 : max(close, 0)].partition(",")
    if not low.isdecimal() or (high and not high.isdecimal()):
        raise PatternError("has a { that is no quantifier such as {2,5}; write \\{ for the sign")
    least = int(low)
    most = int(high) if high else max(least, MAX_REPEAT) if comma else least
    if not least <= most <= 100:
        raise PatternError(f"repeats {low}{comma}{high} times; at most 100 are allowed")
    return (least, most), close + 1
