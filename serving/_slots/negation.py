"""What a negation turns round.

The method is NegEx (Chapman et al., "A simple algorithm for identifying negated findings and
diseases in discharge summaries", 2001): a cue turns round what follows it within the clause and a
few words, except in phrases that only look like a negation. Beyond it: a cue belongs to one
statement ("not family friendly in the city centre" says the city centre), two cues cancel out,
"or" carries a cue on, and a cue may answer what stands before it ("family friendly: no").
Amounts are never turned round: "not 25 minutes" is rare, "no more than 25 minutes" is not.
"""

import re
from dataclasses import dataclass, replace

from serving._slots.schema import Reading

_WORDS = 4
"""A cue is one of this many words before what it turns round."""
_CHARACTERS = 80
"""And no further away than this."""

_WORD = re.compile(r"\w+(?:'\w+)?")
_CLAUSE_END = re.compile(
    r"[.;:!?,()—]|(?<= )- |(?<!\w)(?:and|but|(?<=\w )however|although|though|while|whereas|yet"
    r"|because)(?!\w)"
)
# What only looks like a negation (NegEx calls it pseudo-negation): "not only", "not far from",
# "look no further", "why not try", "no, it is".
_NO_NEGATION = re.compile(
    r" (?:only|just|merely|simply|to mention|doubt|wonder|problem|matter|least|less than|more than"
    r"|(?:too |very |that )?far|farther|further|mind|miss|it|they|this|you|we)(?!\w)"
    r"|(?<=without) a doubt"
)
_NO_NEGATION_BEFORE = re.compile(r"(?<!\w)why (?:do|does)?\Z")
_OR = re.compile(r",? (?:or|nor) (?:\w+ ){0,2}")
_BEHIND = re.compile(r"(?: is| are| -|:|,| \(|\(|=)? ?")
_STOP = re.compile(r" *(?:[.,;!?)]|$)")


@dataclass(frozen=True)
class Candidate:
    """A span of the folded text that says something.

    Attributes:
        readings: what it can mean; for a quantity, one reading for each slot of its dimensions.
        asked: the slots whose asked value it says, before negation is looked at.
        negated: whether a negation turns it round.
        claims: false when it may be a figure of speech ("an hour") and so is never an error.
        joined: a quantity made of two others.
    """

    start: int
    end: int
    readings: tuple[Reading, ...]
    asked: frozenset[str] = frozenset()
    negated: bool = False
    claims: bool = True
    joined: bool = False


def negate(plain: str, chosen: list[Candidate], cues: re.Pattern[str] | None) -> list[Candidate]:
    """Mark what the cues of a folded text turn round; `chosen` is in text order, apart."""
    if cues is None or not chosen:
        return chosen
    counts = [0] * len(chosen)
    first = 0  # the first candidate that ends behind the cue
    for cue in cues.finditer(plain):
        start, end = cue.span()
        while first < len(chosen) and chosen[first].end <= start:
            first += 1
        inside = first < len(chosen) and chosen[first].start < end
        if inside or _affirms(plain, start, end):
            continue
        if first and _answers(plain, chosen[first - 1].end, start, end):
            counts[first - 1] += 1
            continue
        for index in _reached(plain, end, chosen, first, cues):
            counts[index] += 1
    return [
        replace(c, negated=True) if count % 2 else c
        for c, count in zip(chosen, counts, strict=True)
    ]


def _affirms(plain: str, start: int, end: int) -> bool:
    """Whether a cue is part of a phrase that only looks like a negation."""
    if _NO_NEGATION.match(plain, end):
        return True
    return bool(_NO_NEGATION_BEFORE.search(plain, max(start - 12, 0), start))


def _answers(plain: str, candidate_end: int, start: int, end: int) -> bool:
    """Whether a cue stands right behind a statement and ends the clause: "family friendly: no"."""
    behind = _BEHIND.match(plain, candidate_end)
    return bool(behind and behind.end() == start and _STOP.match(plain, end))


def _reached(
    plain: str, end: int, chosen: list[Candidate], first: int, cues: re.Pattern[str]
) -> list[int]:
    """The statement that a cue turns round, a flag before others, and what "or" adds to it."""
    near = []
    for index in range(first, min(first + _WORDS, len(chosen))):
        between = plain[end : min(chosen[index].start, end + _CHARACTERS)]
        if len(_WORD.findall(between)) >= _WORDS or _CLAUSE_END.search(between):
            break
        if chosen[index].start - end > _CHARACTERS:
            break
        if not any(r.amounts for r in chosen[index].readings):
            near.append(index)
    if not near:
        return []
    flags = [i for i in near if any(r.turned is not None for r in chosen[i].readings)]
    reached = [(flags or near)[0]]
    while reached[-1] + 1 < len(chosen) and len(reached) < _WORDS:
        gap = chosen[reached[-1]].end, chosen[reached[-1] + 1].start
        if not _OR.fullmatch(plain, *gap) or cues.search(plain, *gap):
            break
        reached.append(reached[-1] + 1)
    return reached
