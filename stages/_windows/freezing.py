"""Write a window: rows.parquet in small row groups, its description, and what was not used.

A window is built under another name in the same folder and renamed when it is complete, so nobody
sees half of one; its id follows from its rows, so the same rows are one window, however often and
by how many processes they are frozen. Imports pyarrow.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serving.errors import StillhouseError
from stages import _io
from stages._windows.columns import COLUMNS
from stages._windows.content import content_sha256, row_digests
from stages._windows.reading import INFO, ROWS, SCHEMA

if TYPE_CHECKING:
    from stages._windows.live import LiveRows

GROUP_ROWS: Final = 16_384
GROUP_BYTES: Final = 8 << 20  # of long texts fewer rows make a row group
REJECTED: Final = "rejected.jsonl"
OTHERS: Final = ("duplicates", "left_out", "outside")
"""Good rows that are not in a window (live.py)."""
ID_CHARACTERS: Final = 10
"""Of the content's hash, in a window's id."""


@dataclass(frozen=True)
class Written:
    """What went into rows.parquet."""

    rows: int
    rows_with_text: int
    first: datetime | None
    last: datetime | None
    content_sha256: str

    @property
    def id(self) -> str:
        """Of a window with these rows: its days and the start of its content's hash."""
        assert self.first and self.last, "a window without rows has no id"
        days = f"{self.first.date().isoformat()}_{self.last.date().isoformat()}"
        return f"{days}-{self.content_sha256[:ID_CHARACTERS]}"


@dataclass(frozen=True)
class Frozen:
    """A window that is there now."""

    folder: Path
    info: dict[str, Any]
    new: bool
    """False: the same rows had been frozen before, and nothing was done."""


def write_rows(path: Path, batches: Iterable[Any]) -> Written:
    """Write RecordBatches of a window's columns, in bounded memory."""
    digests = bytearray()
    rows = with_text = 0
    times: list[datetime] = []
    with pq.ParquetWriter(
        path, COLUMNS, compression="zstd", write_page_checksum=True, store_schema=True
    ) as writer:
        for group in _groups(batches):
            writer.write_table(group, row_group_size=max(group.num_rows, 1))
            rows += group.num_rows
            with_text += group.num_rows - group["prompt"].null_count
            ends = pc.min_max(group["time"]).as_py()
            times = [min([ends["min"], *times]), max([ends["max"], *times])]
            for batch in group.to_batches():
                digests += row_digests(batch)
    first, last = times or (None, None)
    return Written(rows, with_text, first, last, content_sha256(bytes(digests)))


def _groups(batches: Iterable[Any]) -> Iterator[Any]:
    """Tables of the size of a row group."""
    held: list[Any] = []
    for batch in batches:
        held.append(batch)
        full = sum(one.num_rows for one in held) >= GROUP_ROWS
        if full or sum(one.nbytes for one in held) >= GROUP_BYTES:
            yield pa.Table.from_batches(held, schema=COLUMNS)
            held = []
    if any(one.num_rows for one in held):
        yield pa.Table.from_batches(held, schema=COLUMNS)


def describe(
    name: str,
    written: Written,
    live: "LiveRows | None" = None,
    planted: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A window.json; docs/windows.md says what each field is."""
    lost = live.rejected if live else []
    texts = live.texts if live else {"clear": written.rows}
    return {
        "schema": SCHEMA,
        "id": name,
        "first": written.first.isoformat() if written.first else None,
        "last": written.last.isoformat() if written.last else None,
        "rows": written.rows,
        "rows_with_text": written.rows_with_text,
        "sources": live.sources if live else [],
        "rejected": {
            "files": len({one["file"] for one in lost if one["rows"] is None}),
            "rows": sum(one["rows"] or 0 for one in lost),
        },
        "texts": dict(sorted(texts.items())),
        **{name: live.others[name] if live else 0 for name in OTHERS},
        "content_sha256": written.content_sha256,
        "planted": dict(planted) if planted else None,
    }


def freeze(windows: Path, live: "LiveRows") -> Frozen:
    """Freeze live rows into a folder of `windows`, the owner's alone.

    Raises:
        StillhouseError: no row can be used, or all texts are sealed with other keys.
    """
    windows.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=windows, prefix=".window."))  # mode 0700
    try:
        written = write_rows(temporary / ROWS, live.batches())
        _check(live, written)
        info = describe(written.id, written, live)
        _io.write_jsonl(temporary / REJECTED, live.rejected)
        _io.write_json(temporary / INFO, info)
        _sync(temporary / ROWS)
        return _put(temporary, windows / written.id, info)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone by then, where all went well


def _put(temporary: Path, folder: Path, info: dict[str, Any]) -> Frozen:
    """Give a window its name, unless it is there already."""
    try:
        temporary.rename(folder)  # never over a folder that holds something
    except OSError:
        if not folder.exists():
            raise  # nothing is in the way: the disk is full, or the folder not ours
        if not (folder / INFO).is_file():
            raise StillhouseError(
                f"{folder} is there and has no {INFO}, so it is no window. Remove it, then freeze "
                f"again."
            ) from None
        return Frozen(folder, _io.read_json(folder / INFO), new=False)
    return Frozen(folder, info, new=True)


def _check(live: "LiveRows", written: Written) -> None:
    if not written.rows:
        raise StillhouseError(_describe_nothing(live))
    if live.keys and live.texts["sealed"] and not live.texts["opened"]:
        raise StillhouseError(
            f"texts are sealed with {', '.join(sorted(live.sealed_with)) or 'no known key'}, found "
            f"{', '.join(sorted(live.keys))}. Give that key, or none to freeze all but the texts."
        )


def _describe_nothing(live: "LiveRows") -> str:
    """Why there is no row, and what to do."""
    files, others = len(live.paths()), live.others
    bad = [f"{one['file']}: {one['reason']}" for one in live.rejected[:2]]
    told = [f"{files} files of the asked days in {live.folder}"]
    told += [f"{others['outside']} rows outside them"] if others["outside"] else []
    told += [f"{len(live.rejected)} entries rejected ({'; '.join(bad)})"] if bad else []
    return (
        f"no row can be frozen: {', '.join(told)}. Name other days, serve with "
        f'STILLHOUSE_LIVE_FOLDER, or run "python -m serving.live_files {live.folder}" first.'
    )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
