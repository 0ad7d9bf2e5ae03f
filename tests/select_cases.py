"""Reports, model folders and releases as the stages before select leave them, by hand."""

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean

import numpy as np
from safetensors.numpy import save_file
from toy import FOODS, SCHEMA, example

from serving.contract import Contract, write_contract
from serving.slots import SlotSchema, check_answer
from stages import _io
from stages._params import check_params
from stages._releases import FIELDS, SCHEMA_VERSION
from stages._scores import (
    bleu_statistics,
    bootstrap_weights,
    corpus_score,
    slot_statistics,
)

ENDING = " People come back to it on any day of the week, be it for lunch or late at night."
NAMES = [f"The {word} {kind}" for word in ("Red", "Old", "Tall") for kind in "ABCDEFGHIJ"]
PUBS = [example(name, food, dogs) for name in NAMES for food in FOODS for dogs in ("yes", "no")]
for pub in PUBS:
    pub["references"] = [reference + ENDING for reference in pub["references"]]
PARSED = SlotSchema.from_dict(SCHEMA)
FIGURES = {
    "device": "cpu",
    "threads": 2,
    "cpu_flags": ["avx2"],
    "latency_ms": {"p50": 8.0, "p95": 10.0, "p99": 12.0},
    "requests_per_s": {"1": 20.0, "8": 50.0},
    "throughput_tokens_per_s": {"1": 200.0, "8": 500.0},
    "peak_memory_mb": 400.0,
    "disk_mb": 2.0,
    "hourly_price_usd": 0.1,
    "cost_per_1k_requests_usd": 0.002,
}


def said(wrong=0, prompts=240):
    """Right answers; the first `wrong` ones name the next food instead of the asked one."""
    texts = [pub["references"][0] for pub in PUBS[:prompts]]
    for number in range(wrong):
        food = PUBS[number]["slots"]["food"]
        other = FOODS[(FOODS.index(food) + 1) % len(FOODS)]
        texts[number] = texts[number].replace(f" {food} ", f" {other} ")
    return tuple(texts)


def evaluation(texts, similarity=None):
    """A report and its lines, as evaluate writes them; `similarity` is a value per prompt."""
    report, lines = deepcopy(_evaluation(texts))
    if similarity is not None:
        report["semantic_similarity"] = {"score": fmean(similarity), "signature": "cosine"}
        for line, value in zip(lines, similarity, strict=True):
            line["scores"] = {"semantic_similarity": value}
    return report, lines


@cache
def _evaluation(texts):
    pubs = PUBS[: len(texts)]
    checks = [check_answer(t, p["slots"], PARSED) for t, p in zip(texts, pubs, strict=True)]
    statistics = {"bleu": bleu_statistics(texts, [p["references"] for p in pubs])}
    statistics |= slot_statistics(checks)
    weights = bootstrap_weights(len(texts), 200, 20)
    report = {name: corpus_score(s, weights, 0.95).to_dict() for name, s in statistics.items()}
    report |= {"examples": len(texts), "unknown_slots": {}, "data": {"sha256": "d" * 64}}
    report["model"] = {"engine": "transformers", "scheme": None, "size_mb": 2.0, "sha256": None}
    lines = []
    for text, pub, check in zip(texts, pubs, checks, strict=True):
        kinds = {"missing": check.missing, "added": check.added, "wrong": check.wrong}
        found = {kind: [{"slot": f.slot} for f in fs] for kind, fs in kinds.items() if fs}
        keys = {key: pub[key] for key in ("id", "prompt", "slots", "references")}
        lines.append(keys | {"output": text, "scores": {}, "slot_findings": found})
    return report, lines


def write_model(folder, weights, source=None, engine="transformers"):
    """A model folder with one file, made of the model with the digest `source`; its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.array([len(weights), *map(ord, weights)], dtype=np.float16)
    save_file({"weights": numbers}, folder / "model.safetensors")
    contract = Contract(engine, "{prompt}", None, {}, {}, "p", "d")
    return write_contract(folder, replace(contract, base_revision=source))


class Case:
    """A project's files below one folder."""

    def __init__(self, root, **select):
        self.root = root
        self.candidates = {}
        self.student = None  # the first one that is added
        # 240 prompts of 3 slots exclude a rise of 0.0051 at best: 3.69 / 720.
        gates = {"wrong_rise": 0.006} | select.pop("gates", {})
        self.select = {"resamples": 200, "gates": gates} | select
        _io.write_json(self.current, {})

    def add(self, name, texts, figures=None, engine="transformers"):
        """One candidate: folder, evaluation and benchmark; `figures` None leaves that out."""
        own = ("student", "baseline", "teacher", "control")
        folder = self.root / "models" / (name if name in own else f"variants/{name}")
        self.candidates[name] = folder.as_posix()
        sha256 = write_model(folder, name, self.student, engine)
        self.student = self.student or sha256
        report, lines = evaluation(texts)
        report["model"] |= {"sha256": sha256, "engine": engine}
        _io.write_json(self.root / "reports" / "evaluate" / f"{name}.json", report)
        _io.write_jsonl(self.root / "reports" / "evaluate" / f"{name}.jsonl", lines)
        if figures is not None:
            benchmark = FIGURES | {"model_sha256": sha256} | figures
            _io.write_json(self.root / "reports" / "benchmark" / f"{name}.json", benchmark)
        return sha256

    @property
    def current(self):
        return self.root / "releases" / "current.json"

    def release(self, cpu):
        """Put a winner into force, as release 3, rolled back to from release 4."""
        record = dict.fromkeys(FIELDS) | {"schema_version": SCHEMA_VERSION, "kind": "rollback"}
        record |= {"release": 4, "serves": 3, "winners": {"cpu": cpu, "cuda": None}}
        _io.write_json(self.current, record)

    def params(self):
        sections = {"answer": {"candidates": self.candidates}, "select": self.select}
        return check_params(sections, Path("params.yaml"))

    def paths(self):
        reports = self.root / "reports"
        inputs = {name: reports / name for name in ("evaluate", "benchmark")}
        inputs["current"] = self.current
        winner, reports = self.root / "models" / "winner.json", reports / "select"
        return inputs, {"winner": winner, "reports": reports}

    def decision(self):
        return _io.read_json(self.root / "reports" / "select" / "decision.json")

    def winner(self):
        return _io.read_json(self.root / "models" / "winner.json")
