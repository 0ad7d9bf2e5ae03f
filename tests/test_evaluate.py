"""Candidates are scored on the same prompts, with intervals, slices and findings per prompt."""

import json
from pathlib import Path

import pytest
from structure import dvc_stages, out_paths
from tiny_sentences import write_sentence_model
from toy import write_prepared

from serving.contract import Contract, write_contract
from serving.errors import StillhouseError
from stages import _io, _sentences
from stages._params import check_params
from stages.answer import describe_model
from stages.evaluate import evaluate

SETTINGS = {"resamples": 200, "reference": "good"}
CANDIDATES = {"candidates": {"good": "models/good", "bad": "models/bad"}}
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
    report = json.loads((outputs["reports"] / "bad.json").read_text())
    assert report["examples"] == 24
    assert len(report["data"]["sha256"]) == len(report["model"]["sha256"]) == 64
    assert report["bleu"]["low"] <= report["bleu"]["score"] <= report["bleu"]["high"]
    assert "nrefs:2|case:lc" in report["bleu"]["signature"]
    assert report["slices"]["slots_03"]["examples"] == 24


def test_every_prompt_has_its_line_with_findings(paths):
    inputs, outputs = paths
    evaluate(PARAMS, inputs, outputs)
    rows = _io.read_jsonl(outputs["reports"] / "bad.jsonl")
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


def test_another_metric_setting_answers_nothing_anew():
    answer, scored = dvc_stages()["answer"], dvc_stages()["evaluate"]
    assert "evaluate" in scored["params"]
    assert not any(param.split(".")[0] == "evaluate" for param in answer["params"])
    assert not any("metrics" in dep or "evaluat" in dep for dep in answer["deps"])
    assert not any(out.startswith("data/answers") for out in out_paths(scored))


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


def with_settings(**settings):
    sections = {"answer": CANDIDATES, "evaluate": SETTINGS | settings}
    return check_params({"prepare": {"slot_schema": "pubs.yaml"}, **sections}, Path("params.yaml"))


def add_likelihoods(inputs, name, logprob, tokenizer):
    path = inputs["answers"] / f"{name}.test.jsonl"
    more = {"reference_logprob_nats": logprob, "reference_tokens": 4, "tokenizer_sha256": tokenizer}
    _io.write_jsonl(path, [row | more for row in _io.read_jsonl(path)])


def test_perplexity_is_absent_where_a_candidate_has_none(paths):
    inputs, outputs = paths
    add_likelihoods(inputs, "bad", -8.0, "e" * 64)
    summary = evaluate(PARAMS, inputs, outputs)
    assert summary["bad"]["perplexity"] == pytest.approx(7.389056)  # e squared
    assert not {"perplexity", "bits_per_character"} & set(summary["good"])
    comparison = json.loads((outputs["reports"] / "comparison.json").read_text())
    assert "perplexity" not in comparison["bad"]
    row = _io.read_jsonl(outputs["reports"] / "bad.jsonl")[0]
    assert row["scores"]["perplexity"] == pytest.approx(7.389056)


def test_a_reference_too_long_for_the_model_costs_its_perplexity_and_is_said(paths, capsys):
    inputs, outputs = paths
    add_likelihoods(inputs, "bad", -8.0, "e" * 64)
    path = inputs["answers"] / "bad.test.jsonl"
    first, *others = _io.read_jsonl(path)
    _io.write_jsonl(path, [{k: v for k, v in first.items() if k != "reference_tokens"}, *others])
    assert "perplexity" not in evaluate(PARAMS, inputs, outputs)["bad"]
    assert "bad: no perplexity: 1 of 24 references" in capsys.readouterr().out


def test_perplexities_are_compared_where_the_tokenizer_is_the_same(paths):
    inputs, outputs = paths
    for tokenizer, compared in (("e" * 64, True), ("f" * 64, False)):
        add_likelihoods(inputs, "good", -4.0, "e" * 64)
        add_likelihoods(inputs, "bad", -8.0, tokenizer)
        evaluate(PARAMS, inputs, outputs)
        comparison = json.loads((outputs["reports"] / "comparison.json").read_text())
        assert ("perplexity" in comparison["bad"]) == compared
        assert comparison["bad"]["bits_per_character"]["score"] > 0


def test_unsupported_claims_stand_with_their_prompt(paths):
    inputs, outputs = paths
    path = inputs["answers"] / "bad.test.jsonl"
    rows = _io.read_jsonl(path)
    rows[3]["text"] += " It is near Burger King."
    _io.write_jsonl(path, rows)
    summary = evaluate(PARAMS, inputs, outputs)
    assert summary["good"]["hallucination_rate"] == 0.0
    assert summary["bad"]["hallucination_rate"] == pytest.approx(1 / 24)
    lines = _io.read_jsonl(outputs["reports"] / "bad.jsonl")
    assert lines[3]["unsupported"] == [{"kind": "name", "found": "Burger King"}]
    assert "unsupported" not in lines[2]


def test_similarity_has_anchors_and_one_backend_for_all(paths, tmp_path):
    inputs, outputs = paths
    folder = write_sentence_model(tmp_path / "sentences")
    settings = {"metrics": ["semantic_similarity"], "similarity": {"model": str(folder)}}
    evaluate(with_settings(**settings), inputs, outputs)
    good, bad = (
        json.loads((outputs["reports"] / f"{name}.json").read_text())["semantic_similarity"]
        for name in ("good", "bad")
    )
    assert good["score"] == pytest.approx(1.0)
    assert good["floor"] < good["score"]
    assert bad["score"] < 1.0
    assert good["ceiling"] == bad["ceiling"]
    assert good["backend"] == bad["backend"]
    row = _io.read_jsonl(outputs["reports"] / "bad.jsonl")[0]
    assert row["scores"]["semantic_similarity"] < 1.0


def test_kept_vectors_give_the_same_reports_without_encoding(paths, tmp_path, monkeypatch):
    inputs, outputs = paths
    folder = write_sentence_model(tmp_path / "sentences")
    settings = {"metrics": ["semantic_similarity"], "similarity": {"model": str(folder)}}
    places = {**outputs, "kept": tmp_path / "kept"}
    encoded = []
    load = _sentences._load
    monkeypatch.setattr(_sentences, "_load", lambda place: encoded.append(place) or load(place))

    def reports():
        _sentences.load_encoder.cache_clear()
        evaluate(with_settings(**settings), inputs, places)
        return {path.name: path.read_bytes() for path in outputs["reports"].iterdir()}

    first = reports()
    assert reports() == first
    assert encoded == [folder], "the model is loaded once"
    (kept,) = places["kept"].iterdir()
    kept.write_bytes(kept.read_bytes()[:-5])
    assert reports() == first
    assert encoded == [folder, folder], "a damaged file is made anew"


def test_slot_errors_without_a_schema_are_refused(paths):
    inputs, outputs = paths
    _io.write_json(inputs["slots"], None)
    with pytest.raises(StillhouseError, match="slot_error_rate, but the data has no slot schema"):
        evaluate(PARAMS, inputs, outputs)
    assert not outputs["reports"].exists()
    summary = evaluate(with_settings(metrics=["hallucination_rate"]), inputs, outputs)
    assert summary["good"]["hallucination_rate"] == 0.0


@pytest.mark.parametrize("references", [{"references": []}, {}], ids=["empty", "absent"])
def test_a_test_split_without_references_is_refused_or_scored_without(paths, references):
    inputs, outputs = paths
    examples = [
        {key: value for key, value in example.items() if key != "references"} | references
        for example in _io.read_jsonl(inputs["test"])
    ]
    _io.write_jsonl(inputs["test"], examples)
    with pytest.raises(StillhouseError, match=r"24 of 24 test prompts have no reference.*bleu"):
        evaluate(PARAMS, inputs, outputs)
    with pytest.raises(StillhouseError, match="asks for perplexity"):
        evaluate(with_settings(metrics=["perplexity"]), inputs, outputs)
    settings = with_settings(metrics=["slot_error_rate", "hallucination_rate"])
    assert evaluate(settings, inputs, outputs)["good"]["slot_error_rate"] == 0.0


def test_a_candidate_with_the_name_of_a_report_is_refused(paths):
    inputs, outputs = paths
    names = {"candidates": {"good": "models/good", "summary": "models/bad"}}
    params = check_params({"answer": names, "evaluate": SETTINGS}, Path("params.yaml"))
    with pytest.raises(StillhouseError, match=r"answer\.candidates\.summary: evaluate has a file"):
        evaluate(params, inputs, outputs)
