"""Evidently's HTML report of the same columns, for those who know it; an extra, never the verdict.

Its own thresholds are not calibrated for the number of rows (docs/drift.md), so what it calls drift
may be none. Only figures and short names go into it, no prompt and no answer.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages import _io
from stages._drift.features import CATEGORIES, Table

NAME = "evidently.html"


def write_evidently(reference: Table, current: Table, folder: Path) -> Path:
    """Write Evidently's drift report of numbers, shares and names; returns its path.

    Raises:
        StillhouseError: it is not installed.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")  # it would tell its makers of every run
    try:
        from evidently import Report
        from evidently.presets import DataDriftPreset
    except ImportError as error:
        raise StillhouseError(
            f"drift.evidently is true, but the package {error.name or 'evidently'} is not "
            f'installed. Run "pip install -e .[drift]", or set drift.evidently: false.'
        ) from None
    import pandas as pd

    names = shared_columns(reference, current)
    sides = [pd.DataFrame(as_columns(side, names)) for side in (current, reference)]
    made = Report([DataDriftPreset()]).run(*sides)
    _io.write_text(folder / NAME, made.get_html_str(as_iframe=False))
    return folder / NAME


def shared_columns(reference: Table, current: Table) -> list[str]:
    """Columns that both sides know something of; not those with several names in a row."""
    return [
        name
        for name in (*reference.numbers, *reference.shares, *CATEGORIES)
        if name != "slot_names"
        and all(
            any(one is not None for one in _column(side, name)) for side in (reference, current)
        )
    ]


def as_columns(table: Table, names: Sequence[str]) -> dict[str, list[Any]]:
    """Those columns as lists; None where a value is not known."""
    return {name: _column(table, name) for name in names}


def _column(table: Table, name: str) -> list[Any]:
    if name in table.categories:
        return [row[0] if row else None for row in table.categories[name]]
    column = table.numbers[name] if name in table.numbers else table.shares[name]
    return [None if value != value else value for value in column.tolist()]  # NaN is not itself
