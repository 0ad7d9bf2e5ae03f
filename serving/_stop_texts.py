"""Stop texts: an answer ends where one of them is complete first, without it.

In a stream the same holds whatever its pieces are: the end of a piece is held back while it may be
the beginning of a stop text.
"""

from collections.abc import Sequence


def cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """`text` before the stop text that ends first, and whether there is any."""
    start = _first(text, stops)
    return (text, False) if start is None else (text[:start], True)


class StopCutter:
    """Cuts a text that comes in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def add(self, piece: str) -> tuple[str, bool]:
        """Text that is certain now, and whether a stop text was met: then nothing follows."""
        text = self._held + piece
        start = _first(text, self._stops)
        if start is not None:
            self._held = ""
            return text[:start], True
        certain = len(text) - self._begun(text)
        self._held = text[certain:]
        return text[:certain], False

    def finish(self) -> str:
        """What was held back, when the text is over."""
        held, self._held = self._held, ""
        return held

    def _begun(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop text [characters]."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if any(s.startswith(text[-n:]) for s in self._stops)), 0)


def _first(text: str, stops: Sequence[str]) -> int | None:
    """Start of the stop text that is complete first; of those that end together the longest."""
    found = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
    return min(found)[1] if found else None
