"""The ladder says whether distilling won, from the files of the stages before it."""

import csv
import json
import math
from pathlib import Path

import pytest
from label_cases import write_store
from toy import FOODS, NAMES, SCHEMA, example

from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages import _io
from stages._evaluation import per_prompt_rows, score
from stages._params import check_params
from stages._scores import bleu_statistics, bootstrap_weights, corpus_score
from stages.ladder import ladder

PUBS = [example(name, food, dogs) for name in NAMES for food in FOODS for dogs in ("yes", "no")]
SFT = {"method": "sft"}
SWEEP = {"0.001": 2.0, "0.002": 1.5}


def settings(**recipes):
    sections = {"distill": {"recipes": recipes}, "ladder": {"resamples": 200}}
    return check_params(sections, Path("params.yaml"))


def texts(mistakes):
    """Answers to the pubs; the first `mistakes` ones keep silent about the food."""
    said = [pub["references"][0] for pub in PUBS]
    wrong = [pub["references"][0].replace(f" serves {pub['slots']['food']}", "") for pub in PUBS]
    return wrong[:mistakes] + said[mistakes:]


def write_answers(root, name, outputs, examples=PUBS, schema=SCHEMA):
    """One candidate's lines, by the writer of the evaluate stage."""
    answers = [{"text": text, "completion_tokens": 9} for text in outputs]
    parsed = SlotSchema.from_dict(schema) if schema else None
    result = score(settings(student={}, control=SFT).evaluate, examples, answers, parsed)
    _io.write_jsonl(root / "evaluate" / f"{name}.jsonl", per_prompt_rows(examples, result))


def write_training(root, name, **changes):
    facts = {"parameters": 1000, "training_tokens": 5000, "steps": 100, "seconds": 10.0}
    fidelity = {"top1_agreement": 0.8, "mean_kl": 0.2, "tokens": 50, "by_position": []}
    calibration = {"ece": 0.1, "nats_per_token": 0.5, "tokens": 50}
    facts |= {"init": "prune", "sweep": SWEEP, "fidelity": fidelity, "calibration": calibration}
    _io.write_json(root / "distill" / name / "distill.json", facts | changes)


def paths(root):
    """Inputs and outputs; what is the same in every test is written here."""
    write_store(root / "labels")
    _io.write_json(root / "teacher.json", {"source": "scratch", "parameters": 4000, "seconds": 60})
    if not (root / "slots.json").is_file():
        _io.write_json(root / "slots.json", SCHEMA)
    inputs = {"evaluate": root / "evaluate", "distill": root / "distill"}
    inputs |= {"teacher": root / "teacher.json", "slots": root / "slots.json"}
    return {**inputs, "labels": root / "labels" / "index.json"}, {"reports": root / "ladder"}


def run(root, mistakes, params=None, **training):
    """Write candidates with so many mistakes each, run the stage, return ladder.json."""
    for name, number in {"teacher": 0, **mistakes}.items():
        write_answers(root, name, texts(number))
        write_training(root, name, **training.get(name, {}))
    ladder(params or settings(student={}, control=SFT), *paths(root))
    return json.loads((root / "ladder" / "ladder.json").read_text(encoding="utf-8"))


def three_seeds(**others):
    recipes = {"student": {}, "control": SFT, **others}
    for seed in (1, 2):
        recipes |= {f"s{seed}": {"seed_offset": seed}, f"c{seed}": {**SFT, "seed_offset": seed}}
    return settings(**recipes)


def test_the_gain_of_answers_cut_in_half_is_known(tmp_path):
    # Five of ten tokens, all right: precision 1, brevity penalty exp(1 - 10 / 5) = 1 / e.
    examples = [
        {"id": str(n), "prompt": "p", "references": ["a b c d e f g h i j"]} for n in range(9)
    ]
    for name in ("teacher", "student", "control"):
        said = "a b c d e" if name == "control" else "a b c d e f g h i j"
        write_answers(tmp_path, name, [said] * 9, examples, schema=None)
        write_training(tmp_path, name)
    _io.write_json(tmp_path / "slots.json", None)
    metrics = ladder(settings(student={}, control=SFT), *paths(tmp_path))
    assert metrics["control_bleu"] == pytest.approx(100 / math.e)
    assert metrics["kd_gain"] == pytest.approx(100 - 100 / math.e)
    assert metrics["kd_gain_low"] == pytest.approx(metrics["kd_gain_high"])
    report = json.loads((tmp_path / "ladder" / "ladder.json").read_text(encoding="utf-8"))
    assert not [key for key in (*report, *report["student"]) if "slot" in key]


def test_slot_errors_are_those_of_the_answers(tmp_path):
    report = run(tmp_path, {"student": 12, "control": 48})
    assert report["control"]["slot_error_rate"]["score"] == pytest.approx(1 / 3)
    assert report["student"]["slot_error_rate"]["score"] == pytest.approx(1 / 12)
    assert report["kd_gain_slot_error_rate"]["score"] == pytest.approx(1 / 12 - 1 / 3)
    to_teacher = report["student_to_teacher"]
    assert to_teacher["slot_error_rate_delta"]["score"] == pytest.approx(1 / 12)
    assert to_teacher["parameters_ratio"] == 0.25
    expected = report["student"]["bleu"]["score"] / 100  # the teacher makes no mistake
    assert to_teacher["bleu_ratio"]["score"] == pytest.approx(expected)


def test_a_single_run_scores_as_in_evaluate(tmp_path):
    report = run(tmp_path, {"student": 12, "control": 48})
    statistics = bleu_statistics(texts(12), [pub["references"] for pub in PUBS])
    seed = settings(student={}, control=SFT).seed
    expected = corpus_score(statistics, bootstrap_weights(len(PUBS), 200, seed), 0.95)
    found = report["student"]["bleu"]
    assert [found[key] for key in ("score", "low", "high")] == pytest.approx(
        [expected.score, expected.low, expected.high]
    )
    assert found["signature"].startswith(expected.signature)


def test_three_seeds_each_that_win_are_called_distilled(tmp_path):
    mistakes = {"student": 10, "s1": 11, "s2": 12, "control": 40, "c1": 41, "c2": 42}
    report = run(tmp_path, mistakes, three_seeds(), s1={"seconds": 40.0})
    assert report["verdict"] == "distilled"
    assert report["kd_gain"]["low"] > 0
    assert report["kd_gain"]["seeds"] == report["student"]["seeds"] == 3
    assert report["student"]["recipes"] == ["student", "s1", "s2"]
    assert report["student"]["seconds"] == 20.0
    by_seed = report["student"]["bleu"]["by_seed"]
    assert report["student"]["bleu"]["score"] == pytest.approx(sum(by_seed) / 3)
    assert len(set(by_seed)) == 3


def test_a_win_on_one_seed_is_no_claim(tmp_path):
    report = run(tmp_path, {"student": 0, "control": 40})
    assert report["kd_gain"]["low"] > 0
    assert report["verdict"] == "won_without_seeds"
    assert report["reason"].endswith("but a claim needs 3 seeds on each side.")


def test_an_unfair_control_is_named(tmp_path):
    report = run(tmp_path, {"student": 0, "control": 40}, control={"steps": 50, "init": "scratch"})
    assert report["verdict"] == "won_unfairly"
    assert report["not_shared"] == [
        "initialisation: student prune, control scratch",
        "steps: student 100, control 50",
    ]
    assert report["not_shared"][1] in report["reason"]


def test_equal_answers_show_no_gain(tmp_path):
    report = run(tmp_path, {"student": 10, "control": 10})
    gain = report["kd_gain"]
    assert gain["low"] <= gain["score"] == 0.0 <= gain["high"]
    assert report["verdict"] == "inconclusive"


def test_a_student_that_is_worse_has_lost(tmp_path):
    report = run(tmp_path, {"student": 40, "control": 0})
    assert report["kd_gain"]["high"] < 0
    assert report["verdict"] == "lost"


def test_every_rung_has_its_figures_and_its_row(tmp_path):
    params = settings(student={}, texts={"method": "seqkd"}, control=SFT, unseen={"alpha": 0.9})
    report = run(tmp_path, {"student": 4, "texts": 8, "control": 16}, params)
    assert [(step["from"], step["to"]) for step in report["steps"]] == [
        ("control", "texts"),
        ("texts", "student"),
    ]
    gains = [step["bleu"]["score"] for step in report["steps"]]
    assert sum(gains) == pytest.approx(report["kd_gain"]["score"])
    assert report["texts"]["fidelity"] == {"top1_agreement": 0.8, "mean_kl": 0.2, "tokens": 50}
    assert report["teacher"]["fidelity"] is None
    assert "unseen" not in report  # it was not evaluated
    rows = list(csv.DictReader((tmp_path / "ladder" / "ladder.csv").open(encoding="utf-8")))
    assert [row["rung"] for row in rows] == ["control", "texts", "student", "teacher"]
    for row in rows:
        assert float(row["bleu"]) == pytest.approx(report[row["rung"]]["bleu"]["score"], abs=1e-4)


def test_labels_are_counted_as_in_their_store(tmp_path):
    report = run(tmp_path, {"student": 0, "control": 0})
    totals = json.loads((tmp_path / "labels" / "index.json").read_text(encoding="utf-8"))["totals"]
    assert report["labels"]["kept"] == totals["labels"] == 8
    assert report["labels"]["rejected_by_reason"] == {"empty": 2, "unfinished": 2}
    assert report["labels"]["bytes_per_token"] == totals["bytes_per_token"]


def test_the_order_of_candidates_changes_nothing(tmp_path):
    mistakes = {"student": 10, "s1": 20, "s2": 15, "control": 30, "c1": 12, "c2": 40}
    first = run(tmp_path / "a", mistakes, three_seeds())
    recipes = three_seeds().distill.recipes
    turned = {name: recipes[name].model_dump() for name in reversed(recipes)}
    second = run(tmp_path / "b", dict(reversed(mistakes.items())), settings(**turned))
    assert first == second


def test_the_same_files_give_the_same_report(tmp_path):
    for name in ("a", "b"):
        run(tmp_path / name, {"student": 10, "control": 20})
    for name in ("ladder.json", "ladder.csv"):
        first, second = ((tmp_path / run / "ladder" / name).read_bytes() for run in ("a", "b"))
        assert first == second


def test_prompts_that_are_no_records_bring_their_slots(tmp_path):
    for name in ("teacher", "student", "control"):
        write_answers(tmp_path, name, texts(16))
        write_training(tmp_path, name)
        lines = _io.read_jsonl(tmp_path / "evaluate" / f"{name}.jsonl")
        told = [
            line | {"prompt": "Tell me of a pub.", "slots": pub["slots"]}
            for line, pub in zip(lines, PUBS, strict=True)
        ]
        _io.write_jsonl(tmp_path / "evaluate" / f"{name}.jsonl", told)
    ladder(settings(student={}, control=SFT), *paths(tmp_path))
    report = json.loads((tmp_path / "ladder" / "ladder.json").read_text(encoding="utf-8"))
    assert report["student"]["slot_error_rate"]["score"] == pytest.approx(1 / 9)


def test_a_teacher_of_unknown_size_has_no_ratio_of_sizes(tmp_path):
    run(tmp_path, {"student": 0, "control": 0})
    inputs, outputs = paths(tmp_path)
    _io.write_json(inputs["teacher"], {"source": "endpoint"})
    ladder(settings(student={}, control=SFT), inputs, outputs)
    report = json.loads((tmp_path / "ladder" / "ladder.json").read_text(encoding="utf-8"))
    assert report["student_to_teacher"]["parameters_ratio"] is None
    assert report["teacher"]["parameters"] is None


def test_a_missing_student_ends_in_one_line(tmp_path):
    for name in ("teacher", "control"):
        write_answers(tmp_path, name, texts(0))
    with pytest.raises(
        StillhouseError, match=r"lacks student\.jsonl \(found: control, teacher\)"
    ) as e:
        ladder(settings(student={}, control=SFT), *paths(tmp_path))
    assert "\n" not in str(e.value)


def test_answers_to_other_prompts_are_not_compared(tmp_path):
    run(tmp_path, {"student": 0, "control": 0})
    path = tmp_path / "evaluate" / "student.jsonl"
    _io.write_jsonl(path, _io.read_jsonl(path)[1:])
    with pytest.raises(StillhouseError, match=r"\(47 prompts\) is about other prompts"):
        ladder(settings(student={}, control=SFT), *paths(tmp_path))


def test_a_recipe_may_not_be_called_like_a_part_of_the_report(tmp_path):
    with pytest.raises(StillhouseError, match=r"steps: ladder\.json uses this name"):
        run(tmp_path, {"student": 0, "control": 0}, settings(student={}, control=SFT, steps={}))
