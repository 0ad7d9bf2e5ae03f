"""Files to measure with: a project with one window, and live records of many requests."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from serving._live.columns import SCHEMA as RECORD
from serving.slots import SlotSchema
from stages import _io
from stages._drift.reference import winner_rows
from stages._incidents import IncidentCounts, drifted, generate
from stages._windows.columns import COLUMNS
from stages._windows.freezing import describe, write_rows
from stages._windows.reading import INFO, ROWS

Row = dict[str, Any]
MODEL = "5" * 64
WINNER, WINDOW = "ct2", "scale"
START = datetime(2026, 1, 1, tzinfo=UTC)
FILE_ROWS = 100_000
TEXTS = 5_000
CHANGED = 0.3


def write_project(
    folder: Path, params: str, schema: Row, reference: int, current: int, seed: int
) -> None:
    """A project as the drift stage reads it, answered as if by a model.

    Args:
        params: content of its params.yaml.
        schema: the incidents' slot schema.
        reference: calibration prompts [count].
        current: rows of data/windows/scale, of which 30 % have new services [count].
    """
    counts = IncidentCounts(validation=0, test=0, calibration=reference, held_out_references=1)
    data = generate(seed, counts)
    fresh = drifted(seed + 1, current, "services", CHANGED, references=1)
    for split in ("train", "calibration"):
        rows = [{"id": f"{split}-{n}", **row} for n, row in enumerate(data[split])]
        _io.write_jsonl(folder / f"data/prepared/{split}.jsonl", rows)
    _io.write_json(folder / "data/prepared/slots.json", schema)
    rows = [{"id": f"calibration-{n}", **row} for n, row in enumerate(data["calibration"])]
    answers = list(made_up_answers(rows, seed))
    _io.write_jsonl(folder / f"data/answers/{WINNER}.calibration.jsonl", answers)
    _io.write_json(folder / f"data/answers/{WINNER}.model.json", {"sha256": MODEL})
    winner = {"candidate": WINNER, "model_sha256": MODEL, "folder": f"models/variants/{WINNER}"}
    _io.write_json(folder / "models/winner.json", {"cpu": winner})
    _io.write_text(folder / "params.yaml", params)
    rows = [{"id": f"row-{n}", **row} for n, row in enumerate(fresh)]
    write_window(folder / "data/windows" / WINDOW, rows, SlotSchema.from_dict(schema), seed + 1)


def made_up_answers(rows: Sequence[Row], seed: int) -> Iterator[Row]:
    """A reference of each, with made-up scores."""
    rng = np.random.default_rng(seed)
    for row in rows:
        mean = -0.2 * float(rng.exponential())
        scores = {"mean_logprob": mean, "min_logprob": 4 * mean, "confidence": None}
        yield {"id": row["id"], "text": row["references"][0], "finish_reason": "stop", **scores}


def write_window(folder: Path, rows: Sequence[Row], schema: SlotSchema, seed: int) -> None:
    """A window of rows that a model has answered, a minute apart."""
    answers = {answer["id"]: answer for answer in made_up_answers(rows, seed)}
    made = [
        {**row, "time": START + timedelta(minutes=n), "slots": json.dumps(row["slots"])}
        for n, row in enumerate(winner_rows(rows, answers, MODEL, schema))
    ]
    with _io.writing_folder(folder) as temporary:
        written = write_rows(temporary / ROWS, [pa.RecordBatch.from_pylist(made, schema=COLUMNS)])
        _io.write_json(temporary / INFO, describe(folder.name, written))


def write_live(folder: Path, rows: int, seed: int) -> int:
    """Live records in files of 100,000, a file a day, each in memory alone; returns their bytes.

    Texts repeat after 5,000 rows; ids, times and figures do not.
    """
    texts = drifted(seed, min(TEXTS, rows), "services", CHANGED, references=1)
    rng = np.random.default_rng(seed)
    total = 0
    for day, start in enumerate(range(0, rows, FILE_ROWS)):
        count = min(FILE_ROWS, rows - start)
        date = (START + timedelta(days=day)).date().isoformat()
        path = folder / f"live/date={date}/{start}.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(_records(texts, start, count, day, rng), path, compression="zstd")
        total += path.stat().st_size
    return total


def _records(
    texts: Sequence[Row], start: int, count: int, day: int, rng: np.random.Generator
) -> Any:
    """A table of live records."""
    of = [number % len(texts) for number in range(start, start + count)]
    logprobs = -0.2 * rng.exponential(size=count)
    first = int((START + timedelta(days=day)).timestamp() * 1e6)
    times = first + np.arange(count) * (86_000_000_000 // count)
    columns: dict[str, Any] = {
        "schema": [1] * count,
        "id": [f"{start + n:032x}" for n in range(count)],
        "time": pa.array(times, pa.timestamp("us", tz="UTC")),
        "rung": ["student"] * count,
        "models": [[("student", MODEL)]] * count,
        "texts": ["clear"] * count,
        "sealed": [False] * count,
        "prompt": [texts[n]["prompt"] for n in of],
        "slots": [json.dumps(texts[n]["slots"], sort_keys=True) for n in of],
        "answer": [texts[n]["references"][0] for n in of],
        "slot_names": [sorted(texts[n]["slots"]) for n in of],
        "prompt_chars": [len(texts[n]["prompt"]) for n in of],
        "answer_chars": [len(texts[n]["references"][0]) for n in of],
        "finish_reason": ["stop"] * count,
        "mean_logprob": logprobs,
        "min_logprob": 4 * logprobs,
        "latency_ms": rng.gamma(2.0, 20.0, count),
        "cost_usd": [0.0] * count,
        "cache": ["miss"] * count,
        "slots_state": ["ok"] * count,
        "grounding_state": ["ok"] * count,
        "slots_asked": [len(texts[n]["slots"]) for n in of],
        "claims": [3] * count,
        "findings": [[]] * count,
    }
    missing = {field.name: pa.nulls(count, field.type) for field in RECORD}
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else missing[field.name]
        for field in RECORD
    ]
    metadata = {b"stillhouse.schema": b"1"}
    return pa.Table.from_arrays(arrays, schema=RECORD.with_metadata(metadata))
