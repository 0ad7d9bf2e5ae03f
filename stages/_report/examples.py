"""Answers side by side: the winner's worst first, then some drawn at random. Pure.

Prompts are of the test split: they are shown, and nothing is tuned on them.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from serving.slots import SlotSchema
from stages._params.report import Report as Settings
from stages._report.marks import clip, mark
from stages._report.models import winner_of
from stages._report.reading import Facts, Missing
from stages._report.telling import plain

SIDES = ("teacher", "student", "baseline")
KINDS = ("missing", "wrong", "added")
Line = Mapping[str, Any]
Lines = Mapping[str, Sequence[Line]]


def sides_of(facts: Facts) -> list[str]:
    """Whose answers are shown: the winner's first, then teacher, student and baseline.

    Raises:
        Missing: nothing was decided.
    """
    return list(dict.fromkeys([winner_of(facts), *SIDES]))


def tell_examples(
    facts: Facts, settings: Settings, seed: int, schema: SlotSchema | None
) -> dict[str, Any]:
    """The chosen prompts with every side's answer.

    Raises:
        Missing: nothing was decided, or the winner's answers are not there.
    """
    winner = winner_of(facts)
    lines: Lines = facts.get("lines") or {}
    if winner not in lines:
        raise Missing(facts.absent[f"answers of {winner}"])
    worst, drawn = choose(lines[winner], settings.worst_examples, settings.random_examples, seed)
    names = [name for name in sides_of(facts) if name in lines]
    return {
        "winner": winner,
        "checked": schema is not None,
        "prompts": len(lines[winner]),
        "faulty": sum(faults(line) > 0 for line in lines[winner]),
        "worst": [_example(place, names, winner, lines, schema) for place in worst],
        "drawn": [_example(place, names, winner, lines, schema) for place in drawn],
    }


def choose(lines: Sequence[Line], worst: int, drawn: int, seed: int) -> tuple[list[int], list[int]]:
    """Places of the worst answers, the worst first, and of some of the others, in their order."""
    ranked = sorted(range(len(lines)), key=lambda place: (*_badness(lines[place]), place))
    first, rest = ranked[:worst], sorted(ranked[worst:])
    rng = random.Random(seed)  # noqa: S311 - which examples are shown, no cryptography
    return first, sorted(rng.sample(rest, min(drawn, len(rest))))


def faults(line: Line) -> int:
    """Slot errors, or unsupported claims where slots were not checked."""
    if "slot_findings" in line:
        return sum(len(line["slot_findings"].get(kind, [])) for kind in KINDS)
    return len(line.get("unsupported") or [])


def _badness(line: Line) -> tuple[float, float]:
    """More faults first, then the least like the references."""
    scores = line.get("scores") or {}
    likeness = next((scores[key] for key in ("chrf", "bleu") if scores.get(key) is not None), 0.0)
    return -faults(line), likeness


def _example(
    place: int, names: Sequence[str], winner: str, lines: Lines, schema: SlotSchema | None
) -> dict[str, Any]:
    line = lines[winner][place]
    return {
        "prompt": line["prompt"],
        "reference": next(iter(line.get("references") or []), None),
        "sides": _sides(line["id"], place, names, winner, lines, schema),
    }


def _sides(
    asked: str,
    place: int,
    names: Sequence[str],
    winner: str,
    lines: Lines,
    schema: SlotSchema | None,
) -> list[dict[str, Any]]:
    """One answer after the other; who says the same as one before is named with it."""
    sides: dict[str, dict[str, Any]] = {}
    for name in names:
        if place >= len(lines[name]) or lines[name][place]["id"] != asked:
            continue
        line = lines[name][place]
        if line["output"] in sides:
            sides[line["output"]]["names"].append(name)
        else:
            sides[line["output"]] = _side(name, line, schema, name == winner)
    return list(sides.values())


def _side(name: str, line: Line, schema: SlotSchema | None, wins: bool) -> dict[str, Any]:
    scores, marked = line.get("scores") or {}, mark(line, schema)
    chrf, (pieces, left_out) = scores.get("chrf"), clip(marked.pieces)
    return {
        "names": [name],
        "wins": wins,
        "pieces": pieces,
        "left_out": left_out,
        "missing": marked.missing,
        "errors": marked.errors,
        "chrf": None if chrf is None else plain(chrf),
        "empty": not line["output"],
    }
