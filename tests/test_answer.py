"""A candidate answers every prompt of every split once, in order, from its folder alone."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import write_model
from toy import write_prepared

from serving.completion import Request
from serving.contract import digest
from serving.errors import StillhouseError
from serving.predictor import load
from stages import _io
from stages._params import check_params
from stages._rescoring import rescore_references
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


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return load(write_model(tmp_path_factory.mktemp("decoder") / "model"))


@torch.inference_mode()
def by_hand(decoder, prompt, reference, ends):
    """Log-probability of the reference and then of any of the ends, one token at a time."""
    ids = decoder.encode([Request(prompt)])[0]
    total = 0.0
    for token in decoder.prompts.encode_answer(reference):
        total += float(decoder.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token])
        ids = [*ids, token]
    last = decoder.model(torch.tensor([ids])).logits[0, -1].softmax(-1)
    return total + math.log(float(sum(last[end] for end in ends)))


def test_a_decoder_says_how_likely_it_finds_the_first_reference(decoder):
    examples = [
        {"prompt": "food[fish]", "references": ["Fish and dogs are here.", "No."]},
        {"prompt": "no reference"},
        {"prompt": "food[curry], name[The Mill]", "references": ["Curry."]},
    ]
    rows = rescore_references(decoder, examples)
    for number in (0, 2):
        reference = examples[number]["references"][0]
        expected = by_hand(decoder, examples[number]["prompt"], reference, decoder.ends)
        assert rows[number]["reference_logprob_nats"] == pytest.approx(expected, abs=1e-3)
        assert rows[number]["reference_tokens"] == 1 + len(decoder.prompts.encode_answer(reference))
        assert rows[number]["tokenizer_sha256"] == decoder.contract.files["tokenizer.json"]
    assert rows[1] == {}


def test_any_of_several_end_tokens_ends_a_reference(decoder, monkeypatch):
    monkeypatch.setattr(decoder, "ends", frozenset({2, 5}))
    (row,) = rescore_references(decoder, [{"prompt": "food[fish]", "references": ["Fish."]}])
    expected = by_hand(decoder, "food[fish]", "Fish.", {2, 5})
    assert row["reference_logprob_nats"] == pytest.approx(expected, abs=1e-3)


def test_a_reference_longer_than_the_model_is_left_out(decoder):
    long = {"prompt": "food[fish]", "references": ["fish and dogs " * 60]}
    short = {"prompt": "food[fish]", "references": ["fish"]}
    rows = rescore_references(decoder, [long, short])
    assert rows[0] == {}
    assert rows[1]["reference_tokens"] >= 2


def test_only_test_answers_of_decoders_carry_likelihoods(prepared, tmp_path):
    root, _ = prepared
    inputs, outputs = paths(root, tmp_path)
    answer(PARAMS, inputs, outputs)
    assert "reference_tokens" not in _io.read_jsonl(outputs["test"])[0]
    inputs["model"] = write_model(tmp_path / "decoder", decoding={"max_new_tokens": 2})
    answer(PARAMS, inputs, outputs)
    assert all("reference_tokens" in row for row in _io.read_jsonl(outputs["test"]))
    assert not any("reference_tokens" in row for row in _io.read_jsonl(outputs["calibration"]))
