"""Both sides of a comparison, read: a window's rows, and the reference's; and what they rest on."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving._cascade.route import Route, read_route
from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages import _io
from stages._drift.features import Row
from stages._drift.reference import cascade_rows, winner_rows
from stages._params import Params

CALIBRATION = "calibration"
SHOWN = 20
"""Rejected files that a report names; the window's own list has all."""


@dataclass(frozen=True)
class Read:
    """The rows of one side, and what they are."""

    rows: Sequence[Row]
    told: dict[str, Any]

    @property
    def models(self) -> frozenset[str]:
        """Digests of the models that answered."""
        return frozenset(row["model_sha256"] for row in self.rows if row.get("model_sha256"))


def read_rows(folder: Path, params: Params) -> Read:
    """A window's rows, or a sample of them.

    Raises:
        StillhouseError: there is no such window, or it is damaged.
    """
    from stages._windows.reading import read_window, sample_rows  # pyarrow

    info = read_window(folder).info
    rows, sample = sample_rows(folder, params.drift.max_rows_per_side, params.seed)
    told = {name: info.get(name) for name in ("id", "first", "last", "planted", "rejected")}
    counts = {name: sample[name] for name in ("rows", "sampled", "left_out")}
    return Read(rows, {**told, **counts, "sources": len(info.get("sources") or [])})


def read_rejected(folder: Path) -> dict[str, Any]:
    """What of a window's sources could not be used: how many entries, and the first of them."""
    from stages._windows.freezing import REJECTED

    path = folder / REJECTED
    entries = _io.read_jsonl(path) if path.is_file() else []
    return {"entries": len(entries), "first": entries[:SHOWN]}


def read_reference(
    params: Params, inputs: Mapping[str, Path], planted: bool, schema: SlotSchema | None
) -> Read:
    """The reference that the params name.

    Args:
        planted: whether the window was answered by the winner alone.

    Raises:
        StillhouseError: answers are missing, or of other models than the route and the winner are.
    """
    settings = params.drift
    if settings.reference != CALIBRATION:
        if settings.reference == settings.window:
            raise StillhouseError(
                f"drift.reference and drift.window are both {settings.window}. Name an earlier "
                f"window, or calibration."
            )
        read = read_rows(inputs["windows"] / settings.reference, params)
        return Read(read.rows, {**read.told, "answered_by": "the service"})
    examples = _io.read_jsonl(inputs["calibration"])
    chosen = _sample(examples, settings.max_rows_per_side, params.seed)
    by_winner = settings.answered_by == "winner" or (settings.answered_by == "auto" and planted)
    make = _by_winner if by_winner else _by_route
    rows, answered_by = make(inputs, chosen, schema)
    counts = {"rows": len(examples), "sampled": len(rows), "left_out": len(examples) - len(rows)}
    told = {"id": CALIBRATION, "sha256": _io.sha256_file(inputs["calibration"])}
    return Read(rows, {**told, **counts, "answered_by": answered_by})


def _sample(examples: Sequence[Row], most: int, seed: int) -> list[Row]:
    """At most so many, by a hash of seed and id, in their order."""
    if len(examples) <= most:
        return list(examples)

    def key(place: int) -> bytes:
        return hashlib.sha256(f"{seed}\x1f{examples[place]['id']}".encode()).digest()

    return [examples[place] for place in sorted(sorted(range(len(examples)), key=key)[:most])]


def _by_winner(
    inputs: Mapping[str, Path], examples: Sequence[Row], schema: SlotSchema | None
) -> tuple[list[dict[str, Any]], str]:
    winner = _winner(inputs)
    name, sha256 = winner["candidate"], winner["model_sha256"]
    answers = _read_answers(inputs["answers"], {name: sha256})
    return winner_rows(examples, answers[name], sha256, schema), f"the winner {name}"


def _by_route(
    inputs: Mapping[str, Path], examples: Sequence[Row], schema: SlotSchema | None
) -> tuple[list[dict[str, Any]], str]:
    route = read_route(inputs["route"])
    names = _candidates(route, inputs)
    digests = {names[rung.name]: rung.model_sha256 for rung in route.rungs}
    answers = _read_answers(inputs["answers"], digests)
    by_rung = {rung: answers[name] for rung, name in names.items()}
    told = f"the cascade of {', '.join(names.values())}"
    return cascade_rows(examples, by_rung, route, schema), told


def _candidates(route: Route, inputs: Mapping[str, Path]) -> dict[str, str]:
    """The candidate behind each rung."""
    student = _winner(inputs)["candidate"]
    return {rung.name: student if rung.name == "student" else rung.name for rung in route.rungs}


def _winner(inputs: Mapping[str, Path]) -> dict[str, Any]:
    winner: dict[str, Any] | None = _io.read_json(inputs["winner"]).get("cpu")
    if not winner:
        raise StillhouseError(
            f'{inputs["winner"]} names no winner for the CPU. Run "dvc repro select".'
        )
    return winner


def _read_answers(folder: Path, digests: Mapping[str, str]) -> dict[str, dict[str, Row]]:
    """Each candidate's answers to the calibration prompts, by their ids; all by the right model."""
    wrong = []
    answers = {}
    for name, wanted in digests.items():
        made = str(_io.read_json(folder / f"{name}.model.json").get("sha256"))
        if made != wanted:
            wrong.append(f"{name} answered as {made[:12]}, expected {wanted[:12]}")
        answers[name] = {
            row["id"]: row for row in _io.read_jsonl(folder / f"{name}.calibration.jsonl")
        }
    if wrong:
        raise StillhouseError(
            f"The reference needs answers of the present models: {'; '.join(wrong)}. "
            f'Run "dvc repro" to answer, choose and route again.'
        )
    return answers
