"""When it happened: start and duration as one adverbial, in the tense of the incident."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stages._incidents.choice import Options, choose
from stages._incidents.phrases import Scene, amount

_BOTH_TIMES: Final[Options] = (
    (5, "from {start} for {span}"),
    (4, "for {span} from {start}"),
    (2, "for {span} starting at {start}"),
)
_INVESTIGATED_TIME: Final[dict[tuple[bool, bool], Options]] = {
    (True, False): ((3, ", which started at {start}"), (2, ", which began at {start}")),
    (False, True): ((1, ", which has lasted {span}"), (1, ", which has been going on for {span}")),
    (True, True): ((1, ", which started at {start} and has lasted {span}"),),
}


@dataclass(frozen=True)
class Time:
    """Start and duration as one adverbial; `lasting` when it names a stretch, not a moment."""

    text: str = ""
    early: bool = False
    lasting: bool = False


def when(scene: Scene, attached: Sequence[str], early: bool, investigated: bool = False) -> Time:
    """Start, duration or both, as one adverbial; in front of the clause when `early`."""
    start = scene.record["start"] if "start" in attached else ""
    span = amount(scene, "duration") if "duration" in attached else ""
    if not start and not span:
        return Time()
    options: Options
    if investigated:
        options = _INVESTIGATED_TIME[bool(start), bool(span)]
    elif start and span:
        options = ((1, "for {span}, since {start}"),) if scene.ongoing else _BOTH_TIMES
        early = early and not scene.ongoing
    elif span:
        options = ((1, "for {span}"),)
    else:
        options = ((1, "since {start}"),) if scene.ongoing else (
            (5, "at {start}"), (3, "from {start}"), (0 if early else 2, "starting at {start}"),
        )  # fmt: skip
    text = choose(scene.rng, options).format(start=start, span=span).strip()
    lasting = bool(span) or not text.startswith("at ")
    joint = "" if early or text.startswith(",") else " "
    return Time(joint + text, early, lasting)
