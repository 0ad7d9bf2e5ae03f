"""Closed spools into dated Parquet files, and the removal of old ones.

    date=2026-11-22/<start>-<pid>-<random>.parquet   records of that day (UTC) out of one spool
    rejected/<start>-<pid>-<random>.jsonl            lines that are no records, with their reasons

A file is written under a temporary name, synced and renamed, and its name follows from the spool's,
so doing a spool again after a crash gives the same files again. A spool is removed last, when all
its files are complete. One process at a time works in a folder. Imports pyarrow late.
"""

import fcntl
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from serving._live.records import SCHEMA, SHADOW_TEXTS
from serving._live.spool import PRIVATE, SUFFIX, closed_spools, make_private, spool_folder

Row = dict[str, Any]
REJECTED = "rejected"
DATED = "date="
METADATA_KEY_IDS = b"stillhouse.key_ids"
METADATA_SCHEMA = b"stillhouse.schema"


@dataclass(frozen=True)
class Turned:
    """What one run of the command did."""

    spools: int
    records: int
    rejected: int
    """Lines that were no records [count]."""
    removed: int
    """Files that were too old or too many [count]."""


def turn_spools(
    folder: Path, keep_days: int, keep_bytes: int, today: date | None = None
) -> Turned | None:
    """Make Parquet files of all closed spools, then remove what is not to be kept.

    Returns None where another process is at it.

    Raises:
        OSError: the disk is full or cannot be written; nothing is lost.
    """
    today = today or datetime.now(UTC).date()
    with _alone(folder) as alone:
        if not alone:
            return None
        counts = [_turn(folder, spool) for spool in closed_spools(folder)]
        removed = remove_old(folder, keep_days, keep_bytes, today)
    return Turned(len(counts), sum(c[0] for c in counts), sum(c[1] for c in counts), removed)


def remove_old(folder: Path, keep_days: int, keep_bytes: int, today: date) -> int:
    """Remove files of days before the last `keep_days`, then the oldest until the rest fits.

    Returns the number of files removed. What was rejected counts as of the day of its spool.
    """
    first = today - timedelta(days=keep_days - 1)
    kept, removed = [], 0
    for day, path in sorted(_files(folder)):
        if day < first:
            path.unlink()
            removed += 1
        else:
            kept.append(path)
    spare = keep_bytes - sum(path.stat().st_size for path in kept)
    for path in kept:
        if spare >= 0:
            break
        spare += path.stat().st_size
        path.unlink()
        removed += 1
    for dated in folder.glob(f"{DATED}*"):
        if not any(dated.iterdir()):
            dated.rmdir()
    return removed


def live_files(folder: Path) -> list[Path]:
    """Complete Parquet files, oldest first."""
    return sorted(folder.glob(f"{DATED}*/*.parquet"))


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no other process turns spools here; keeps others away meanwhile."""
    make_private(folder)
    with (folder / ".turning").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        for path in [*folder.glob(f"{DATED}*/.*.tmp"), *folder.glob(f"{REJECTED}/.*.tmp")]:
            path.unlink()  # of one that was killed
        yield True


def _turn(folder: Path, spool: Path) -> tuple[int, int]:
    """One spool; returns how many records, and how many lines that were none."""
    days: dict[str, list[Row]] = defaultdict(list)
    rejected: list[Row] = []
    with spool.open("rb") as lines:
        read = [(number, line, _read(line)) for number, line in enumerate(lines, 1)]
    fits = _fits([found for _, _, found in read if isinstance(found, dict)])
    for number, line, found in read:
        if isinstance(found, dict) and (fits or _fits([found])):
            days[found["time"].date().isoformat()].append(found)
        else:
            reason = found if isinstance(found, str) else "the fields are not a record's"
            text = line.decode("utf-8", "backslashreplace")
            rejected.append({"line": number, "reason": reason, "text": text})
    for day, rows in days.items():
        _write_parquet(folder / f"{DATED}{day}" / f"{spool.stem}.parquet", rows)
    if rejected:
        body = "".join(json.dumps(one) + "\n" for one in rejected)
        with _replaced(folder / REJECTED / spool.name) as temporary:
            temporary.write_text(body, encoding="utf-8")
    spool.unlink()
    return sum(map(len, days.values())), len(rejected)


def _read(line: bytes) -> Row | str:
    """A line's record, or the reason why it is none."""
    if not line.endswith(b"\n"):
        return "torn: the line has no end"
    try:
        row: Row = json.loads(line)
        row["time"] = datetime.fromisoformat(row["time"])
        version = row["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return f"no record: {type(error).__name__}"
    return row if version == SCHEMA else f"schema {version}, this program writes {SCHEMA}"


def _fits(rows: list[Row]) -> bool:
    """Whether all rows fit the columns."""
    import pyarrow as pa

    from serving._live.columns import SCHEMA as COLUMNS

    names = set(COLUMNS.names)
    try:
        pa.Table.from_pylist(rows, schema=COLUMNS)
    except (pa.ArrowException, TypeError, ValueError, AttributeError):
        return False
    return all(row.keys() == names - _absent(row) for row in rows)


def _absent(row: Row) -> set[str]:
    """Columns that a row may lack: texts of shadows that were not asked."""
    return {name for name in SHADOW_TEXTS if name not in row}


def _write_parquet(path: Path, rows: list[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from serving._live.columns import SCHEMA as COLUMNS

    key_ids = sorted({row["key_id"] for row in rows if row["key_id"]})
    metadata = {METADATA_SCHEMA: str(SCHEMA), METADATA_KEY_IDS: ",".join(key_ids)}
    table = pa.Table.from_pylist(rows, schema=COLUMNS.with_metadata(metadata))
    with _replaced(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """A temporary name to write to; the file is synced, then gets its own, with its folder."""
    path.parent.mkdir(mode=PRIVATE, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.touch(mode=0o600)
    yield temporary
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(folder: Path) -> Iterator[tuple[date, Path]]:
    """Files that may be removed, each with its day."""
    for path in live_files(folder):
        yield date.fromisoformat(path.parent.name.removeprefix(DATED)), path
    spools = spool_folder(folder)
    for path in [*(folder / REJECTED).glob(f"*{SUFFIX}"), *spools.glob(f"*{SUFFIX}")]:
        yield datetime.strptime(path.name[:8], "%Y%m%d").replace(tzinfo=UTC).date(), path
