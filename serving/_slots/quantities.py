"""Numbers and quantities in a folded text: "1.8 s", "1,800 ms", "twenty-five minutes", "1.2k".

A quantity is a number with a unit, read as an amount of a dimension (1.8 s = 1,800 ms = 1.8 of
time), so that two ways to write the same thing are equal. What is no claim about a number, and
therefore never counted: digits inside a word or behind one with a hyphen (p99, eu-west-1, 5xx,
v2.3), ordinals (99th, first), "one" and "zero" without a unit, "a" and "an" (with a unit they
explain an amount but claim none: "an hour"), number words tied to another word (two-step), 24/7.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from serving._slots.patterns import read_pattern

_ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = (
    *("ten", "eleven", "twelve", "thirteen", "fourteen"),
    *("fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_WORDS = {word: value for value, word in enumerate(["zero", *_ONES, *_TEENS])} | {
    word: 10 * value for value, word in enumerate(_TENS, start=2)
}
_SCALES = {"thousand": 1e3, "million": 1e6, "billion": 1e9}
_SUFFIXES = {"k": 1e3, "m": 1e6}

_BELOW_100 = (
    rf"(?:(?:{'|'.join(_TENS)})(?:[ -](?:{'|'.join(_ONES)}))?"
    rf"|{'|'.join(reversed(_TEENS))}|zero|{'|'.join(_ONES)})(?!\w)"
)
_BELOW_1000 = rf"(?:an?(?= hundred)|{_BELOW_100})(?: hundred(?!\w)(?:(?: and)? {_BELOW_100})?)?"
_SCALE = rf" (?:{'|'.join(_SCALES)})(?!\w)"
_SPOKEN = (
    rf"(?:an?(?={_SCALE})|{_BELOW_1000}(?: point(?: {_BELOW_100}){{1,6}})?)"
    rf"(?:{_SCALE}(?:(?: and)? {_BELOW_1000})?)?"
)
_WRITTEN = r"[-+]?(?:\d{1,3}(?:,\d{3}){1,4}(?![\d,])|\d{1,20})(?:[.:/]\d{1,20}){0,8}"
# Behind a letter and a hyphen, digits belong to a name; behind a digit, to the number before.
_NUMBER = re.compile(rf"(?<![\w.])(?<![a-z]-)(?:(?P<digits>{_WRITTEN})|(?P<words>{_SPOKEN}))")
_ARTICLE = re.compile(r"(?<![\w.])an?(?= )")
_SCALE_AFTER = re.compile(rf"(?P<scale>{_SCALE})|(?P<suffix>[{''.join(_SUFFIXES)}])(?![a-z0-9])")
_PLAIN_NUMBER = re.compile(r"[-+]?[\d,]+(?:\.\d+)?")
_FOLLOWING = re.compile(rf"(?P<digits>{_WRITTEN})(?P<words>(?!))?")
_IN_A_WORD = re.compile(r"[a-z_]")
_TIED = re.compile(r"-?[a-z_]")
_JOINED = re.compile(r"(?: and | )?")
_NO_CLAIM = frozenset({"one", "zero", "24/7"})
_SAME_NUMBER = 1e-9  # relative; floats of equal amounts differ in their last digits


@dataclass(frozen=True)
class Unit:
    """One unit of a schema: `forms` matches its spellings, an amount is number x `factor`."""

    dimension: str
    factor: float
    forms: re.Pattern[str]
    bare: bool  # whether a number without a unit has this unit


@dataclass(frozen=True)
class Number:
    """A number that is said: its span and value; None for a version, a time of day, a date."""

    start: int
    end: int
    value: float | None


@dataclass(frozen=True)
class Quantity:
    """A number with a unit: its span and its amount in every dimension it can be read in."""

    start: int
    end: int
    amounts: tuple[tuple[str, float], ...]
    claims: bool = True  # False for "an hour", which may be a figure of speech
    joined: bool = False  # made of two others, as in "1 h 30 min"


@dataclass(frozen=True)
class Units:
    """All units of a schema, and one expression that finds any of them behind a number."""

    units: tuple[Unit, ...]
    any_form: re.Pattern[str] | None


def read_units(definitions: Sequence[Mapping[str, object]]) -> Units:
    """Compile the `units` entries of all quantity slots; equal units are read once."""
    spelled: dict[tuple[str, float], list[str]] = {}
    for entry in definitions:
        say, factor = entry["say"], entry["factor"]
        assert isinstance(say, Sequence) and isinstance(factor, int | float)
        forms = spelled.setdefault((str(entry["dimension"]), float(factor)), [])
        forms += [form for form in (read_pattern(s).source for s in say) if form not in forms]
    units = tuple(_unit(*key, forms) for key, forms in spelled.items())
    every = sorted({f for forms in spelled.values() for f in forms if f}, key=len, reverse=True)
    return Units(units, re.compile(rf"[ -]?(?:{'|'.join(every)})(?![a-z_])") if every else None)


def _unit(dimension: str, factor: float, forms: list[str]) -> Unit:
    written = [form for form in forms if form]
    pattern = re.compile("|".join(written) if written else r"(?!)")
    return Unit(dimension, factor, pattern, bare=len(written) < len(forms))


def scan(text: str, units: Units) -> tuple[list[Quantity], list[Number]]:
    """All quantities of a folded text (joined ones and their parts), and all its numbers."""
    quantities: list[Quantity] = []
    numbers: list[Number] = []
    for number, unit_end in _numbers(text, units):
        numbers.append(number)
        quantity = _quantity(text, number, unit_end, units)
        if quantity:
            quantities.append(quantity)
    if units.any_form:
        quantities += _articles(text, units)
    return quantities + _joined(text, quantities), numbers


def read_amounts(value: str, units: Units) -> tuple[tuple[str, float], ...]:
    """Amounts of a record's folded value such as "1 h 30 min"; empty when it is no quantity."""
    quantities, _ = scan(value, units)
    whole = [q.amounts for q in quantities if q.start == 0 and q.end == len(value)]
    return whole[0] if whole else ()


def number_values(text: str, units: Units) -> set[float]:
    """Values of all numbers of a folded text."""
    return {number.value for number, _ in _numbers(text, units) if number.value is not None}


def same_amount(one: float, other: float, tolerance: float = 0.0) -> bool:
    """Whether two amounts are equal within a relative tolerance."""
    return abs(one - other) <= max(tolerance, _SAME_NUMBER) * max(abs(one), abs(other))


def _numbers(text: str, units: Units) -> Iterator[tuple[Number, int]]:
    """Every number that claims something, with the end of its unit (or of itself)."""
    position = 0
    while match := _NUMBER.search(text, position):
        start, end = match.span()
        position = end
        while True:  # "1h30m": what follows a unit at once is read on, though no word begins there
            value = _value(match)
            end, unit_end, value = _with_unit(text, end, value, units)
            if unit_end > end or _is_claim(text, start, end, bool(match["words"])):
                yield Number(start, end, value), unit_end
            position = max(position, unit_end)
            following = _FOLLOWING.match(text, unit_end) if unit_end > end else None
            if not following:
                break
            match, (start, end) = following, following.span()


def _value(match: re.Match[str]) -> float | None:
    if match["words"]:
        return _spoken_value(match["words"])
    written = match["digits"]
    return float(written.replace(",", "")) if _PLAIN_NUMBER.fullmatch(written) else None


def _spoken_value(words: str) -> float:
    total = group = 0.0
    tokens = re.findall(r"[a-z]+", words)
    for index, word in enumerate(tokens):
        if word == "point":
            decimals = "".join(str(_WORDS.get(w, "")) for w in tokens[index + 1 :])
            scale = next((_SCALES[w] for w in tokens[index + 1 :] if w in _SCALES), 1.0)
            return (total + group + float(f"0.{decimals}")) * scale
        if word == "hundred":
            group = max(group, 1.0) * 100
        elif word in _SCALES:
            total, group = total + max(group, 1.0) * _SCALES[word], 0.0
        else:
            group += _WORDS.get(word, 0)
    return total + group


def _with_unit(
    text: str, end: int, value: float | None, units: Units
) -> tuple[int, int, float | None]:
    """End of the number with its k or million, end of its unit, its value."""
    unit = units.any_form.match(text, end) if units.any_form else None
    if unit:  # "5m" is five minutes where m is a unit, five million where it is none
        return end, unit.end(), value
    scaled = _SCALE_AFTER.match(text, end)
    if not scaled:
        return end, end, value
    factor = _SUFFIXES[scaled["suffix"]] if scaled["suffix"] else _SCALES[scaled["scale"].strip()]
    end = scaled.end()
    unit = units.any_form.match(text, end) if units.any_form else None
    return end, unit.end() if unit else end, None if value is None else value * factor


def _is_claim(text: str, start: int, end: int, spoken: bool) -> bool:
    if (_TIED if spoken else _IN_A_WORD).match(text, end):  # two-step, 5xx, 2nd
        return False
    return text[start:end] not in _NO_CLAIM


def _quantity(text: str, number: Number, unit_end: int, units: Units) -> Quantity | None:
    if number.value is None:
        return None
    form = text[number.end : unit_end].lstrip(" -")
    amounts = {
        (unit.dimension, number.value * unit.factor): None
        for unit in units.units
        if (unit.forms.fullmatch(form) if form else unit.bare)
    }
    return Quantity(number.start, unit_end, tuple(amounts)) if amounts else None


def _articles(text: str, units: Units) -> list[Quantity]:
    """ "an hour", "a minute": one of the unit, if somebody asks for exactly that."""
    found = []
    for match in _ARTICLE.finditer(text):
        unit = units.any_form.match(text, match.end()) if units.any_form else None
        number = Number(match.start(), match.end(), 1.0)
        quantity = _quantity(text, number, unit.end(), units) if unit else None
        if quantity:
            found.append(Quantity(quantity.start, quantity.end, quantity.amounts, claims=False))
    return found


def _joined(text: str, quantities: list[Quantity]) -> list[Quantity]:
    """Neighbours of one dimension, larger unit first, read as one: "1 h 30 min" is 90 min."""
    found = []
    previous: Quantity | None = None
    for quantity in sorted(quantities, key=lambda q: q.start):
        joined = _sum(text, previous, quantity) if previous else None
        if joined:
            found.append(joined)
        previous = joined or quantity
    return found


def _sum(text: str, one: Quantity, other: Quantity) -> Quantity | None:
    gap = _JOINED.fullmatch(text, one.end, other.start) if one.end <= other.start else None
    if not gap or not other.claims:
        return None
    added = tuple(
        (dimension, amount + more)
        for dimension, amount in one.amounts
        for same, more in other.amounts
        if dimension == same and 0 < more < amount
    )
    return Quantity(one.start, other.end, added, joined=True) if added else None
