"""Quantities: how they are written in records and in how many spellings people say them.

A record holds one plain form ("1.8 s", "18,400 messages", "25 min"). Texts say the same amount in
other spellings: "1.8 seconds", "18.4k messages", "twenty-five minutes", "half an hour". Every
spelling made here means exactly the record's amount; nothing is rounded.
"""

from random import Random
from typing import Final, Literal

from stages._incidents.choice import Options, choose, names

Spelling = Literal["short", "long", "words"]

# Unit as in records -> (short, singular, plural). The units of the drift scenarios come last.
UNITS: Final[dict[str, tuple[str, str, str]]] = {
    "ms": ("ms", "millisecond", "milliseconds"),
    "s": ("s", "second", "seconds"),
    "min": ("min", "minute", "minutes"),
    "h": ("h", "hour", "hours"),
    "days": ("days", "day", "days"),
    "%": ("%", "percent", "percent"),
    "GB": ("GB", "gigabyte", "gigabytes"),
    "req/s": ("req/s", "request per second", "requests per second"),
    "µs": ("µs", "microsecond", "microseconds"),
    "MiB/s": ("MiB/s", "mebibyte per second", "mebibytes per second"),
    "req/min": ("req/min", "request per minute", "requests per minute"),
    "IOPS": ("IOPS", "IOPS", "IOPS"),
    "MiB": ("MiB", "mebibyte", "mebibytes"),
}
_SECONDS: Final[dict[str, float]] = {
    "ms": 0.001,
    "s": 1,
    "min": 60,
    "h": 3600,
    "day": 86_400,
    "days": 86_400,
}
_IDIOMS: Final[dict[str, str]] = {
    "15 min": "a quarter of an hour",
    "30 min": "half an hour",
    "45 min": "three quarters of an hour",
    "60 min": "an hour",
    "1 h": "an hour",
    "90 min": "an hour and a half",
    "1.5 h": "an hour and a half",
    "2.5 h": "two and a half hours",
    "3.5 h": "three and a half hours",
}
_SMALL: Final[tuple[str, ...]] = names(
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|"
    "fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
)
_TENS: Final[tuple[str, ...]] = names("_|_|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety")
_PERCENT: Final[Options] = ((8, "{}%"), (2, "{} %"), (2, "{} percent"))
MOST_IN_WORDS: Final = 60  # beyond this people write digits


def split_quantity(text: str) -> tuple[float, str]:
    """The number and the unit of a record's quantity, as in ("1.8 s" -> 1.8, "s")."""
    number, _, unit = text.partition(" ")
    return float(number.replace(",", "")), unit


def in_seconds(text: str) -> float:
    """A time quantity in seconds."""
    number, unit = split_quantity(text)
    return number * _SECONDS[unit]


def format_number(number: float, decimals: int = 0) -> str:
    """Digits with thousands separators and without trailing zeros."""
    text = f"{number:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_seconds(seconds: float) -> str:
    """A time as a dashboard shows it: 850 ms, 1.8 s, 42 s, 7 min, 3.5 h."""
    if seconds < 1:
        return f"{format_number(rounded(seconds * 1000, 3))} ms"
    if seconds < 120:
        return f"{format_number(rounded(seconds, 2 if seconds < 10 else 3), 1)} s"
    if seconds < 7200:
        return f"{format_number(seconds / 60)} min"
    return f"{format_number(seconds / 3600, 1 if seconds < 36000 else 0)} h"


def rounded(number: float, digits: int) -> float:
    """`number` rounded to so many significant digits."""
    return float(f"{number:.{digits - 1}e}")


def in_words(number: int) -> str:
    """0..99 in words, as in "twenty-five"."""
    if number < len(_SMALL):
        return _SMALL[number]
    tens, rest = divmod(number, 10)
    return _TENS[tens] + (f"-{_SMALL[rest]}" if rest else "")


def say_quantity(rng: Random, text: str, spelling: Spelling) -> str:
    """One spelling of a record's quantity.

    `spelling` is what the writer leans to; words are only used where people would.
    """
    number, unit = split_quantity(text)
    digits = text.partition(" ")[0]
    if spelling == "words" and text in _IDIOMS:
        return _IDIOMS[text]
    if unit == "%":
        return _say_percent(rng, number, digits, spelling)
    short, one, many = UNITS.get(unit, (unit, unit.removesuffix("s"), unit))
    if spelling == "words" and number == int(number) <= MOST_IN_WORDS and unit not in ("ms", "GB"):
        return f"{in_words(int(number))} {one if number == 1 else many}"
    if unit not in UNITS:
        return f"{_say_count(rng, number, digits, spelling)} {one if number == 1 else many}"
    if spelling == "short":
        tight = unit in ("ms", "s") and rng.random() < 0.15
        return f"{digits}{'' if tight else ' '}{one if unit == 'days' and number == 1 else short}"
    return f"{digits} {one if number == 1 else many}"


def _say_percent(rng: Random, number: float, digits: str, spelling: Spelling) -> str:
    if spelling == "words" and number == int(number) <= MOST_IN_WORDS:
        return f"{in_words(int(number))} percent"
    return choose(rng, _PERCENT).format(digits)


def _say_count(rng: Random, number: float, digits: str, spelling: Spelling) -> str:
    """Large counts sometimes in thousands, only when that loses nothing."""
    if spelling == "short" and number >= 1000 and number % 100 == 0 and rng.random() < 0.3:
        return f"{format_number(number / 1000, 1)}k"
    return digits


def say_before_noun(rng: Random, text: str, long: bool = False) -> str:
    """A quantity before a noun: "400 ms", "80%", "5-second"; `long` spells the unit out."""
    number, unit = split_quantity(text)
    digits = text.partition(" ")[0]
    if unit == "%":
        return f"{digits}%"
    short, one, _ = UNITS.get(unit, ("", unit.removesuffix("s"), unit))
    if (
        short
        and short == unit != "days"
        and not long
        and (unit not in ("s", "min", "h") or rng.random() < 0.7)
    ):
        return f"{digits} {short}"
    return f"{digits}-{one}" if number != 1 or unit in UNITS else f"{digits} {one}"
