"""One plain spelling of a text, with the way back to the places of the original.

Whoever looks for a value in an answer should not care about letter case, accents, curly quotes,
kinds of dash or runs of white space. `fold` takes them out and remembers, for every character that
is left, where it stood. A second spelling, `squeezed`, drops apostrophes and turns hyphens into
spaces: names are compared in it ("Brown's" is "Browns", "checkout API" is "checkout-api").
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

MAX_CHARS = 4_000
"""Characters of an answer that are looked at; what comes after is not read."""

_SAME = {
    "‘": "'",
    "’": "'",
    "ʼ": "'",
    "`": "'",
    "´": "'",
    "“": '"',
    "”": '"',
    "‐": "-",
    "‑": "-",
    "‒": "-",
    "–": "-",
    "−": "-",
    "⁄": "/",
}
_RAGGED = re.compile(r"[^\S ]|  ")  # white space that is not one plain space
_SPECIAL = re.compile(r"[^\x00-_a-\x7f]")  # everything but ASCII, and the backtick
_NOT_WORDS = str.maketrans("-_", "  ")


@dataclass(frozen=True)
class Folded:
    """A text in plain spelling.

    Attributes:
        original: the text as given, cut at `MAX_CHARS`.
        plain: lower case, no accents, straight quotes, short dashes, single spaces.
        origin: for each character of `plain`, its index in `original`.
        squeezed: `plain` without apostrophes, hyphens and underscores as spaces.
        squeezed_origin: for each character of `squeezed`, its index in `plain`.
    """

    original: str
    plain: str
    origin: Sequence[int]
    squeezed: str
    squeezed_origin: Sequence[int]

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """Span of `original` that stands for `plain[start:end]`, which must not be empty."""
        stop = self.origin[end - 1] + 1
        while stop < len(self.original) and unicodedata.combining(self.original[stop]):
            stop += 1
        return self.origin[start], stop


def fold_character(character: str) -> str:
    """Plain spelling of one character; empty for accents and invisible marks."""
    if character.isascii():
        return _SAME.get(character, character.lower())
    spelled = unicodedata.normalize("NFKD", _SAME.get(character, character).lower())
    kept = [c for c in spelled if unicodedata.category(c) not in ("Mn", "Cf")]
    return "".join(_SAME.get(c, c) for c in kept)


def fold(text: str) -> Folded:
    """Fold `text`, of which at most `MAX_CHARS` characters are read."""
    cut = text[:MAX_CHARS]
    plain, origin = _plain(cut)
    squeezed, squeezed_origin = _squeeze(plain)
    return Folded(cut, plain, origin, squeezed, squeezed_origin)


def squeeze(value: str) -> str:
    """The spelling in which names are compared."""
    return _squeeze(_plain(value[:MAX_CHARS])[0])[0].strip()


def _plain(text: str) -> tuple[str, Sequence[int]]:
    if not _RAGGED.search(text):
        same_length = _letter_by_letter(text)
        if same_length is not None:
            return same_length, range(len(text))
    letters: list[str] = []
    origin: list[int] = []
    for index, character in enumerate(text):
        for letter in fold_character(character):
            if letter.isspace():
                letter = " "
                if letters and letters[-1] == " ":
                    continue
            letters.append(letter)
            origin.append(index)
        if len(letters) >= MAX_CHARS:  # one character can stand for eighteen
            break
    return "".join(letters), origin


def _letter_by_letter(text: str) -> str | None:
    """The plain spelling, found fast, where each character is spelled by exactly one."""
    if text.isascii() and "`" not in text:
        return text.lower()
    spelled = {c: fold_character(c) for c in set(_SPECIAL.findall(text))}
    if any(len(letters) != 1 or letters.isspace() for letters in spelled.values()):
        return None
    for character, letter in spelled.items():
        text = text.replace(character, letter)
    return text.lower()


def _squeeze(plain: str) -> tuple[str, Sequence[int]]:
    if "'" not in plain:
        return plain.translate(_NOT_WORDS), range(len(plain))
    origin = [index for index, letter in enumerate(plain) if letter != "'"]
    return plain.replace("'", "").translate(_NOT_WORDS), origin
