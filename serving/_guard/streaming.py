"""Checks an answer that comes in pieces: a match that crosses two pieces is masked all the same.

What may still become a match is held back, and no more: pieces go on up to the last place that no
match can span. For personal data that is the blank behind a word of letters alone, with no digit
shortly before it; for blocked phrases, the first letter of what may become one. Where there is no
such place for `LONGEST_HELD` characters, all but the last `LONGEST_MATCH` go on.
"""

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import replace

from serving._guard.findings import Finding, Guarded, Reason, Scanned, judge, mask
from serving._guard.policy import Group, GuardPolicy

LONGEST_MATCH = 1_500  # the longest match of personal_data is below 700
LONGEST_HELD = 4_000
_CONTEXT = 400  # what stands before a match counts, too; the rules look at 100 characters at most
_AFTER_DIGITS = 45  # after its digits an IBAN may go on for 30 characters in groups of letters

Scan = Callable[[str], Mapping[Group, Scanned]]
OpenFrom = Callable[[str], int | None]


class MaskingStream:
    """One answer: `push` its pieces, then `end` it. What these return may be sent on."""

    def __init__(
        self, scan: Scan, open_from: OpenFrom, policy: GuardPolicy, max_chars: int
    ) -> None:
        """As `Guard.stream_out` has them; `max_chars`: longest answer that is looked at."""
        self._scan, self._open_from, self._policy = scan, open_from, policy
        self._max_chars = max_chars
        groups = policy.groups("out")
        self._holds = any(policy.action(group, "out") in ("mask", "block") for group in groups)
        self._text = ""
        self._sent = 0  # of the text: what is settled
        self._found: dict[Group, Scanned] = {group: Scanned() for group in groups}
        self._ended = not groups

    @property
    def blocked(self) -> bool:
        """Whether the answer must end here; what was sent before cannot be called back."""
        return self._verdict(self._found).action == "block"

    def push(self, piece: str) -> str:
        """Take a piece; returns what may go on, masked, which may be nothing."""
        self._text += piece
        if len(self._text) > self._max_chars and self._holds:
            return self._give_up("too_long")
        if not self._holds:
            return piece
        return "" if self.blocked else self._settle(self._cut())

    def end(self) -> str:
        """No more pieces: returns what is left, masked."""
        self._ended = True
        if self._holds:
            return "" if self.blocked else self._settle(len(self._text))
        if not any(scan.reason for scan in self._found.values()):
            self._note(self._scan(self._text), 0, 0, len(self._text))
        return ""

    def guarded(self) -> Guarded:
        """The verdict, with places in the answer as the model gave it; its own text is empty.

        Before the end all checks say "not_run", of what they found as much as stands so far.
        """
        if self._ended:
            return self._verdict(self._found)
        return self._verdict({g: scan._replace(reason="fault") for g, scan in self._found.items()})

    def _verdict(self, found: Mapping[Group, Scanned]) -> Guarded:
        return replace(judge("", found, self._policy, "out"), text="")

    def _settle(self, cut: int) -> str:
        """Decide on the text up to `cut`, or to the start of a match that crosses it."""
        if cut <= self._sent:
            return ""
        left = max(0, self._sent - _CONTEXT)
        scans = self._scan(self._text[left:])
        places = [(left + f.start, left + f.end) for scan in scans.values() for f in scan.findings]
        for start, end in sorted(places, reverse=True, key=lambda place: place[1]):
            cut = start if start < cut < end else cut
        if cut <= self._sent:
            return ""
        masked = self._note(scans, left, self._sent, cut)
        piece, sent = self._text[self._sent : cut], self._sent
        self._sent = cut
        if self.blocked:
            return ""
        return mask(piece, [f._replace(start=f.start - sent, end=f.end - sent) for f in masked])

    def _note(
        self, scans: Mapping[Group, Scanned], left: int, start: int, end: int
    ) -> list[Finding]:
        """Keep what was found from `start` to `end`; returns what of it is to be masked."""
        masked: list[Finding] = []
        for group, scan in scans.items():
            new = tuple(
                found._replace(start=max(start, left + found.start), end=left + found.end)
                for found in scan.findings
                if left + found.end > start and left + found.start < end
            )
            known = self._found[group]
            reason = known.reason or scan.reason
            self._found[group] = Scanned(known.findings + new, reason)
            masked += new if self._policy.action(group, "out") == "mask" else ()
        return masked

    def _give_up(self, reason: Reason) -> str:
        """The checks stop here: under `block` nothing goes on, else everything, as marked."""
        for group, scan in self._found.items():
            self._found[group] = scan._replace(reason=scan.reason or reason)
        if self.blocked:
            return ""
        self._holds = False
        return self._text[self._sent :]

    def _cut(self) -> int:
        """The last place that no match can span, or the present one where there is none."""
        left = max(0, self._sent - _CONTEXT)
        opened = self._open_from(self._text[left:])
        limit = self._sent if opened is None else min(left + opened, len(self._text) - 1)
        for place in range(limit, self._sent, -1):
            if _is_break(self._text, place):
                return place
        if len(self._text) - self._sent <= LONGEST_HELD:
            return self._sent
        return len(self._text) - LONGEST_MATCH


def _is_break(text: str, place: int) -> bool:
    """Whether no personal data can span `place`: behind "word ", with no digit shortly before."""
    if not (text[place - 1].isspace() and text[place].isalnum()):
        return False
    before = text[max(0, place - _AFTER_DIGITS) : place]
    if any(c.isnumeric() or not (c.isprintable() or c.isspace()) for c in before):
        return False
    words = before.split()
    word = words[-1].rstrip(",;:.!?") if words else ""
    return word.isalpha() and unicodedata.is_normalized("NFKC", word + before[-1] + text[place])
