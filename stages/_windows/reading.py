"""Read a frozen window in batches: its rows, a sample of them, what they come to. Bounded memory.

    window = read_window(Path("data/windows/planted"))
    rows, summary = sample_rows(window.folder, most=1_000, seed=20)

A row is a dict of the columns (columns.py): `time` a datetime in UTC, `slots` a dict of slot to
value (in the file it is JSON), `slot_names` a list of names, what is not known None.
"""

import heapq
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving.errors import StillhouseError
from stages import _io
from stages._windows.columns import CATEGORIES, COLUMNS, COUNTS, FIGURES, differences

Row = dict[str, Any]
SCHEMA: Final = 1
"""Version of the folder's format."""
ROWS: Final = "rows.parquet"
INFO: Final = "window.json"
BATCH_ROWS: Final = 1_024
BUFFER_BYTES: Final = 1 << 20  # a column is read in pieces of this size, not a row group at once
QUANTILES: Final = {"min": 0.0, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}
_NEEDED = {"schema", "id", "first", "last", "rows", "rows_with_text", "content_sha256"}


@dataclass(frozen=True)
class Window:
    """One frozen window."""

    folder: Path
    info: dict[str, Any]
    """Its window.json (docs/windows.md)."""

    def batches(
        self, columns: Sequence[str] | None = None, batch_rows: int = BATCH_ROWS
    ) -> Iterator[Any]:
        """pyarrow RecordBatches of at most `batch_rows` rows, in the file's order.

        Raises:
            StillhouseError: the file is damaged.
        """
        try:
            with open_parquet(self.folder / ROWS) as file:
                yield from file.iter_batches(batch_rows, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise StillhouseError(
                f"{self.folder / ROWS} is damaged ({first_line(error)}). {_again(self.folder)}"
            ) from None

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Its rows as dicts, one by one, in the file's order; errors as `batches`."""
        for batch in self.batches(columns):
            yield from as_rows(batch)


def open_parquet(path: Path) -> Any:
    """A Parquet file to read in batches; pages that have a checksum are checked.

    Raises:
        OSError, pyarrow.ArrowException: there is none, or it is damaged.
    """
    return pq.ParquetFile(path, buffer_size=BUFFER_BYTES, page_checksum_verification=True)


def first_line(error: BaseException) -> str:
    """The start of an error's words, fit for one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def as_rows(batch: Any) -> list[Row]:
    """A RecordBatch of a window's columns as dicts, slots read."""
    rows: list[Row] = batch.to_pylist()
    for row in rows:
        if row.get("slots") is not None:
            row["slots"] = json.loads(row["slots"])
    return rows


def read_window(folder: Path) -> Window:
    """The window in a folder, with its description and columns checked; rows are not read yet.

    Raises:
        StillhouseError: a file is absent or unreadable, another format, other columns, or another
            number of rows than the description says.
    """
    info = _read_info(folder)
    try:
        with open_parquet(folder / ROWS) as file:
            found, rows = differences(file.schema_arrow, COLUMNS), file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise StillhouseError(
            f"{folder / ROWS} cannot be read ({first_line(error)}). {_again(folder)}"
        ) from None
    if rows != info["rows"]:
        found.append(f"{rows} rows, and {INFO} says {info['rows']}")
    if found:
        raise StillhouseError(f"{folder / ROWS}: {'; '.join(found)}. {_again(folder)}")
    return Window(folder, info)


def _read_info(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        there = sorted(path.parent.name for path in folder.parent.glob(f"[!.]*/{INFO}"))
        raise StillhouseError(
            f"there is no window {folder} (found: {', '.join(there) or 'none'}). "
            f'Run "make window", or name one that is there.'
        )
    if not (folder / INFO).is_file():
        raise StillhouseError(f"{folder} has no {INFO}. {_again(folder)}")
    info = _io.read_json(folder / INFO)
    if not isinstance(info, dict) or info.get("schema") != SCHEMA or _NEEDED - info.keys():
        raise StillhouseError(
            f"{folder / INFO} is of another format than {SCHEMA}, which this program reads. "
            f"{_again(folder)}"
        )
    return info


def _again(folder: Path) -> str:
    if folder.name == "planted":
        return 'Run "dvc repro plant" to make it again.'
    return f'Delete {folder} and run "make window" to freeze it again.'


def sample_rows(
    folder: Path, most: int, seed: int, columns: Sequence[str] | None = None
) -> tuple[list[Row], dict[str, Any]]:
    """At most `most` rows, sorted by time and id, and {"rows", "sampled", "left_out", "seed"}.

    The rows with the smallest hashes of seed and id: the same rows and seed give the same sample,
    however they lie in the file. Memory grows with `most`, not with the window.

    Raises:
        StillhouseError: as `read_window` and `Window.batches`.
    """
    window = read_window(folder)
    key = seed.to_bytes(8, "big")
    ids = (name for batch in window.batches(["id"]) for name in batch.column(0).to_pylist())
    hashes = (blake2b(name.encode(), digest_size=8, key=key).digest() for name in ids)
    best = heapq.nsmallest(most, ((digest, place) for place, digest in enumerate(hashes)))
    places = np.sort(np.array([place for _, place in best], dtype=np.int64))
    names = None if columns is None else list({*columns, "id", "time"})
    rows = list(_rows_at(window, places, names))
    rows.sort(key=lambda row: (row["time"], row["id"]))
    if columns is not None:
        rows = [{name: row[name] for name in columns} for row in rows]
    total = int(window.info["rows"])
    told = {"rows": total, "sampled": len(rows), "left_out": total - len(rows), "seed": seed}
    return rows, told


def _rows_at(window: Window, places: Any, columns: Sequence[str] | None) -> Iterator[Row]:
    """Rows by their sorted places in the file [int64 array]."""
    start = 0
    for batch in window.batches(columns):
        low, high = np.searchsorted(places, [start, start + batch.num_rows])
        if high > low:
            yield from as_rows(batch.take(pa.array(places[low:high] - start)))
        start += batch.num_rows


def summarise(folder: Path) -> dict[str, Any]:
    """What a window's rows come to, a column at a time.

    Returns:
        {"rows", "rows_with_text", "first", "last" (ISO times), "days": {"2026-11-21": rows},
        "missing": {column: share 0 to 1}, "quantiles": {column: {"min", "p05", "p25", "p50",
        "p75", "p95", "max", "mean"}} of counts and figures that are there and finite,
        "values": {column: {value: rows}} of the categories, the most frequent first}.

    Raises:
        StillhouseError: as `read_window` and `Window.batches`.
    """
    window = read_window(folder)
    missing: Counter[str] = Counter()
    values: dict[str, Counter[str]] = {name: Counter() for name in ("time", *CATEGORIES)}
    for batch in window.batches():
        missing.update({name: batch[name].null_count for name in COLUMNS.names})
        for name, counter in values.items():
            counter.update(_counted(batch[name]))
    rows, days = int(window.info["rows"]), values.pop("time")
    return {
        **{name: window.info[name] for name in ("rows", "rows_with_text", "first", "last")},
        "days": dict(sorted(days.items())),
        "missing": {name: missing[name] / max(rows, 1) for name in COLUMNS.names},
        "quantiles": {name: _quantiles(window, name) for name in (*COUNTS, *FIGURES)},
        "values": {name: dict(counter.most_common()) for name, counter in values.items()},
    }


def _counted(column: Any) -> dict[str, int]:
    """Rows per value; of times per day in UTC."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.date32())
    pairs = pc.value_counts(column.drop_null()).to_pylist()
    return {str(pair["values"]): pair["counts"] for pair in pairs}


def _quantiles(window: Window, name: str) -> dict[str, float]:
    """Of one column, whose numbers alone are in memory; empty where it has none."""
    parts = [
        batch.column(0).drop_null().to_numpy(zero_copy_only=False).astype(float)
        for batch in window.batches([name], batch_rows=16 * BATCH_ROWS)
    ]
    numbers = np.concatenate(parts) if parts else np.zeros(0)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return {}
    found = np.quantile(numbers, [*QUANTILES.values(), 1.0])
    told = dict(zip([*QUANTILES, "max"], map(float, found), strict=True))
    return told | {"mean": float(numbers.mean())}
