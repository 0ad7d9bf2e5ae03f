"""Answers meet their own prompt, slices hold what their name says, every interval is resampled."""

import json
from pathlib import Path

import numpy as np
import pytest
from toy import SCHEMA, example

from serving.contract import CONTRACT_NAME, Contract, write_contract
from serving.slots import Finding, SlotCheck
from stages import _io
from stages._evaluation import Scored, compare, per_prompt_rows, slices
from stages._params import Evaluate, check_params
from stages._scores import bootstrap_weights, mean_statistics, per_prompt, slot_statistics
from stages.answer import describe_model
from stages.evaluate import evaluate

PUBS = [example(f"Pub {chr(65 + n)}", ("fish", "pies")[n % 2], "yes") for n in range(24)]
GOOD = [pub["references"][0] for pub in PUBS]
WEIGHT_BYTES = 2_500_000


@pytest.fixture
def paths(tmp_path):
    """24 prompts: `all` answers every one with a reference, `half` falls silent on every other."""
    _io.write_jsonl(tmp_path / "test.jsonl", PUBS)
    _io.write_json(tmp_path / "slots.json", SCHEMA)
    inputs = {"test": tmp_path / "test.jsonl", "slots": tmp_path / "slots.json"}
    inputs["answers"] = tmp_path
    half = [text if n % 2 else "Nothing." for n, text in enumerate(GOOD)]
    for name, texts in (("all", GOOD), ("half", half), ("same", GOOD)):
        model = tmp_path / "models" / name
        model.mkdir(parents=True)
        (model / "weights.bin").write_bytes(bytes(WEIGHT_BYTES))
        write_contract(model, Contract("baseline", "{prompt}", None, {}, {}, "p", "d"))
        pairs = zip(PUBS, texts, strict=True)
        rows = [
            {"id": pub["id"], "text": text, "completion_tokens": len(text.split())}
            for pub, text in pairs
        ]
        _io.write_jsonl(tmp_path / f"{name}.test.jsonl", rows)
        _io.write_json(tmp_path / f"{name}.model.json", describe_model(model))
    return inputs, {"reports": tmp_path / "reports"}


def run(paths, **settings):
    inputs, outputs = paths
    evaluation = {"reference": "all", "resamples": 400} | settings
    answers = {"candidates": {name: f"models/{name}" for name in ("all", "half", "same")}}
    params = check_params({"answer": answers, "evaluate": evaluation}, Path("p"))
    summary = evaluate(params, inputs, outputs)
    report = json.loads((outputs["reports"] / "half.json").read_text())
    comparison = json.loads((outputs["reports"] / "comparison.json").read_text())
    return summary, report, comparison


def width(score):
    return score["high"] - score["low"]


def test_answers_are_scored_against_the_prompt_of_their_id(paths):
    inputs, _ = paths
    for name in ("all", "half"):
        path = inputs["answers"] / f"{name}.test.jsonl"
        _io.write_jsonl(path, _io.read_jsonl(path)[::-1])
    summary, _, comparison = run(paths)
    assert summary["all"]["exact_match"] == 1.0
    assert summary["all"]["slot_error_rate"] == 0.0
    assert summary["half"]["exact_match"] == 0.5
    lines = _io.read_jsonl(paths[1]["reports"] / "half.jsonl")
    assert [line["output"] == "Nothing." for line in lines] == [n % 2 == 0 for n in range(24)]
    assert comparison["same"]["exact_match"]["score"] == 0.0


def test_the_size_of_a_model_is_that_of_its_files_in_megabytes(paths):
    _, report, _ = run(paths)
    contract = paths[0]["answers"] / "models/half" / CONTRACT_NAME
    assert report["model"]["size_mb"] == (WEIGHT_BYTES + contract.stat().st_size) / 1e6
    assert report["model"]["engine"] == "baseline"


def test_a_slice_of_all_prompts_scores_like_the_whole_interval_included(paths):
    _, report, _ = run(paths, confidence=0.9)
    part = report["slices"]["slots_03"]
    assert part.pop("examples") == 24
    assert part == {name: report[name] for name in part}
    assert set(part) >= {"bleu", "chrf", "exact_match", "slot_error_rate", "tokens_per_answer"}
    assert width(part["exact_match"]) > 0.2


def test_a_higher_level_gives_wider_intervals_everywhere(paths):
    _, low, low_comparison = run(paths, confidence=0.6)
    _, high, high_comparison = run(paths, confidence=0.99)
    for name in ("bleu", "chrf", "exact_match", "slot_error_rate", "tokens_per_answer"):
        assert width(high[name]) > 1.5 * width(low[name]), name
        parts = [report["slices"]["slots_03"][name] for report in (high, low)]
        assert width(parts[0]) > 1.5 * width(parts[1]), name
    for name in ("bleu", "chrf", "exact_match", "slot_error_rate"):
        pair = [comparison["half"][name] for comparison in (high_comparison, low_comparison)]
        assert width(pair[0]) > 1.5 * width(pair[1]), name


def test_a_difference_has_the_interval_of_its_resamples(paths):
    _, _, comparison = run(paths, resamples=4000)
    difference = comparison["half"]["exact_match"]
    error = 0.5 / np.sqrt(24)  # every other prompt differs by 1
    assert difference["score"] == -0.5
    assert difference["low"] == pytest.approx(-0.5 - 1.96 * error, abs=0.04)
    assert difference["high"] == pytest.approx(-0.5 + 1.96 * error, abs=0.04)
    assert width(comparison["same"]["bleu"]) == 0.0


def test_systems_are_compared_on_the_same_resampled_prompts():
    noise = np.random.default_rng(1).normal(0.0, 10.0, 40)
    scored = {
        name: Scored([], None, {"chrf": mean_statistics(list(noise + shift), "m")})
        for name, shift in (("teacher", 0.0), ("student", 2.0))
    }
    settings = Evaluate(reference="teacher")
    difference = compare(settings, scored, bootstrap_weights(40, 200, 0))["student"]["chrf"]
    assert [difference[key] for key in ("score", "low", "high")] == pytest.approx([2.0] * 3)


def test_slices_by_length_and_by_number_of_slots_hold_their_prompts():
    # words of the prompt: 22 x 1, 21 x 2, 20 x 3, in turn; so the thirds are cut at 1 and at 2
    lengths = [n % 3 + 1 for n in range(60)] + [1, 1, 2]
    counts = [3] * 30 + [12] * 21 + [5] * 10 + [0] * 2
    examples = [
        {"prompt": " ".join(["word"] * length), "slots": {f"s{k}": "v" for k in range(count)}}
        for length, count in zip(lengths, counts, strict=True)
    ]
    del examples[-1]["slots"], examples[-2]["slots"]
    tokens = [length * 100.0 + count for length, count in zip(lengths, counts, strict=True)]
    result = Scored([], None, {"tokens": mean_statistics(tokens, "m")})
    parts = slices(Evaluate(resamples=100), examples, result, seed=0)
    assert {name: part["examples"] for name, part in parts.items()} == {
        "length_long": 20,
        "length_mid": 21,
        "length_short": 22,
        "slots_03": 30,
        "slots_12": 21,
    }
    means = {
        "length_short": 100 + 134 / 22,  # 10 x 3, 7 x 12, 4 x 5 and one without slots
        "length_mid": 200 + 129 / 21,
        "length_long": 300 + 129 / 20,
        "slots_03": 203.0,  # ten of each length
        "slots_12": 212.0,  # seven of each length
    }
    for name, mean in means.items():
        assert parts[name]["tokens"]["score"] == pytest.approx(mean), name


def test_a_slices_interval_comes_from_all_its_resamples():
    examples = [{"prompt": "word"} for _ in range(100)]
    result = Scored([], None, {"tokens": mean_statistics([0.0, 1.0] * 50, "m")})
    part = slices(Evaluate(resamples=4000), examples, result, seed=0)["length_short"]["tokens"]
    assert part["low"] == pytest.approx(0.5 - 1.96 * 0.05, abs=0.01)
    assert part["high"] == pytest.approx(0.5 + 1.96 * 0.05, abs=0.01)


def findings(slot, count):
    return tuple(Finding(slot, "asked", "said", 0, 1) for _ in range(count))


CHECKS = [
    SlotCheck(findings("a", 1), findings("b", 2), findings("c", 4), slots=10),
    SlotCheck((), (), (), slots=5),
    SlotCheck((), findings("b", 1), (), slots=0),  # counts as one slot
]


def test_each_kind_of_slot_error_is_counted_by_itself():
    statistics = slot_statistics(CHECKS)
    found = {name: per_prompt(value) for name, value in statistics.items()}
    assert found == {
        "slot_error_rate": [0.7, 0.0, 1.0],
        "missing": [0.1, 0.0, 0.0],
        "added": [0.2, 0.0, 1.0],
        "wrong": [0.4, 0.0, 0.0],
    }
    assert statistics["slot_error_rate"].rows.sum(axis=0).tolist() == [8.0, 16.0]


def test_findings_stand_under_their_kind():
    answers = [{"text": "t"}] * 3
    examples = [{"id": str(n), "prompt": "p", "references": ["r"]} for n in range(3)]
    rows = per_prompt_rows(examples, Scored(answers, CHECKS, slot_statistics(CHECKS)))
    kinds = [{k: [f["slot"] for f in v] for k, v in row["slot_findings"].items()} for row in rows]
    assert kinds == [
        {"missing": ["a"], "added": ["b"] * 2, "wrong": ["c"] * 4},
        {},
        {"added": ["b"]},
    ]


def test_windows_are_slices_beside_what_was_there_before(paths):
    inputs, outputs = paths
    marked = [pub | ({"window": "2026-w"} if n >= 4 else {}) for n, pub in enumerate(PUBS)]
    marked += [pub | {"id": f"more-{n}"} for n, pub in enumerate(PUBS)]
    _io.write_jsonl(inputs["test"], marked)
    for name in ("all", "half", "same"):
        path = inputs["answers"] / f"{name}.test.jsonl"
        rows = _io.read_jsonl(path)
        _io.write_jsonl(path, rows + [row | {"id": f"more-{n}"} for n, row in enumerate(rows)])
    _, report, _ = run(paths)
    windows = {name: part for name, part in report["slices"].items() if name[:6] == "window"}
    counts = {name: part["examples"] for name, part in windows.items()}
    assert counts == {"window_none": 28, "window_2026-w": 20}
    assert windows["window_2026-w"]["exact_match"]["score"] == 0.5
    lines = _io.read_jsonl(outputs["reports"] / "half.jsonl")
    assert [line.get("window") for line in lines] == [row.get("window") for row in marked]


def test_without_windows_there_are_no_slices_of_them(paths):
    _, report, _ = run(paths)
    assert not [name for name in report["slices"] if name.startswith("window")]
    assert "window" not in _io.read_jsonl(paths[1]["reports"] / "half.jsonl")[0]
