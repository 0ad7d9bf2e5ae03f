"""The two that judge the same windows: our detectors, and Evidently in a process of its own."""

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import numpy as np

from serving.errors import StillhouseError
from stages._drift.comparing import Side
from stages._drift.detecting import compare
from stages._drift.features import SLOT_VALUES, Table
from stages._params.drift import Drift

WORKER = Path(__file__).parent / "_drift_evidently.py"
ONE_NAME = ("rung", "cache", "finish_reason")
"""Columns of names with at most one a row; slot_names has several, which Evidently cannot take."""


def judge_by_ours(reference: Side, window: Side, settings: Drift, repeat: int) -> dict[str, Any]:
    """The verdict, the tests that raised it, each test's p-value alone, and CPU seconds."""
    started = time.process_time()
    verdict = compare(reference, window, settings, (repeat,)).verdict
    return {
        "outcome": verdict.outcome,
        "alarms": [one.test.name for one in verdict.judged if one.alarm],
        "p_values": {one.test.name: round(one.test.p_value, 6) for one in verdict.judged},
        "seconds": round(time.process_time() - started, 3),
    }


def evidently_columns(reference: Table, window: Table) -> tuple[dict[str, Any], dict[str, str]]:
    """The columns that ours tests, as Evidently takes them, and the kind of each.

    Left out is what is the same everywhere, which Evidently cannot test either.
    """
    columns: dict[str, Any] = {"prompt": (reference.texts, window.texts)}
    kinds = {"prompt": "text"}
    for name in (*reference.numbers, *reference.shares):
        known = reference.numbers if name in reference.numbers else reference.shares
        other = window.numbers if name in window.numbers else window.shares
        columns[name] = (_listed(known[name]), _listed(other[name]))
        kinds[name] = "num" if name in reference.numbers else "cat"
    for name in {**reference.categories, **window.categories}:
        if name in ONE_NAME or name.startswith(SLOT_VALUES):
            columns[name] = (_names(reference, name), _names(window, name))
            kinds[name] = "cat"
    useful = {name: sides for name, sides in columns.items() if _differs(sides)}
    return useful, {name: kinds[name] for name in useful}


def _listed(column: Any) -> list[float | None]:
    return [None if value != value else value for value in column.tolist()]  # NaN is not itself


def _names(table: Table, name: str) -> list[str | None]:
    column = table.categories.get(name, [None] * len(table))
    return [row[0] if row else None for row in column]


def _differs(sides: tuple[Sequence[Any], Sequence[Any]]) -> bool:
    """Whether both sides have values, and these are not all one."""
    known = [{value for value in side if value is not None} for side in sides]
    return all(known) and len(known[0] | known[1]) > 1


class Evidently:
    """Evidently in the environment of another Python; use as a context."""

    def __init__(self, python: Path) -> None:
        """Start it.

        Raises:
            StillhouseError: it cannot be imported there.
        """
        self._folder = TemporaryDirectory()
        self._process = subprocess.Popen(
            [python, WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.version = str(self._read()["version"])

    def judge(self, reference: Side, window: Side) -> dict[str, Any]:
        """Its verdicts; the same vectors go to it where there are any."""
        columns, kinds = evidently_columns(reference.table, window.table)
        asked = {"columns": columns, "kinds": kinds, "vectors": self._vectors(reference, window)}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _vectors(self, reference: Side, window: Side) -> str | None:
        if not reference.vectors or not window.vectors:
            return None
        path = Path(self._folder.name) / "vectors.npz"
        matrices = [np.stack(list(side.vectors.values())) for side in (reference, window)]
        np.savez(path, reference=matrices[0], window=matrices[1])
        return str(path)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise StillhouseError(
                "Evidently ended without an answer; what it said is above. Give --evidently the "
                "Python of an environment with: pip install evidently 'pandas<3'"
            )
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._folder.cleanup()
