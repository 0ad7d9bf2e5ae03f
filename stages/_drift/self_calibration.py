"""The detectors tried on the reference itself: how often they cry wolf, and what they would find.

The reference is cut at random into a part as large as the window (at most half of it) and the rest;
of either at most `calibration.most_rows` are compared, which finds no more than all would.
Compared as they are, any alarm is a false one; with a share of the part's rows shifted
(planting.py) an alarm is right. Both are rates of so many draws, each with Clopper and Pearson's
interval (Biometrika 26:404-413, 1934). What it takes depends on the reference, the number of rows
and the settings alone, so it is kept under their hash.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages import _io
from stages._calibrating import interval
from stages._drift.comparing import Seed, Side
from stages._drift.detecting import compare
from stages._drift.features import Row, Table, tabulate
from stages._drift.planting import shift_rows
from stages._drift.vocabulary import Training
from stages._kept_vectors import Vectors
from stages._params.drift import Drift
from stages._progress import report_progress

VERSION = 2
"""Of what a kept result means; raise it when the tests change."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Cut:
    """How many rows stand on each side of a draw."""

    reference: int
    current: int


def cut_sizes(reference: int, window: int, most: int) -> Cut:
    """A part as large as the window, at most half of the reference, against the rest."""
    current = min(window, reference // 2)
    return Cut(min(reference - current, most), min(current, most))


def calibrate(
    rows: Sequence[Row],
    window: int,
    training: Training,
    vectors: Vectors,
    settings: Drift,
    seed: int,
) -> dict[str, Any]:
    """What the detectors say of the reference, as drift.json tells it.

    Args:
        rows: of the reference, each prompt once.
        window: different prompts of the window [count].
        vectors: of the reference's prompts. Shifted prompts have none, so that the runs with a
            planted shift go without that test.
    """
    cut = cut_sizes(len(rows), window, settings.calibration.most_rows)
    repeats = settings.calibration.repeats
    told = {
        "n": cut.current,
        "n_reference": cut.reference,
        "repeats": repeats,
        "shift": settings.calibration.shift,
    }
    if reason := _reason_not_to(rows, cut, settings):
        none = {"false_alarm_rate": None, "power": None, "intervals": None}
        return {**told, **none, "not_run": reason}
    shifted = shift_rows(rows, np.random.default_rng([seed, 1]))
    both = tabulate([*rows, *shifted], training, None)
    alarms = _count_alarms(both, cut, vectors, settings, seed)
    return {**told, **_rates(*alarms, repeats), "not_run": None}


def _count_alarms(
    both: Table, cut: Cut, vectors: Vectors, settings: Drift, seed: int
) -> tuple[int, int]:
    """How many draws raise an alarm as they are, and how many with their shift."""
    repeats = settings.calibration.repeats
    progress = report_progress("try the detectors on the reference", repeats)
    false_alarms, found = 0, 0
    for repeat in range(repeats):
        false_alarm, is_found = _draw(both, cut, vectors, settings, (seed, repeat))
        false_alarms, found = false_alarms + false_alarm, found + is_found
        progress(repeat + 1)
    return false_alarms, found


def _rates(false_alarms: int, found: int, repeats: int) -> dict[str, Any]:
    """Both counts as shares of the draws, with their intervals."""
    return {
        "false_alarm_rate": false_alarms / repeats,
        "power": found / repeats,
        "intervals": {
            "false_alarm_rate": list(interval(false_alarms, repeats, CONFIDENCE)),
            "power": list(interval(found, repeats, CONFIDENCE)),
            "confidence": CONFIDENCE,
        },
    }


def _draw(
    both: Table, cut: Cut, vectors: Vectors, settings: Drift, seed: tuple[int, int]
) -> tuple[bool, bool]:
    """Whether one draw raises an alarm as it is, and with its shift.

    Args:
        both: the reference, and behind it every row shifted.
    """
    rows = len(both) // 2
    order = np.random.default_rng([seed[0], 2, seed[1]]).permutation(rows)
    part, rest = order[: cut.current], order[cut.current : cut.current + cut.reference]
    planted = part.copy()
    planted[: round(settings.calibration.shift * len(part))] += rows
    before = Side(both.take(rest), vectors)
    stream: Seed = (seed[0], 3, seed[1])
    sides = Side(both.take(part), vectors), Side(both.take(planted), {})
    verdicts = [compare(before, side, settings, stream).verdict for side in sides]
    return verdicts[0].outcome == "drift", verdicts[1].outcome == "drift"


def _reason_not_to(rows: Sequence[Row], cut: Cut, settings: Drift) -> str | None:
    if not settings.calibration.repeats:
        return "drift.calibration.repeats is 0"
    if not any(row.get("prompt") for row in rows):
        return "no text in the reference, so that no shift can be planted"
    if min(cut.current, cut.reference) < settings.min_rows:
        return (
            f"{cut.reference} and {cut.current} reference prompts would be compared, and "
            f"drift.min_rows asks for {settings.min_rows} of each"
        )
    return None


def kept_under(
    rows: Sequence[Row], window: int, training: Training, encoder: str, settings: Drift, seed: int
) -> str:
    """The hash of all that a calibration depends on; a window counts by its size alone."""
    what = settings.model_dump(
        mode="json", exclude={"window", "reference", "examples", "evidently"}
    )
    whole = hashlib.sha256()
    cut = cut_sizes(len(rows), window, settings.calibration.most_rows)
    known = [
        sorted(training.prompt_words),
        sorted(training.answer_words),
        {slot: sorted(values) for slot, values in sorted(training.values.items())},
        sorted(training.orders),
        training.schema.to_dict() if training.schema else None,
    ]
    for part in (VERSION, seed, cut.reference, cut.current, encoder, what, known, list(rows)):
        whole.update(json.dumps(part, sort_keys=True, default=str).encode())
    return whole.hexdigest()


def read_kept(folder: Path, key: str) -> Mapping[str, Any] | None:
    """A calibration that was made before; None where there is none."""
    path = folder / f"calibration-{key[:32]}.json"
    kept: Mapping[str, Any] | None = _io.read_json(path) if path.is_file() else None
    return kept


def keep(folder: Path, key: str, result: Mapping[str, Any]) -> None:
    """Keep a calibration for windows of the same size."""
    _io.write_json(folder / f"calibration-{key[:32]}.json", result)
