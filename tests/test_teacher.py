"""The teacher stage: a model folder that is complete, served as trained, and repeatable."""

import shutil

import pytest
from tiny_models import write_model
from tiny_pipeline import TRAINING, prepared_inputs, run_teacher, taught, tiny_params
from toy import write_prepared

from serving.completion import Request
from serving.contract import digest, read_contract
from serving.errors import StillhouseError
from serving.predictor import load
from stages import _io
from stages.teacher import teacher


@pytest.fixture(autouse=True)
def _in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_folder_answers_through_the_predictor():
    predictor = load(taught() / "teacher")
    answer = predictor.answer([Request("name[The Mill], food[fish], dogs[yes]")])[0]
    assert answer.completion_tokens >= 1
    assert answer.mean_logprob < 0


def test_the_contract_tells_what_it_was_made_from():
    contract = read_contract(taught() / "teacher")
    assert contract.prompt_template == "<|prompt|>{prompt}<|answer|>"
    assert contract.slot_schema["name"] == "pubs"
    assert contract.limits == {"max_prompt_tokens": 128 - 24}
    assert contract.data_hash == _io.sha256_file(taught() / "prepared/train.jsonl")


def test_the_report_has_size_cost_and_scores():
    report = _io.read_json(taught() / "reports/teacher/teacher.json")
    assert report["source"] == "scratch"
    assert report["parameters"] > 10_000
    assert report["training_tokens"] > 0
    assert report["validation"]["bleu"]["low"] <= report["validation"]["bleu"]["score"]
    assert report["best_step"] in (8, 12)


def test_curves_have_a_row_per_logged_step():
    lines = (taught() / "reports/teacher/curve.csv").read_text().splitlines()
    assert lines[0] == "step,train_nats,gradient_norm"
    assert [line.split(",")[0] for line in lines[1:]] == ["8", "10", "12"]


def test_loss_falls(tmp_path):
    params = tiny_params(teacher={"training": TRAINING | {"steps": 60}})
    write_prepared(tmp_path / "prepared")
    run_teacher(params, tmp_path)
    lines = (tmp_path / "reports/teacher/curve.csv").read_text().splitlines()[1:]
    losses = [float(line.split(",")[1]) for line in lines]
    assert losses[-1] < 0.5 * losses[0]


def test_the_same_inputs_give_the_same_model(tmp_path):
    run_teacher(tiny_params(), tmp_path)
    weights = "model.safetensors"
    assert (tmp_path / "teacher" / weights).read_bytes() == (
        taught() / "teacher" / weights
    ).read_bytes()
    assert digest(tmp_path / "teacher") == digest(taught() / "teacher")


def test_scratch_is_gone_when_the_outputs_are_written(tmp_path):
    run_teacher(tiny_params(), tmp_path)
    assert not list((tmp_path / "scratch/teacher").iterdir())


@pytest.mark.parametrize("tuning", ["none", "full", "lora"])
def test_a_model_in_hub_format_becomes_a_teacher(tmp_path, tuning):
    base = write_model(tmp_path / "base", "qwen2")
    (base / "contract.json").unlink()
    pretrained = {"model": str(base), "tuning": tuning}
    section = {"source": "pretrained", "pretrained": pretrained, "training": TRAINING}
    section["generation"] = {"max_new_tokens": 8}
    write_prepared(tmp_path / "prepared")
    report = run_teacher(tiny_params(teacher=section), tmp_path)
    assert report["parameters"] > 10_000
    assert read_contract(tmp_path / "teacher").base_model == "base"
    changed = (tmp_path / "teacher/model.safetensors").read_bytes() != (
        base / "model.safetensors"
    ).read_bytes()
    assert changed == (tuning != "none")


def test_an_empty_training_split_is_a_mistake(tmp_path):
    write_prepared(tmp_path / "prepared")
    _io.write_jsonl(tmp_path / "prepared/train.jsonl", [])
    outputs = {"model": tmp_path / "teacher", "reports": tmp_path / "reports"}
    with pytest.raises(StillhouseError, match=r"train\.jsonl has no prompts"):
        teacher(tiny_params(), prepared_inputs(tmp_path / "prepared"), outputs)


def test_positions_that_hold_no_prompt_are_a_mistake(tmp_path):
    shutil.copytree(taught() / "prepared", tmp_path / "prepared")
    params = tiny_params(teacher={"training": TRAINING, "generation": {"max_new_tokens": 600}})
    outputs = {"model": tmp_path / "teacher", "reports": tmp_path / "reports"}
    with pytest.raises(StillhouseError, match="leave no room for a prompt in 128 positions"):
        teacher(params, prepared_inputs(tmp_path / "prepared"), outputs)
