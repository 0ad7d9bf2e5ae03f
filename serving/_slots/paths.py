"""In how many ways an expression can match at one place: what bounds its backtracking.

A backtracking matcher tries one way after the other until one fits, so the ways to match at one
place bound its work there. While a piece can match few texts (a list of words), its ways are
counted: those of a text and of all its beginnings, because no other of the texts can stand at the
same place. Beyond that they are bounded by a product, which is an over-estimate. Ways that end
half-way count too: `a{0,16}a{0,16}b` tries many before it misses the b.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MAX_PATHS = 10_000
"""Ways to match at one place; an expression with more is refused."""
_MAX_TEXTS = 300  # texts that are counted one by one

Texts = Mapping[str, int]


class PatternError(ValueError):
    """An expression outside the subset; the message says what and why."""


@dataclass(frozen=True)
class Part:
    """What is known of a piece of an expression.

    Attributes:
        source: the piece as `re` gets it.
        first: characters it can start with; None when any.
        empty: whether it can match nothing.
        paths: bound on the ways to match at one place, or part of the way.
        texts: the texts it matches and in how many ways each; None when they are too many.
    """

    source: str
    first: frozenset[str] | None
    empty: bool
    paths: int
    texts: Texts | None


def alternatives(parts: Sequence[Part]) -> Part:
    """One of `parts`."""
    if len(parts) == 1:
        return parts[0]
    texts: Texts | None = {}
    for part in parts:
        texts = _merged(texts, part.texts)
    paths = [part.paths for part in parts]
    return _checked(
        "|".join(part.source for part in parts),
        _any_first(parts),
        any(part.empty for part in parts),
        sum(paths) if texts is None else max(*paths, _count(texts)),
        texts,
    )


def in_a_row(parts: Sequence[Part]) -> Part:
    """All `parts`, one behind the other; stretches of few texts are counted."""
    begin = next((n for n, part in enumerate(parts, start=1) if not part.empty), len(parts))
    whole, paths, tried = True, 1, 1  # in stretches before, in this one
    stretch: Texts = {"": 1}
    for part in parts:
        tried = max(tried, _count(stretch) * part.paths)
        longer = _followed(stretch, part.texts)
        if longer is None:
            whole, paths, tried = False, paths * tried, 1
            longer = {"": 1}
        stretch = longer
    return _checked(
        "".join(part.source for part in parts),
        _any_first(parts[:begin]),
        all(part.empty for part in parts),
        paths * max(tried, _count(stretch)),
        stretch if whole else None,
    )


def repeated(part: Part, low: int, high: int, source: str) -> Part:
    """`part` from `low` to `high` times, spelled `source`."""
    paths, power, tried = 0, 1, 1
    texts: Texts | None = {}
    times: Texts | None = {"": 1}
    for count in range(high + 1):
        if count >= low:
            texts = _merged(texts, times)
        paths = min(paths + power, MAX_PATHS + 1)
        power = min(power * part.paths, MAX_PATHS + 1)
        if times is not None and count < high:
            tried = max(tried, _count(times) * part.paths)
        times = _followed(times, part.texts)
    if texts is not None:
        paths = max(tried, _count(texts))
    return _checked(source, part.first, part.empty or low == 0, paths, texts)


def _checked(
    source: str, first: frozenset[str] | None, empty: bool, paths: int, texts: Texts | None
) -> Part:
    if paths > MAX_PATHS:
        raise PatternError(
            "can match in too many ways on hostile text; use fewer or narrower repetitions"
        )
    return Part(source, first, empty, paths, texts)


def _any_first(parts: Sequence[Part]) -> frozenset[str] | None:
    known = [part.first for part in parts if part.first is not None]
    return frozenset[str]().union(*known) if len(known) == len(parts) else None


def _count(texts: Texts) -> int:
    """Most ways to match at one place: those of a text and of all its beginnings."""
    if len(texts) == 1:
        return next(iter(texts.values()))
    lengths = sorted({len(text) for text in texts})
    return max(
        sum(texts.get(text[:length], 0) for length in lengths if length <= len(text))
        for text in texts
    )


def _merged(one: Texts | None, other: Texts | None) -> Texts | None:
    if one is None or other is None or len(one) + len(other) > 2 * _MAX_TEXTS:
        return None
    return {text: one.get(text, 0) + other.get(text, 0) for text in one.keys() | other.keys()}


def _followed(one: Texts | None, other: Texts | None) -> Texts | None:
    if one is None or other is None or len(one) * len(other) > _MAX_TEXTS:
        return None
    joined: dict[str, int] = {}
    for start, ways in one.items():
        for end, more in other.items():
            joined[start + end] = joined.get(start + end, 0) + ways * more
    return joined
