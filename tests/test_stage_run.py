"""A stage's run: where its record goes, what its libraries may do, what its predictor is asked."""

import json
import os
import sys
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info, threadpool_limits
from toy import NAMES, SCHEMA, example

from serving.contract import digest
from stages import _io
from stages._params import check_params
from stages._stage import SPINS, run_stage, set_environment
from stages.answer import answer as answer_stage
from stages.baseline import baseline

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE")
FILES = ("train.jsonl", "validation.jsonl", "slots.json")
PARAMS = check_params({"baseline": {"confidence_rows": 50, "jobs": 1}}, Path("params.yaml"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty project in which a stage runs untracked; the environment is put back afterwards."""
    for name in (*OFFLINE, "OMP_NUM_THREADS", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that pytest knows it ...
        monkeypatch.delenv(name)  # ... and the stage finds it unset
    monkeypatch.setenv("STILLHOUSE_TRACKING", "off")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("seed: 7\nrun: {threads: 1}\nanswer: {batch_size: 9}\n")
    return tmp_path


def run(monkeypatch, function, *arguments, inputs=None, outputs=None, **settings):
    monkeypatch.setattr(sys, "argv", ["stage", *arguments])
    run_stage(function, "doc", inputs or {}, outputs or {}, **settings)


def test_each_candidate_has_its_own_record_and_files(folder, monkeypatch, capsys):
    def answer(params, inputs, outputs):
        seen.append((inputs, outputs))
        return {"prompts": len(inputs["model"].name)}

    seen = []
    for candidate in ("small", "large-1"):
        paths = {
            "inputs": lambda name, _: {"model": Path("models") / name},
            "outputs": lambda name: {"test": Path(f"{name}.jsonl")},
        }
        run(monkeypatch, answer, candidate, **paths)
    assert [(i["model"], o["test"]) for i, o in seen] == [
        (Path("models/small"), Path("small.jsonl")),
        (Path("models/large-1"), Path("large-1.jsonl")),
    ]
    records = sorted(str(path.relative_to(folder)) for path in folder.rglob("run.json"))
    assert records == ["reports/answer/large-1/run.json", "reports/answer/small/run.json"]
    record = json.loads((folder / records[1]).read_text())
    assert (record["stage"], record["candidate"]) == ("answer", "small")
    assert record["metrics"]["prompts"] == 5
    assert (record["params"]["seed"], record["params"]["batch_size"]) == ("7", "9")
    assert "answer small: done" in capsys.readouterr().out


def test_a_stage_without_candidates_has_its_record_beside_its_reports(folder, monkeypatch):
    def evaluate(params, inputs, outputs):
        return {}

    run(monkeypatch, evaluate)
    record = json.loads((folder / "reports/evaluate/run.json").read_text())
    assert (record["stage"], record["candidate"]) == ("evaluate", None)


def test_a_stage_computes_with_the_threads_it_is_given(folder, monkeypatch):
    def prepare(params, inputs, outputs):
        inside.update({pool["filepath"]: pool["num_threads"] for pool in threadpool_info()})
        return {}

    inside = {}
    with threadpool_limits(3):
        run(monkeypatch, prepare)
    assert inside
    assert set(inside.values()) == {1}
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_threads_that_the_environment_sets_are_left_alone(folder, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    set_environment(check_params({"run": {"threads": 3}}, Path("p")))
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_threads_wait_awake_only_in_a_stage_that_asks_for_it(folder, monkeypatch):
    def prepare(params, inputs, outputs):
        seen.append(os.environ.get("GOMP_SPINCOUNT"))
        return {}

    seen = []
    run(monkeypatch, prepare)
    run(monkeypatch, prepare, spin=True)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    run(monkeypatch, prepare, spin=True)
    assert seen == [None, SPINS, "7"]


@pytest.mark.parametrize("name", OFFLINE)
def test_each_hugging_face_library_is_offline_unless_told_otherwise(folder, name):
    set_environment(check_params({"run": {"offline": False}}, Path("p")))
    assert name not in os.environ
    set_environment(check_params({}, Path("p")))
    assert os.environ[name] == "1"


def answers_of(root, train, asked, schema):
    """Fit the baseline on `train`, let the stage answer `asked` as both splits; rows of test."""
    _io.write_jsonl(root / "train.jsonl", train)
    _io.write_jsonl(root / "validation.jsonl", train)
    _io.write_json(root / "slots.json", schema)
    inputs = {name: root / name for name in FILES}
    baseline(PARAMS, inputs, {"model": root / "model", "reports": root / "reports"})
    for split in ("calibration", "test"):
        _io.write_jsonl(root / f"{split}.jsonl", asked)
    read = {"model": root / "model"} | {s: root / f"{s}.jsonl" for s in ("calibration", "test")}
    written = {split: root / f"answers.{split}.jsonl" for split in ("calibration", "test")}
    written["model"] = root / "answers.model.json"
    metrics = answer_stage(PARAMS, read, written)
    assert metrics["model_sha256"] == digest(root / "model")
    return _io.read_jsonl(written["test"])


def test_the_predictor_is_given_the_record_of_a_prompt_that_holds_none(tmp_path):
    train = [example(name, food, "no") for name in NAMES for food in ("pies", "fish")]
    pubs = [example(name, food, "no") for name, food in (("Zizzi", "fish"), ("Aromi", "pies"))]
    asked = [pub | {"prompt": "Tell me about this pub."} for pub in pubs]
    rows = answers_of(tmp_path, train, asked, SCHEMA)
    for row, pub in zip(rows, pubs, strict=True):
        assert row["text"] in pub["references"]


def test_the_predictor_is_given_the_context_of_a_prompt(tmp_path):
    things = [
        "printer",
        "door",
        "lamp",
        "lift",
        "oven",
        "window",
        "stapler",
        "chair",
        "desk",
        "tap",
    ]
    train = [
        {
            "id": thing,
            "prompt": "It is broken.",
            "context": thing,
            "references": [f"Fix the {thing}."],
        }
        for thing in things
    ]
    rows = answers_of(tmp_path, train, train, None)
    assert [row["text"] for row in rows] == [f"Fix the {thing}." for thing in things]
