"""A project's files as drift reads them, by hand: pubs asked of a student, and frozen windows."""

import json
import random
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
from toy import FOODS, SCHEMA, example

from serving._cascade.route import Price, Route, Rung, route_content
from stages import _io
from stages._params import check_params
from stages._windows.columns import COLUMNS
from stages._windows.reading import INFO, ROWS

STUDENT, BASELINE = "5" * 64, "b" * 64
COLOURS = ["Red", "Old", "Tall", "Blue", "Green", "Lone", "Quiet", "Golden", "Broken", "Wild"]
KINDS = ["Eagle", "Mill", "Vaults", "Anchor", "Plough", "Crown", "Castle", "Swan", "Bear", "Oak"]
NAMES = [f"The {colour} {kind}" for colour in COLOURS for kind in KINDS]
FAST = {"permutations": 699, "folds": 2, "min_rows": 30, "embeddings": False}
FAST["calibration"] = {"repeats": 0}
PATHS = {
    "train": "data/prepared/train.jsonl",
    "calibration": "data/prepared/calibration.jsonl",
    "slots": "data/prepared/slots.json",
    "answers": "data/answers",
    "winner": "models/winner.json",
    "route": "models/route.json",
    "windows": "data/windows",
}


def pubs(number, seed, names=NAMES, foods=FOODS):
    """Prepared examples: different pubs, drawn alike for every seed."""
    rng = random.Random(seed)
    drawn = [(name, food, dogs) for name in names for food in foods for dogs in ("yes", "no")]
    return [example(*one) for one in rng.sample(drawn, number)]


def answer_to(pub, rng, wrong=False):
    """A right answer, or one that names another food."""
    food = pub["slots"]["food"]
    text = pub["references"][0]
    if wrong:
        text = text.replace(f" {food} ", f" {next(f for f in FOODS if f != food)} ")
    logprob = -0.2 - 0.1 * rng.random()
    counts = {"prompt_tokens": 10, "completion_tokens": 8, "finish_reason": "stop"}
    scores = {"mean_logprob": logprob, "min_logprob": 3 * logprob}
    return {"id": pub["id"], "text": text, **counts, **scores}


def live_row(pub, number, seed=0, **changed):
    """The pub asked of the student, as a row of a window."""
    rng = random.Random(f"{seed}/{number}")
    answer = answer_to(pub, rng)
    row = {
        "id": f"row-{number}",
        "time": datetime(2026, 3, 1, tzinfo=UTC) + timedelta(minutes=number),
        "prompt": pub["prompt"],
        "slots": dict(sorted(pub["slots"].items())),  # as the service keeps them
        "slot_names": sorted(pub["slots"]),
        "answer": answer.pop("text"),
        "rung": "student",
        "model_sha256": STUDENT,
        "cache": "off",
        "prompt_chars": len(pub["prompt"]),
        "slots_asked": 3,
        "slot_errors": 0,
        "claims": 2,
        "ungrounded": 0,
        "latency_ms": 10.0,
        **{name: value for name, value in answer.items() if name != "id"},
    }
    row["answer_chars"] = len(row["answer"])
    return {**row, **changed}


class Case:
    """A project below one folder: 200 calibration pubs, all answered by the student."""

    def __init__(self, root, prompts=200, schema=SCHEMA, **drift):
        self.root, self.drift = root, {**FAST, "window": "w", **drift}
        self.calibration = pubs(prompts, "calibration")
        _io.write_jsonl(root / PATHS["train"], pubs(400, "train"))
        _io.write_jsonl(root / PATHS["calibration"], self.calibration)
        _io.write_json(root / PATHS["slots"], schema)
        self.answer("student", STUDENT)
        winner = {"candidate": "student", "folder": "models/student", "model_sha256": STUDENT}
        _io.write_json(root / PATHS["winner"], {"cpu": winner, "cuda": None})
        self.route(Rung("student", "local", None, "mean_logprob", STUDENT))

    def answer(self, name, sha256, **scores):
        """A candidate's answers to the calibration prompts."""
        rng = random.Random(name)
        rows = [{**answer_to(pub, rng), **scores} for pub in self.calibration]
        _io.write_jsonl(self.root / PATHS["answers"] / f"{name}.calibration.jsonl", rows)
        _io.write_json(self.root / PATHS["answers"] / f"{name}.model.json", {"sha256": sha256})

    def route(self, *rungs):
        prices = {rung.name: Price() for rung in rungs}
        made = Route(rungs, "answer", 0.1, 0.05, "slots", prices, "")
        _io.write_json(self.root / PATHS["route"], route_content(made))

    def freeze(self, rows, name="w", rejected=(), planted=None):
        """A window of these rows."""
        folder = self.root / PATHS["windows"] / name
        folder.mkdir(parents=True)
        kept = [
            {**row, "slots": json.dumps(row["slots"]) if row.get("slots") else None} for row in rows
        ]
        pq.write_table(pa.Table.from_pylist(kept, schema=COLUMNS), folder / ROWS)
        times = [row["time"].isoformat() for row in rows] or [None]
        counts = {"rows": len(rows), "rows_with_text": sum(bool(row["prompt"]) for row in rows)}
        lost = {"files": len(rejected), "rows": 0}
        span = {"first": min(times), "last": max(times), "content_sha256": "c" * 64}
        info = {"schema": 1, "id": name, **counts, **span, "planted": planted, "rejected": lost}
        _io.write_json(folder / INFO, info)
        _io.write_jsonl(folder / "rejected.jsonl", rejected)

    def params(self):
        return check_params({"drift": self.drift}, self.root / "params.yaml")

    def paths(self):
        outputs = {"reports": self.root / "reports/drift", "kept": self.root / "scratch/drift"}
        return {name: self.root / path for name, path in PATHS.items()}, outputs

    def report(self, name="drift.json"):
        return _io.read_json(self.root / "reports/drift" / name)
