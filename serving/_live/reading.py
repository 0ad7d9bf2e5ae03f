"""Read live records back: rows as they were written, sealed texts opened with their key."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

from serving._live.files import DATED, METADATA_KEY_IDS, live_files
from serving._live.records import TEXTS
from serving._live.texts import Key, open_sealed
from serving.errors import StillhouseError

Row = dict[str, Any]


def read_live(
    folder: Path, key: Key | None = None, first: date | None = None, last: date | None = None
) -> Iterator[Row]:
    """Records of the days from `first` to `last` (UTC, both included), file by file.

    Without a key the texts that are sealed are None, and all else is there.

    Raises:
        StillhouseError: `key` is not the one that a file was sealed with, or a text was changed.
    """
    import pyarrow.parquet as pq

    for path in live_files(folder):
        day = date.fromisoformat(path.parent.name.removeprefix(DATED))
        if (first and day < first) or (last and day > last):
            continue
        table = pq.ParquetFile(path).read()  # not by the folder, whose name would be a column
        key_ids = ((table.schema.metadata or {}).get(METADATA_KEY_IDS) or b"").decode()
        for row in table.to_pylist(maps_as_pydicts="strict"):
            yield _opened(row, key, path, key_ids)


def _opened(row: Row, key: Key | None, path: Path, key_ids: str) -> Row:
    if not row["sealed"]:
        return row
    if key and key.id != row["key_id"]:
        raise StillhouseError(
            f"{path} was sealed with key {key_ids}, found key {key.id}. "
            f"Give that key, or none to read all but the texts."
        )
    for name in TEXTS:
        if row[name] is not None:
            row[name] = open_sealed(row[name], key, row["id"], name) if key else None
    return row
