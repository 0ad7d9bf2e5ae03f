"""What the tests of windows share: live records as Parquet files of any shape, frozen windows."""

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
from live_cases import turned, written

from serving._live.columns import SCHEMA as RECORD
from stages import _io
from stages._windows.choosing import Asked
from stages._windows.columns import COLUMNS
from stages._windows.freezing import describe, freeze, write_rows
from stages._windows.live import LiveRows
from stages._windows.reading import INFO, ROWS, read_window

DAY = "2026-11-21"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def live_row(number, **fields):
    """A record of the service with clear texts; one a second from noon on."""
    row = {
        "schema": 1,
        "id": f"row-{number:06d}",
        "time": NOON + timedelta(seconds=number),
        "rung": "student",
        "models": {"student": "a" * 64, "teacher": "b" * 64},
        "texts": "clear",
        "sealed": False,
        "prompt": f"service[api-{number}]",
        "slots": json.dumps({"service": f"api-{number}"}),
        "answer": f"api-{number} is down.",
        "prompt_chars": 10 + number,
        "answer_chars": 20,
        "slot_names": ["service"],
        "prompt_tokens": 5,
        "completion_tokens": 6,
        "finish_reason": "stop",
        "cache": "miss",
        "mean_logprob": -0.25,
        "slots_state": "ok",
        "grounding_state": "ok",
        "slots_asked": 1,
        "claims": 2,
        "findings": [],
    }
    return row | fields


def live_rows(count, start=0):
    return [live_row(number) for number in range(start, start + count)]


def write_live(live, rows, name="a", day=DAY, schema=RECORD, group_rows=1_000):
    """A file as the service leaves it; returns its path."""
    path = live / f"date={day}" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, path, compression="zstd", row_group_size=group_rows)
    return path


def frozen(tmp_path, keys=None, **asked):
    """Freeze tmp_path/live into tmp_path/windows."""
    rows = LiveRows(tmp_path / "live", Asked(**asked), keys or {})
    return freeze(tmp_path / "windows", rows)


def serve(tmp_path, *records, **settings):
    """Records as the service keeps them."""
    assert set(written(tmp_path / "live", *records, **settings)) == {"written"}
    turned(tmp_path / "live")


def rows_of(made):
    """Rows of a frozen window."""
    return list(read_window(made.folder).rows())


def ids_of(made):
    return [row["id"] for row in rows_of(made)]


def rejected_of(made):
    return _io.read_jsonl(made.folder / "rejected.jsonl")


def window_row(number, **fields):
    """A row of a window; what is not given is null."""
    return {"id": f"row-{number:06d}", "time": NOON + timedelta(seconds=number)} | fields


def write_window(folder, rows, batch_rows=100):
    """A window of these rows; returns its folder."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=COLUMNS)
    written = write_rows(folder / ROWS, table.to_batches(max_chunksize=batch_rows))
    _io.write_json(folder / INFO, describe(folder.name, written))
    return folder
