"""What a prompt and its context support: their words, word sequences, numbers, links and emails.

Everything is kept in sets, so that looking a claim up costs the same however long the prompt is.
Words are compared without case, accents and apostrophes; "checkout-api", "Checkout API" and
"CheckoutApi" are one sequence of words.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from serving._slots.quantities import Number, Quantity, read_units, scan
from serving._slots.text import MAX_CHARS as CHUNK
from serving._slots.text import Folded, fold

MAX_CHARS = 200_000
"""Characters of prompt and context that are read."""
LONGEST_SEQUENCE = 4  # words

# Common units; a number without one is compared by its value alone.
UNITS = read_units(
    [
        {"dimension": dimension, "factor": factor, "say": say}
        for dimension, factor, say in (
            ("percent", 1.0, ("%", "percent", "per cent", "pct")),
            ("time", 1e-3, ("ms", "msecs?", "milliseconds?")),
            ("time", 1.0, ("s", "secs?", "seconds?")),
            ("time", 60.0, ("min", "mins", "minutes?")),
            ("time", 3600.0, ("h", "hrs?", "hours?")),
            ("time", 86400.0, ("d", "days?")),
            ("bytes", 1e3, ("kb",)),
            ("bytes", 1e6, ("mb", "megabytes?")),
            ("bytes", 1e9, ("gb", "gigabytes?")),
            ("bytes", 1e12, ("tb", "terabytes?")),
        )
    ]
)
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+){0,2}")
LINK = re.compile(
    r"(?:https?://|www\.)[^\s<>\"'`]{1,500}"
    r"|(?<![\w@.-])(?:[a-z0-9-]{1,63}\.){1,4}(?:com|org|net|io|dev|co|gov|edu|info|app)"
    r"(?![\w-])(?:/[^\s<>\"'`]{0,300})?",
    re.IGNORECASE,
)
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}")
CLOCK = re.compile(
    r"(?<![\w.:])(\d{1,2})(?:[:.](\d{2}))?(?::\d{2})?(?: ?([ap])\.?m(?!\w))?(?![\w:])"
)
_PIECES = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[^\W\d_]|\d+")
_INITIALISM = re.compile(r"(?<!\w)(?:p(\d{1,18})|(\d{1,18})(?:st|nd|rd|th))(?!\w)")
_SUFFIXES = ("s", "es", "n", "an", "ian", "ish", "ese", "er", "ers", "ed", "ing", "ly")
_EXACT = 9  # digits in which values are compared
# A region's code and the place that its provider publishes for it are two writings of one thing
# (AWS, "AWS Regions"; Google Cloud, "Regions and zones"). One way only: a place is the region of
# several providers, and a code of these two may be another place's with a third.
_PLACES = """
us-east-1 northern virginia; us-east-2 ohio; us-west-1 northern california; us-west-2 oregon
ca-central-1 montreal canada; ca-west-1 calgary; mx-central-1 mexico; sa-east-1 sao paulo
eu-west-1 ireland; eu-west-2 london; eu-west-3 paris; eu-central-1 frankfurt; eu-central-2 zurich
eu-north-1 stockholm; eu-south-1 milan; eu-south-2 spain; il-central-1 tel aviv
af-south-1 cape town; me-south-1 bahrain; me-central-1 uae; ap-east-1 hong kong; ap-east-2 taipei
ap-south-1 mumbai; ap-south-2 hyderabad; ap-northeast-1 tokyo; ap-northeast-2 seoul
ap-northeast-3 osaka; ap-southeast-1 singapore; ap-southeast-2 sydney; ap-southeast-3 jakarta
ap-southeast-4 melbourne; ap-southeast-5 malaysia; ap-southeast-6 new zealand
ap-southeast-7 thailand

us-central1 iowa; us-east1 south carolina; us-east4 northern virginia; us-east5 columbus ohio
us-south1 dallas; us-west1 oregon; us-west2 los angeles; us-west3 salt lake city
us-west4 las vegas; northamerica-northeast1 montreal; northamerica-northeast2 toronto
northamerica-south1 mexico; southamerica-east1 sao paulo; southamerica-west1 santiago
europe-west1 belgium; europe-west2 london; europe-west3 frankfurt; europe-west4 netherlands
europe-west6 zurich; europe-west8 milan; europe-west9 paris; europe-west10 berlin
europe-west12 turin; europe-central2 warsaw; europe-north1 finland; europe-north2 stockholm
europe-southwest1 madrid; me-west1 tel aviv; me-central1 doha; me-central2 dammam
africa-south1 johannesburg; asia-east1 taiwan; asia-east2 hong kong; asia-northeast1 tokyo
asia-northeast2 osaka; asia-northeast3 seoul; asia-south1 mumbai; asia-south2 delhi
asia-southeast1 singapore; asia-southeast2 jakarta; australia-southeast1 sydney
australia-southeast2 melbourne
"""
_PLACE_OF = {
    code: tuple(words)
    for entry in _PLACES.replace("\n", ";").split(";")
    if entry.strip()
    for code, *words in [entry.split()]
}
_REGION = re.compile(r"(?<![\w-])([a-z]{2,12}-[a-z]{4,9}-?\d{1,2})(?:-?[a-z])?(?![\w-])", re.I)


@dataclass(frozen=True)
class Terms:
    """What a text says, for claims to be looked up in.

    Attributes:
        words: its words, folded, with their parts ("checkout", "api") and without common endings;
            with a cloud region's code the words of its place.
        sequences: up to four neighbouring word parts, written together.
        values: its numbers, units aside.
        bare: its numbers that have no unit.
        amounts: dimension and value in the dimension's base unit.
        times: times of day [minutes].
        links: URLs, domains and email addresses.
        initials: the initials of its words, one after the other.
        complete: whether all of the text was read.
    """

    words: frozenset[str]
    sequences: frozenset[str]
    values: frozenset[str]
    bare: frozenset[str]
    amounts: frozenset[tuple[str, str]]
    times: frozenset[int]
    links: frozenset[str]
    initials: str
    complete: bool


def read_terms(text: str) -> Terms:
    """Index `text`, of which at most `MAX_CHARS` characters are read."""
    cut = text[:MAX_CHARS]
    parts = [part for word in WORD.finditer(cut) for part in word_parts(word[0])]
    whole = [fold_word(word[0]) for word in WORD.finditer(cut)]
    whole += [word for code in _REGION.findall(cut) for word in _PLACE_OF.get(code.lower(), ())]
    values, bare, amounts = set[str](), set[str](), set[tuple[str, str]]()
    for folded, quantities, numbers in read_numbers(cut):
        with_unit = {q.start for q in quantities}
        values |= {spell(n.value) for n in numbers if n.value is not None}
        bare |= {
            spell(n.value) for n in numbers if n.value is not None and n.start not in with_unit
        }
        amounts |= {(name, spell(value)) for q in quantities for name, value in q.amounts}
        codes = _INITIALISM.findall(folded.plain)
        bare |= {
            spell(float(number)) for pair in codes for number in pair if len(number) < 20 and number
        }
    return Terms(
        words=frozenset(form for word in {*whole, *parts} for form in (word, *stems(word))),
        sequences=frozenset(_sequences(parts)),
        values=frozenset(values | bare),
        bare=frozenset(bare),
        amounts=frozenset(amounts),
        times=frozenset(minute for time in CLOCK.finditer(cut) for minute in minutes(time)),
        links=frozenset(_links(cut)),
        initials="".join(part[0] for part in parts),
        complete=len(text) <= MAX_CHARS,
    )


def read_numbers(text: str) -> Iterator[tuple[Folded, list[Quantity], list[Number]]]:
    """Numbers and quantities of a text, piece by piece as the reader of slots takes it."""
    for start, stop in pieces(text):
        folded = fold(text[start:stop])
        yield folded, *scan(folded.plain, UNITS)


def pieces(text: str) -> Iterator[tuple[int, int]]:
    """Spans of at most CHUNK characters, cut at white space where there is some near the end."""
    start = 0
    while start < len(text):
        stop = min(start + CHUNK // 2, len(text))  # a folded text may be longer than its original
        space = text.rfind(" ", stop - 100, stop) if stop < len(text) else -1
        stop = space if space > start else stop
        yield start, stop
        start = stop


def fold_word(word: str) -> str:
    """Lower case, no accents, no apostrophes, no possessive s."""
    if word[-2:] in ("'s", "’s"):
        word = word[:-2]
    if word.isascii():
        return word.replace("'", "").lower()
    spelled = unicodedata.normalize("NFKD", word.casefold())
    return "".join(c for c in spelled if c.isalnum())


def word_parts(word: str) -> list[str]:
    """Parts of a word at changes of case and between letters and digits: "eatType7" is three."""
    if word.islower() and word.isascii() and word.isalpha():
        return [word]
    plain = word[:-2] if word[-2:] in ("'s", "’s") else word
    if not plain.isascii():
        return [fold_word(plain)]
    return [piece.lower() for piece in _PIECES.findall(plain.replace("'", ""))]


def stems(word: str) -> list[str]:
    """The word without endings of plurals, adjectives and verbs; at least four letters stay."""
    cut = [word[: -len(end)] for end in _SUFFIXES if word.endswith(end)]
    cut += [word[:-1]] if word.endswith(("e", "y")) else []
    return [stem for stem in cut if len(stem) >= 4]


def spell(value: float) -> str:
    """A value as text, so that equal values are equal whatever they were computed from."""
    return f"{value:.{_EXACT}g}"


def minutes(time: re.Match[str]) -> list[int]:
    """Minutes since midnight that a match of CLOCK can mean; none if it is no time of day."""
    hour, minute, half = int(time[1]), int(time[2] or 0), (time[3] or "").lower()
    colon = ":" in time[0]
    if minute > 59 or hour > (12 if half else 24) or not (colon or half):
        return []
    if half:
        return [(hour % 12 + (12 if half == "p" else 0)) * 60 + minute]
    return [hour * 60 + minute]


def clean_link(link: str) -> str:
    """A link without scheme, "www." and punctuation at its end, lower case."""
    cleaned = link.lower().rstrip(".,;:!?)]}/'\"")
    return cleaned.removeprefix("https://").removeprefix("http://").removeprefix("www.")


def _links(text: str) -> Iterator[str]:
    """Links and addresses of a text, and the host of each link."""
    for pattern in (LINK, EMAIL):
        for match in pattern.finditer(text):
            link = clean_link(match[0])
            yield link
            yield link.partition("/")[0]


def _sequences(parts: list[str]) -> Iterator[str]:
    for start in range(len(parts)):
        joined = ""
        for part in parts[start : start + LONGEST_SEQUENCE]:
            joined += part
            yield joined
