"""The service's Parquet files, read twice in batches: which rows there are, then those chosen.

A file, or a row group of one, that is damaged or of another schema is named in `rejected` and the
rest is used. A batch is checked as a whole (lengths, offsets, UTF-8) before any row of it is used.
Memory does not grow with the files: batches, and 8 bytes per chosen row. Imports pyarrow.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from serving._live.files import DATED, METADATA_SCHEMA, live_files
from serving._live.records import SCHEMA as RECORD_VERSION
from serving._live.texts import Key
from stages import _io
from stages._windows.choosing import Asked, Choosing, Hashes, Taking, Times, hash_ids
from stages._windows.columns import differences
from stages._windows.live_rows import NEEDED, RECORD_COLUMNS, Converted, convert
from stages._windows.reading import BATCH_ROWS, first_line, open_parquet

UNREADABLE: Final = (pa.ArrowException, OSError, ValueError)
Damage = Callable[[int, int, str], None]
"""Takes the number of a row group, how many of its rows are lost, and why."""


@dataclass
class LiveRows:
    """Rows for a window out of a folder of live records, and what became of all others."""

    folder: Path
    asked: Asked
    keys: Mapping[str, Key] = field(default_factory=dict)
    """By their ids."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    """Files that gave rows: {"file", "sha256", "rows"}."""
    rejected: list[dict[str, Any]] = field(default_factory=list)
    """What could not be used: {"file", "row_group", "rows", "reason"}, null for all or unknown."""
    others: Counter[str] = field(default_factory=Counter)
    """Good rows that are not in the window: outside, left_out, duplicates [count]."""
    texts: Counter[str] = field(default_factory=Counter)
    """Used rows by what could be read of their texts (live_rows.py) [count]."""
    sealed_with: set[str] = field(default_factory=set)
    """Ids of keys that were not given."""

    def batches(self) -> Iterator[Any]:
        """RecordBatches of a window's columns; the other attributes are complete at its end."""
        paths = self.paths()
        taking = Taking(self.asked, self._choose(paths))
        for path in paths:
            yield from self._file(path, taking)

    def paths(self) -> list[Path]:
        """Files of the asked days, oldest first."""
        return [path for path in live_files(self.folder) if self._is_asked(path)]

    def _is_asked(self, path: Path) -> bool:
        try:
            day = date.fromisoformat(path.parent.name.removeprefix(DATED))
        except ValueError:
            return True  # the rows' own times decide
        first, last = self.asked.first or day, self.asked.last or day
        return first <= day <= last

    def _choose(self, paths: Sequence[Path]) -> Hashes:
        """First pass: hashes of the ids that are in the window."""
        choosing = Choosing(self.asked)
        for path in paths:
            try:
                with _open_record(path) as file:
                    for batch in _read_groups(file, ["id", "time"], _pass_over):
                        _, hashes, times = _named(batch)
                        choosing.add(hashes, times)
            except UNREADABLE:
                continue  # the second pass tells why
        return choosing.chosen()

    def _file(self, path: Path, taking: Taking) -> Iterator[Any]:
        """Second pass: rows of one file."""
        name, rows = path.relative_to(self.folder).as_posix(), 0
        bad: Counter[str] = Counter()
        try:
            sha256, file = _io.sha256_file(path), _open_record(path)
        except UNREADABLE as error:
            self._reject(name, None, None, first_line(error))
            return

        def damaged(group: int, lost: int, reason: str) -> None:
            self._reject(name, group, lost, reason)

        with file:
            for batch in _read_groups(file, list(NEEDED), damaged):
                made = self._use(batch, taking, bad)
                rows += made.num_rows
                if made.num_rows:
                    yield made
        for reason, count in sorted(bad.items()):
            self._reject(name, None, count, reason)
        if rows:
            self.sources.append({"file": name, "sha256": sha256, "rows": rows})

    def _use(self, batch: Any, taking: Taking, bad: Counter[str]) -> Any:
        """Rows of a batch of records; what cannot be used is counted in `bad`, by its reason."""
        named, hashes, times = _named(batch)
        found, others = taking.find(hashes, times)
        done: Converted = convert(batch.take(pa.array(named[found])), self.keys)
        kept = taking.take(hashes[found[done.used]])
        bad.update(done.reasons)
        bad.update({"id or time is null": batch.num_rows - len(named)})
        self.others.update(others)
        self.others["duplicates"] += len(done.used) - len(kept)
        texts = Counter(done.states[place] for place in kept)
        self.texts.update(texts)
        if texts["sealed"]:
            self.sealed_with |= set(batch["key_id"].drop_null().to_pylist()) - self.keys.keys()
        return done.batch.take(pa.array(kept))

    def _reject(self, file: str, group: int | None, rows: int | None, reason: str) -> None:
        if rows != 0:
            entry = {"file": file, "row_group": group, "rows": rows, "reason": reason}
            self.rejected.append(entry)


def _open_record(path: Path) -> Any:
    """A file of live records.

    Raises:
        ValueError: it is of another schema.
        OSError, pyarrow.ArrowException: it cannot be read.
    """
    file = open_parquet(path)
    version = (file.schema_arrow.metadata or {}).get(METADATA_SCHEMA)
    told = differences(file.schema_arrow, RECORD_COLUMNS)
    if version is not None and version != str(RECORD_VERSION).encode():
        told.insert(0, f"schema {version.decode(errors='replace')}, expected {RECORD_VERSION}")
    if told:
        file.close()
        more = f"; {len(told) - 3} more" if len(told) > 3 else ""
        raise ValueError(f"another schema: {'; '.join(told[:3])}{more}")
    return file


def _read_groups(file: Any, columns: list[str], damaged: Damage) -> Iterator[Any]:
    """Checked batches, row group by row group; what follows damage in a group is lost."""
    for group in range(file.num_row_groups):
        read = 0
        try:
            for batch in file.iter_batches(
                BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False
            ):
                batch.validate(full=True)
                read += batch.num_rows
                yield batch
        except UNREADABLE as error:
            lost = file.metadata.row_group(group).num_rows - read
            damaged(group, lost, f"damaged: {first_line(error)}")


def _pass_over(group: int, lost: int, reason: str) -> None:
    """Damage that the second pass tells."""


def _named(batch: Any) -> tuple[Any, Hashes, Times]:
    """Places of the rows that have an id and a time; the ids' hashes, the times."""
    valid = batch["id"].is_valid().to_numpy(zero_copy_only=False)
    valid &= batch["time"].is_valid().to_numpy(zero_copy_only=False)
    places = np.flatnonzero(valid)
    ids = batch["id"].take(pa.array(places)).to_pylist()
    times = batch["time"].take(pa.array(places)).cast(pa.int64())
    return places, hash_ids(ids), times.to_numpy(zero_copy_only=False)
