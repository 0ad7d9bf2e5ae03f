"""Texts as a list of blocked phrases reads them: letters only, whatever they are dressed up as.

Folded away: case, width and other compatibility forms (NFKC), accents, invisible characters,
letters of other scripts that look like Latin ones, letters in circles and squares and, on request,
digits and signs that stand for letters. Phrases are folded the same way, so that a Russian phrase
meets a Russian text. The look-alikes are lower-case Cyrillic, Greek and Armenian ones and some
letters of Latin itself; rarer scripts are left alone (Unicode's confusables.txt has thousands).
"""

import unicodedata
from functools import lru_cache
from itertools import accumulate

_LOOK_ALIKES = str.maketrans(
    "аверѕіјкмнопстухһԁԛԝѵӏёї" + "αβεηικνορτυχωγ" + "սոօցհ" + "ıłøđħŧɑɡɩʟʀʏ",
    "abepsijkmhonctyxhdqwvlei" + "abenikvoptuxwy" + "unoqh" + "ilodhtagilry",
)
_LEET = str.maketrans("0134578@$€", "oieastbase")
_LEET_LETTERS = str.maketrans("l", "i")  # 1, l and i stand for each other
_ENCLOSED = ((0x1F130, 26), (0x1F150, 26), (0x1F170, 26), (0x1F1E6, 26))  # squares, circles, flags
_INVISIBLE = {0x034F, 0x115F, 0x1160, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10)}


class Folded:
    """The letters of a text, where each stands, and how they are kept apart."""

    def __init__(self, text: str, leet: bool = False) -> None:
        """Fold `text`; `leet`: digits and signs stand for letters."""
        parts = {character: _fold(character, leet) for character in set(text)}
        folded = [parts[character] for character in text]
        self.letters = "".join(part for part in folded if part and part[0].isalnum())
        self.origins: list[int] = []
        """Index in the text of each letter."""
        self.gaps: list[str] = []
        """What stands before each letter and after the letter before it."""
        gap: list[str] = []
        for index, part in enumerate(folded):
            if not part:
                continue
            if not part[0].isalnum():
                gap.append(part)
                continue
            for _ in part:
                self.origins.append(index)
                self.gaps.append("".join(gap) if gap else "")
                gap = []
        self.after = "".join(gap)
        """What stands behind the last letter."""
        self._sums: tuple[list[int], list[int], list[int]] | None = None

    def is_word(self, first: int, last: int) -> bool:
        """Whether letters first … last may be read as one word.

        Between two letters stands one character at most that is no letter; a blank counts only
        where the whole word is spaced out, as in "w o r d".
        """
        wide, blank, closed = self._sums or self._add_up()
        if wide[last] - wide[first]:
            return False
        return blank[last] == blank[first] or closed[last] == closed[first]

    def starts_word(self, index: int) -> bool:
        """Whether no letter stands right before this one, or its script has no blanks."""
        return index == 0 or bool(self.gaps[index]) or _needs_no_edge(self.letters[index])

    def ends_word(self, index: int) -> bool:
        """Whether no letter stands right behind this one, or its script has no blanks."""
        last = index + 1 == len(self.letters)
        return last or bool(self.gaps[index + 1]) or _needs_no_edge(self.letters[index])

    def _add_up(self) -> tuple[list[int], list[int], list[int]]:
        """Up to each letter: wide gaps, blanks between two letters, letters without a gap."""
        self._sums = (
            list(accumulate(len(gap) > 1 for gap in self.gaps)),
            list(accumulate(gap.isspace() for gap in self.gaps)),
            list(accumulate(not gap for gap in self.gaps)),
        )
        return self._sums


def _needs_no_edge(letter: str) -> bool:
    """Thai, Chinese, Japanese …: scripts without blanks between words."""
    return letter >= "\u0e00" and unicodedata.category(letter) == "Lo"


@lru_cache(maxsize=16384)
def _fold(character: str, leet: bool) -> str:
    """Letters and digits of a character, itself where it is neither, nothing if invisible."""
    code = ord(character)
    if code in _INVISIBLE or unicodedata.category(character) in ("Cf", "Mn", "Me"):
        return "" if not _is_vowel_sign(code) else character
    for first, count in _ENCLOSED:
        if first <= code < first + count:
            return _leet(chr(ord("a") + code - first), leet)
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", character).casefold())
    bare = plain.translate(_LOOK_ALIKES) if len(plain) == 1 else _without_accents(plain)
    bare = _leet(bare, leet)
    return "".join(filter(str.isalnum, bare)) or character


def _leet(letters: str, leet: bool) -> str:
    return letters.translate(_LEET).translate(_LEET_LETTERS) if leet else letters


def _without_accents(text: str) -> str:
    return "".join(c for c in text if not unicodedata.combining(c)).translate(_LOOK_ALIKES)


def _is_vowel_sign(code: int) -> bool:
    """Marks that spell, in the scripts of India and beyond; accents of Europe do not."""
    return 0x0900 <= code < 0x1AB0
