"""Teacher and labels with a server that others wrote: `transformers serve` on loopback."""

import pytest
from label_endpoint import endpoint_params, label_again, label_with
from real_endpoint import plain_model, serving
from tiny_pipeline import label_inputs

from serving.completion import Request
from serving.contract import read_contract
from serving.predictor import load
from stages import _io
from stages._label_plan import plan_labels
from stages._labels import PAID_NAME, iterate_labels, read_labels
from stages._labels.manifest import hash_ids

COUNT = 8
GENERATION = {"max_new_tokens": 40}


@pytest.mark.slow
def test_a_served_model_is_described_answers_and_is_paid_for_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = plain_model(tmp_path / "model")
    label = {"train_prompts": COUNT, "shard_prompts": 5, "generation": GENERATION, "max_usd": 20.0}
    with serving(model, tmp_path / "log") as url:
        changes = {"model": str(model), "timeout_s": 60.0, "concurrency": 2}
        params = endpoint_params(url, label, **changes)
        report = label_with(params, tmp_path)
    again = label_again(params, tmp_path)  # the server is gone, and nobody is asked
    assert again["cost"] == report["cost"] | {"usd_this_run": 0.0}
    check_labels(params, tmp_path, load(model, GENERATION), report)
    told = capsys.readouterr().err
    assert f"label: {COUNT} prompts are to be asked of {model} (0 are answered, 0 USD" in told
    assert f"label: {report['cost']['usd']:.4g} USD were paid in this run" in told


def check_labels(params, root, engine, report):
    """Texts, manifest and bill are those of the model that was served."""
    plan = plan_labels(params, label_inputs(root))
    examples = _io.read_jsonl(root / "prepared/train.jsonl")[:COUNT]
    expected = engine.answer([Request(e["prompt"]) for e in examples])
    labels = list(iterate_labels(read_labels(root / "labels", plan.manifest)))
    finished = [c.text for c in expected if c.finish_reason == "stop" and c.text.strip()]
    assert [n.text for n in labels] == finished and finished
    assert report["labels"] + report["rejected"] == COUNT
    manifest = plan.manifest
    assert (manifest.example_count, manifest.top_k) == (COUNT, 0)
    assert manifest.example_ids_sha256 == hash_ids(e["id"] for e in examples)
    assert read_contract(root / "teacher").engine == "endpoint"
    cost = report["cost"]
    prompt = sum(answer.prompt_tokens for answer in expected)
    completion = sum(answer.completion_tokens for answer in expected)
    assert (cost["requests"], cost["retries"], cost["unmetered"]) == (COUNT, 0, 0)
    assert (cost["prompt_tokens"], cost["completion_tokens"]) == (prompt, completion)
    assert cost["usd"] == pytest.approx(prompt * 0.001 + completion * 0.01)
    assert len(_io.read_jsonl(root / "labels" / PAID_NAME)) == COUNT
