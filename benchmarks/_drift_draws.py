"""Reference and window of a repeat, dealt out of a pool of generated rows. Pure.

The pool is drawn once, with a seed of its own and as the held-out splits are, and every text in it
is encoded (and answered) once. A repeat takes reference and window at random, no row twice: given
the pool, repeats are independent, and in windows without drift the two sides are exchangeable, as
the tests assume. A planted window has so many of its rows from the scenario's own pool.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stages._incidents import IncidentCounts, drifted, generate
from stages._incidents.drift import SCENARIOS, Scenario

Row = dict[str, Any]
Places = NDArray[np.int64]
SIZES = (50, 200, 1000)
"""Rows of windows in which nothing is new."""
SHARES = (0.1, 0.3, 1.0)
"""Changed rows of planted windows."""
PLANTED_ROWS = 200
REFERENCE_ROWS = IncidentCounts().calibration
CLEAN_ROWS, CHANGED_ROWS = 6_000, 1_000
"""Of the pool: rows in which nothing is new, and rows of each scenario."""
POOL_SEED = 1_000_000
"""No project's own seed is that high."""


@dataclass(frozen=True)
class Cell:
    """One kind of window."""

    scenario: Scenario | Literal["none"]
    rows: int
    share: float = 0.0

    @property
    def name(self) -> str:
        """Such as none/200 or units/0.3."""
        return f"{self.scenario}/{self.share:g}" if self.share else f"{self.scenario}/{self.rows}"


def all_cells() -> list[Cell]:
    """Windows without drift by size, then each scenario by share."""
    clean = [Cell("none", rows) for rows in SIZES]
    planted = [Cell(one, PLANTED_ROWS, share) for one in SCENARIOS for share in SHARES]
    return [*clean, *planted]


def chosen_cells(only: Sequence[str]) -> list[Cell]:
    """The cells whose names begin with one of `only`; without any, all of them."""
    return [one for one in all_cells() if not only or one.name.startswith(tuple(only))]


def work_of(cells: Sequence[Cell], clean: int, planted: int) -> list[tuple[int, Cell]]:
    """Each repeat's cells, repeat by repeat: so many of clean windows, and of planted ones."""
    return [
        (repeat, cell)
        for repeat in range(max(clean, planted))
        for cell in cells
        if repeat < (clean if cell.scenario == "none" else planted)
    ]


def draw_pool(
    clean: int = CLEAN_ROWS, changed: int = CHANGED_ROWS
) -> tuple[list[Row], dict[str, Places]]:
    """All rows, and where those of each scenario are among them; "none" are the clean ones.

    Rows are as data/prepared has them; a prompt that came before is left out.
    """
    rows = drifted(POOL_SEED, clean, "services", 0.0)
    parts: dict[str, list[Row]] = {"none": rows}
    for number, scenario in enumerate(SCENARIOS, start=1):
        parts[scenario] = drifted(POOL_SEED + number, changed, scenario, 1.0)
    seen, pool, places = set[str](), list[Row](), dict[str, Places]()
    for name, found in parts.items():
        new = [row for row in found if row["prompt"] not in seen]
        seen.update(row["prompt"] for row in new)
        places[name] = np.arange(len(pool), len(pool) + len(new))
        pool += [{**row, "id": f"{name}-{number}"} for number, row in enumerate(new)]
    return pool, places


def deal(repeat: int, cell: Cell, places: Mapping[str, Places]) -> tuple[Places, Places]:
    """Places of the reference's rows and of the window's; of one repeat the reference is one."""
    rng = np.random.default_rng([POOL_SEED, repeat])
    order = rng.permutation(places["none"])
    reference, rest = order[:REFERENCE_ROWS], order[REFERENCE_ROWS:]
    changed = round(cell.share * cell.rows)
    if not changed:
        return reference, rest[: cell.rows]
    new = rng.permutation(places[cell.scenario])[:changed]
    return reference, rng.permutation(np.concatenate([rest[: cell.rows - changed], new]))


def draw_training(seed: int) -> list[Row]:
    """The training split of the default params with that seed."""
    return generate(seed, IncidentCounts(test=0, calibration=0, validation=0))["train"]


def unanswered(examples: Sequence[Row]) -> list[Row]:
    """Rows of a window that nobody has answered."""
    return [
        {
            "id": example["id"],
            "prompt": example["prompt"],
            "context": None,
            "slots": example["slots"],
            "slot_names": list(example["slots"]),
            "prompt_chars": len(example["prompt"]),
        }
        for example in examples
    ]
