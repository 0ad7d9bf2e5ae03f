"""The cascade's models on fresh prompts: answers, which of them are wrong, and what one takes."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving._cascade.route import Price, RungName
from serving.completion import Request
from serving.contract import digest, read_contract
from serving.predictor import load
from serving.slots import SlotSchema
from stages import _io
from stages._incidents import drifted
from stages._params import Params
from stages._progress import report_progress
from stages._routing import Candidate
from stages._wrong_answers import find_likeness, find_slot_errors

BATCH = 16  # where nobody measured which size is fastest
REFERENCES = 5  # as many as the held-out splits have, for likeness is that to the nearest
SPLITS = ("train", "validation", "calibration", "test")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Places:
    """Folders and files of a finished run."""

    models: Path
    prepared: Path
    benchmark: Path
    answers: Path
    """Where answers are kept."""


def fresh_prompts(seed: int, count: int, prepared: Path) -> Rows:
    """Examples that no split has, drawn like the held-out ones."""
    known = {row["prompt"] for s in SPLITS for row in _io.read_jsonl(prepared / f"{s}.jsonl")}
    rows = drifted(seed, count + count // 10, "units", 0.0, references=REFERENCES)
    return [row for row in rows if row["prompt"] not in known][:count]


def read_models(params: Params, places: Places, examples: Rows) -> tuple[list[Candidate], float]:
    """Baseline, winner and teacher, each with its own score, and the seconds of one slot check.

    `wrong` holds slot errors; seconds are those of answering here, hourly prices those of params.
    """
    winner = _io.read_json(places.models / "winner.json")["cpu"]
    folders: dict[RungName, tuple[str, Path]] = {
        "baseline": ("baseline", places.models / "baseline"),
        "student": (winner["candidate"], places.models.parent / winner["folder"]),
        "teacher": ("teacher", places.models / "teacher"),
    }
    schema_data = read_contract(folders["student"][1]).slot_schema
    schema = SlotSchema.from_dict(schema_data) if schema_data else None
    price = Price(usd_per_hour=params.benchmark.hourly_price_usd.cpu)
    models, check_s = [], []
    for rung, (name, folder) in folders.items():
        answers = answer_all(folder, examples, places.answers, _batch(places.benchmark, name))
        began = time.perf_counter()
        errors = find_slot_errors(examples, answers, schema)
        check_s.append((time.perf_counter() - began) / len(examples))
        models.append(
            Candidate(
                name=rung,
                sha256=digest(folder),
                place="local",
                answers=answers,
                wrong=errors,
                score="confidence" if rung == "baseline" else None,
                price=price,
                seconds=float(np.mean([row["seconds"] for row in answers])),
                slot_errors=errors,
                suspect=errors,
                likeness=find_likeness(examples, answers),
            )
        )
    return models, float(np.mean(check_s))


def answer_all(folder: Path, examples: Rows, kept: Path, size: int) -> Rows:
    """A model's answers, with the seconds that each took; those in `kept` are not asked again."""
    path = kept / f"{digest(folder)[:16]}.jsonl"
    rows = _io.read_jsonl(path) if path.is_file() else []
    asked = [example["prompt"] for example in examples]
    if [row["id"] for row in rows] != asked[: len(rows)] or any("seconds" not in r for r in rows):
        sys.exit(f"error: {path} has answers of another run. Delete it.")
    if len(rows) == len(examples):
        return rows
    path.parent.mkdir(parents=True, exist_ok=True)
    predictor = load(folder, device="cpu")
    predictor.answer([Request(e["prompt"], e["slots"]) for e in examples[:size]])  # to warm up
    progress = report_progress(folder.name, len(examples))
    for start in range(len(rows), len(examples), size):
        made = _answer(predictor, examples[start : start + size])
        with path.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in made)
        rows += made
        progress(len(rows))
    return rows


def _answer(predictor: Any, batch: Sequence[dict[str, Any]]) -> Rows:
    began = time.perf_counter()
    found = predictor.answer([Request(e["prompt"], e["slots"]) for e in batch])
    seconds = (time.perf_counter() - began) / len(batch)
    names = ("text", "confidence", "mean_logprob", "min_logprob")
    counts = ("prompt_tokens", "completion_tokens")
    return [
        {"id": example["prompt"], "seconds": seconds}
        | {name: getattr(one, name) for name in (*names, *counts)}
        for example, one in zip(batch, found, strict=True)
    ]


def _batch(benchmark: Path, name: str) -> int:
    """The batch size at which a model answered most requests per second."""
    path = benchmark / f"{name}.json"
    rates = (_io.read_json(path) if path.is_file() else {}).get("requests_per_s") or {}
    return int(max(rates, key=lambda size: float(rates[size]), default=BATCH))
