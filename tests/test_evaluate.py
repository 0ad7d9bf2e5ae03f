"""Candidates are scored on the same prompts, with intervals, slices and findings per prompt."""

import json
from pathlib import Path

import pytest
from toy import write_prepared

from serving.contract import Contract, write_contract
from serving.errors import StillhouseError
from stages import _io
from stages._params import check_params
from stages.answer import describe_model
from stages.evaluate import evaluate

SETTINGS = {"resamples": 200, "reference": "good"}
CANDIDATES = {"candidates": ["good", "bad"]}
PARAMS = check_params({"answer": CANDIDATES, "evaluate": SETTINGS}, Path("params.yaml"))


def write_answers(root, name, texts, examples):
    rows = [
        {"id": ex["id"], "text": text, "completion_tokens": len(text.split()), "confidence": 0.5}
        for ex, text in zip(examples, texts, strict=True)
    ]
    _io.write_jsonl(root / f"{name}.test.jsonl", rows)
    (root / "models" / name).mkdir(parents=True, exist_ok=True)
    contract = Contract("baseline", "{prompt}", None, {}, {}, params_hash="p", data_hash="d")
    write_contract(root / "models" / name, contract)
    _io.write_json(root / f"{name}.model.json", describe_model(root / "models" / name))


@pytest.fixture
def paths(tmp_path):
    """Two candidates: one says a reference, the other keeps silent about the food."""
    examples = write_prepared(tmp_path)["test"] * 6
    for number, ex in enumerate(examples):
        examples[number] = ex | {"id": f"{number}"}
    _io.write_jsonl(tmp_path / "test.jsonl", examples)
    good = [ex["references"][0] for ex in examples]
    bad = [ex["references"][0].replace(f" serves {ex['slots']['food']}", "") for ex in examples]
    inputs = {"test": tmp_path / "test.jsonl", "slots": tmp_path / "slots.json"}
    inputs["answers"] = tmp_path
    for name, texts in (("good", good), ("bad", bad)):
        write_answers(tmp_path, name, texts, examples)
    return inputs, {"reports": tmp_path / "reports"}


def test_scores_are_what_the_answers_deserve(paths):
    inputs, outputs = paths
    summary = evaluate(PARAMS, inputs, outputs)
    assert summary["good"]["bleu"] == pytest.approx(100.0)
    assert summary["good"]["slot_error_rate"] == 0.0
    assert summary["bad"]["slot_error_rate"] == pytest.approx(1 / 3)
    assert summary["bad"]["missing"] == pytest.approx(1 / 3)
    assert summary["bad"]["bleu"] < 100.0


def test_a_report_names_its_data_model_interval_and_signature(paths):
    inputs, outputs = paths
    evaluate(PARAMS, inputs, outputs)
    report = json.loads((outputs["reports"] / "rungs/bad.json").read_text())
    assert report["examples"] == 24
    assert len(report["data"]["sha256"]) == len(report["model"]["sha256"]) == 64
    assert report["bleu"]["low"] <= report["bleu"]["score"] <= report["bleu"]["high"]
    assert "nrefs:2|case:lc" in report["bleu"]["signature"]
    assert report["slices"]["slots_03"]["examples"] == 24


def test_every_prompt_has_its_line_with_findings(paths):
    inputs, outputs = paths
    evaluate(PARAMS, inputs, outputs)
    rows = _io.read_jsonl(outputs["reports"] / "rungs/bad.jsonl")
    assert len(rows) == 24
    assert rows[0]["slot_findings"]["missing"][0]["slot"] == "food"
    assert set(rows[0]["scores"]) >= {"bleu", "chrf", "slot_error_rate"}


def test_the_comparison_is_paired_against_the_reference(paths):
    inputs, outputs = paths
    evaluate(PARAMS, inputs, outputs)
    comparison = json.loads((outputs["reports"] / "comparison.json").read_text())
    assert set(comparison) == {"bad"}
    assert comparison["bad"]["bleu"]["high"] < 0.0
    assert comparison["bad"]["slot_error_rate"]["score"] == pytest.approx(1 / 3)


def test_metrics_that_are_not_asked_for_are_absent(paths):
    inputs, outputs = paths
    settings = SETTINGS | {"metrics": ["chrf"]}
    params = check_params({"answer": CANDIDATES, "evaluate": settings}, Path("params.yaml"))
    summary = evaluate(params, inputs, outputs)
    assert set(summary["good"]) == {"chrf", "tokens_per_answer"}


def test_answers_to_other_prompts_are_refused(paths):
    inputs, outputs = paths
    path = inputs["answers"] / "bad.test.jsonl"
    _io.write_jsonl(path, _io.read_jsonl(path)[:-1])
    with pytest.raises(StillhouseError, match="23 answers for 24 prompts, 1 prompts have none"):
        evaluate(PARAMS, inputs, outputs)


def test_an_unknown_reference_candidate_lists_the_known_ones(paths):
    inputs, outputs = paths
    settings = {"reference": "teacher"}
    params = check_params({"answer": CANDIDATES, "evaluate": settings}, Path("params.yaml"))
    with pytest.raises(StillhouseError, match="the candidates are good, bad"):
        evaluate(params, inputs, outputs)
