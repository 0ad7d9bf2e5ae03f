"""A candidate answers every prompt of every split once, in order, from its folder alone."""

import shutil
from pathlib import Path

import pytest
from toy import write_prepared

from serving.contract import digest
from serving.errors import StillhouseError
from stages import _io
from stages._params import check_params
from stages.answer import answer
from stages.baseline import baseline

PARAMS = check_params(
    {"baseline": {"confidence_rows": 50, "jobs": 1}, "answer": {"batch_size": 3}},
    Path("params.yaml"),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("answer")
    examples = write_prepared(root)
    inputs = {n: root / n for n in ("train.jsonl", "validation.jsonl", "slots.json")}
    baseline(PARAMS, inputs, {"model": root / "model", "reports": root / "reports"})
    return root, examples


def paths(root, tmp_path):
    inputs = {"model": root / "model"} | {s: root / f"{s}.jsonl" for s in ("calibration", "test")}
    outputs = {s: tmp_path / f"baseline.{s}.jsonl" for s in ("calibration", "test")}
    return inputs, {**outputs, "model": tmp_path / "baseline.model.json"}


def test_every_prompt_is_answered_in_order(prepared, tmp_path):
    root, examples = prepared
    inputs, outputs = paths(root, tmp_path)
    metrics = answer(PARAMS, inputs, outputs)
    for split in ("calibration", "test"):
        rows = _io.read_jsonl(outputs[split])
        assert [row["id"] for row in rows] == [example["id"] for example in examples[split]]
        assert all(row["text"] and 0 <= row["confidence"] <= 1 for row in rows)
        assert metrics[split]["prompts"] == len(rows)


def test_a_model_is_described_by_its_folder(prepared, tmp_path):
    root, _ = prepared
    inputs, outputs = paths(root, tmp_path)
    answer(PARAMS, inputs, outputs)
    found = _io.read_json(outputs["model"])
    assert found["engine"] == "baseline"
    assert found["sha256"] == digest(root / "model")
    assert found["parameters"] > 0


def test_a_tampered_model_answers_nothing(prepared, tmp_path):
    root, _ = prepared
    inputs, outputs = paths(root, tmp_path)
    inputs["model"] = tmp_path / "model"
    shutil.copytree(root / "model", inputs["model"])
    (inputs["model"] / "answers.json").write_text("[]")
    with pytest.raises(StillhouseError, match=r"answers\.json was changed"):
        answer(PARAMS, inputs, outputs)
    assert not outputs["test"].exists()
