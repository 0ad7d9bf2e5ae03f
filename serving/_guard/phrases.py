"""A list of blocked phrases: a UTF-8 file, one phrase a line, `#` for comments.

Phrases are found whatever they are dressed up as (folding.py), at word boundaries, with one sign
between letters ("b.a.d", "b a d") and up to three between words. There are no regular expressions
in the file: all phrases are found in one pass (Aho and Corasick 1975), in time that grows with the
length of the text, times the number of phrases that end in each other, which is the list's doing
and never the text's.

The file is read again when it changes. One that has become unreadable finds nothing and says so.
"""

from collections import deque
from pathlib import Path
from typing import NamedTuple

from serving._guard.folding import Folded
from serving.errors import StillhouseError

MAX_BYTES = 1_000_000
MAX_LETTERS = 100
LONGEST_GAP = 3  # signs between two words of a phrase
_SHOWN = 10
Signature = tuple[int, int, int]


class Phrase(NamedTuple):
    """One phrase: its line in the file and where each of its words ends, in letters."""

    line: int
    ends: tuple[int, ...]


class Hit(NamedTuple):
    """A phrase's line, and where it stands: text[start:end]."""

    line: int
    start: int
    end: int


class Automaton:
    """All phrases at once: a trie with a link from each node to its longest proper suffix."""

    def __init__(self, phrases: dict[str, list[Phrase]]) -> None:
        """`phrases` by their letters; the same letters may be split into words in several ways."""
        self._next: list[dict[str, int]] = [{}]
        self._link = [0]
        self.depth = [0]
        """Letters of each node."""
        self._ends: list[list[Phrase]] = [[]]
        for letters, splits in phrases.items():
            self._add(letters, splits)
        self._shorter = self._connect()

    def step(self, node: int, letter: str) -> int:
        """The longest beginning of a phrase that the text ends with after one more letter."""
        while node and letter not in self._next[node]:
            node = self._link[node]
        return self._next[node].get(letter, 0)

    def phrases(self, node: int) -> list[Phrase]:
        """Phrases that end here, longest first."""
        found: list[Phrase] = []
        while node:
            found += self._ends[node]
            node = self._shorter[node]
        return found

    def has_phrases(self, node: int) -> bool:
        """Whether any phrase ends here."""
        return bool(self._ends[node]) or self._shorter[node] > 0

    def _add(self, letters: str, splits: list[Phrase]) -> None:
        node = 0
        for letter in letters:
            if letter not in self._next[node]:
                self._next[node][letter] = len(self._next)
                self._next.append({})
                self._link.append(0)
                self.depth.append(self.depth[node] + 1)
                self._ends.append([])
            node = self._next[node][letter]
        self._ends[node] += splits

    def _connect(self) -> list[int]:
        """Set the links, breadth first; returns for each node the next linked one with phrases."""
        shorter = [0] * len(self._next)
        waiting = deque(self._next[0].values())
        while waiting:
            node = waiting.popleft()
            link = self._link[node]
            shorter[node] = link if self._ends[link] else shorter[link]
            for letter, child in self._next[node].items():
                self._link[child] = self.step(link, letter)
                waiting.append(child)
        return shorter


class BlockedList:
    """The phrases of a file, read again when it changes."""

    def __init__(self, path: Path, leet: bool = False) -> None:
        """Read the file; `leet`: digits and signs stand for letters, in phrases and texts.

        Raises:
            StillhouseError: missing, unreadable, too large, empty, or lines that are no phrases.
        """
        self.path, self.leet = path, leet
        self._signature = _signature(path)
        self._automaton: Automaton | None = Automaton(read_phrases(path, leet))

    def current(self) -> Automaton | None:
        """The automaton of the file as it is now; None: the file cannot be read, or is wrong."""
        signature = _signature(self.path)
        if signature != self._signature:
            try:
                self._automaton = Automaton(read_phrases(self.path, self.leet))
            except StillhouseError:
                self._automaton = None
            self._signature = signature
        return self._automaton

    def find(self, text: str) -> list[Hit] | None:
        """Phrases in `text`, the longest of those that end together; None: no readable list."""
        automaton = self.current()
        return None if automaton is None else scan(text, automaton, self.leet).hits

    def open_from(self, text: str) -> int | None:
        """From where on `text` may be the beginning of a phrase; None: the list is unreadable."""
        automaton = self.current()
        return None if automaton is None else scan(text, automaton, self.leet).open_from


class Scan(NamedTuple):
    """What was found, and from where on the text may be the beginning of a phrase."""

    hits: list[Hit]
    open_from: int
    """Index in the text; its length where nothing has begun."""


def scan(text: str, automaton: Automaton, leet: bool) -> Scan:
    """All phrases in `text`."""
    folded = Folded(text, leet)
    hits: list[Hit] = []
    node = 0
    for index, letter in enumerate(folded.letters):
        node = automaton.step(node, letter)
        if automaton.has_phrases(node) and folded.ends_word(index):
            for phrase in automaton.phrases(node):
                first = index - phrase.ends[-1] + 1
                if folded.starts_word(first) and _stands_at(folded, first, phrase):
                    start, end = folded.origins[first], folded.origins[index] + 1
                    hits.append(Hit(phrase.line, start, end))
                    break
    depth = automaton.depth[node]
    return Scan(hits, folded.origins[-depth] if depth else len(text))


def _stands_at(folded: Folded, first: int, phrase: Phrase) -> bool:
    start = first
    for end in phrase.ends:
        stop = first + end
        if start > first and not 1 <= len(folded.gaps[start]) <= LONGEST_GAP:
            return False
        if not folded.is_word(start, stop - 1):
            return False
        start = stop
    return True


def read_phrases(path: Path, leet: bool = False) -> dict[str, list[Phrase]]:
    """Phrases of a file by their folded letters.

    Raises:
        StillhouseError: as `BlockedList` has it; wrong lines together, by number, never by text.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise StillhouseError(f"the list {path} cannot be read: {reason}. Mend the file.") from None
    if len(content) > MAX_BYTES:
        raise StillhouseError(f"the list {path} has over {MAX_BYTES} bytes. Shorten it.")
    phrases: dict[str, list[Phrase]] = {}
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if isinstance(found := _parse(line, number, leet), str):
            problems.append(f"line {number} {found}")
        else:
            phrases.setdefault(found[0], []).append(found[1])
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise StillhouseError(f"the list {path}: {'; '.join(problems[:_SHOWN])}{more}. Mend it.")
    if not phrases:
        raise StillhouseError(f"the list {path} holds no phrase. Write one a line, or name none.")
    return phrases


def _parse(line: str, number: int, leet: bool) -> tuple[str, Phrase] | str:
    """A phrase by its letters, or what is wrong with the line."""
    if line.strip().lower().startswith("re:"):
        return "is a regular expression; phrases only"
    words = [Folded(word, leet).letters for word in line.split()]
    letters = "".join(words)
    if not 2 <= len(letters) <= MAX_LETTERS:
        return f"must have 2 to {MAX_LETTERS} letters, found {len(letters)}"
    ends = [sum(map(len, words[: count + 1])) for count, word in enumerate(words) if word]
    return letters, Phrase(number, tuple(ends))


def _signature(path: Path) -> Signature | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ctime_ns, status.st_size, status.st_ino
