"""The drift stage on windows written by hand: what it finds, what it says it rests on."""

import random
from dataclasses import replace

import pytest
from drift_cases import BASELINE, STUDENT, Case, answer_to, live_row, pubs

from serving._cascade.route import Rung
from serving.errors import StillhouseError
from stages import _io
from stages.drift import drift

CHANGED = ["sushi", "ramen", "tacos", "mochi"]


def run(case):
    drift(case.params(), *case.paths())
    return case.report()


def usual(number=120, seed="window"):
    return [live_row(pub, n, seed) for n, pub in enumerate(pubs(number, seed))]


def with_new_foods(share, number=120):
    """A window of which a share asks for foods that nobody ever asked for."""
    rows, new = usual(number), pubs(number, "new", foods=CHANGED)
    changed = round(share * number)
    return [live_row(pub, n) for n, pub in enumerate(new[:changed])] + rows[changed:]


def alarms(report):
    return {one["name"] for one in report["detectors"] if one["alarm"]}


def test_a_window_like_the_reference_is_no_drift(tmp_path):
    case = Case(tmp_path)
    case.freeze(usual())
    report = run(case)
    assert report["verdict"] == "no_evidence"
    assert alarms(report) == set()
    assert report["top_features"] == []
    assert report["verdicts"] == dict.fromkeys(("input", "output", "quality"), "no_evidence")


def test_new_values_are_input_drift_and_named(tmp_path):
    case = Case(tmp_path)
    case.freeze(with_new_foods(0.4))
    report = run(case)
    assert (report["verdict"], report["verdicts"]["input"]) == ("drift", "drift")
    assert report["verdicts"]["quality"] != "drift"
    assert "slot_values.food" in alarms(report)
    assert "values_outside_schema" in alarms(report)
    assert "slots_not_in_training" in {one["name"] for one in report["top_features"][:4]}
    evidence = case.report("evidence.json")
    assert evidence["slots"][0]["slot"] == "food"
    assert {value for value, _ in evidence["slots"][0]["new_values"]} == set(CHANGED)
    assert set(CHANGED) & {one["term"] for one in evidence["words"]["current"]}
    assert sum(count for _, count in evidence["schema"]["values_not_listed"]) == 48


def test_examples_are_the_prompts_that_differ_most(tmp_path):
    case = Case(tmp_path, examples=3)
    case.freeze(with_new_foods(0.4))
    run(case)
    examples = case.report("evidence.json")["examples"]
    assert len(examples["current"]) == len(examples["reference"]) == 3
    assert all(any(food in one["prompt"] for food in CHANGED) for one in examples["current"])


def test_slot_errors_are_quality_drift_while_the_input_is_as_it_was(tmp_path):
    case = Case(tmp_path)
    case.freeze([row | {"slot_errors": int(n % 3 == 0)} for n, row in enumerate(usual())])
    report = run(case)
    assert report["verdicts"] == {
        "input": "no_evidence",
        "output": "no_evidence",
        "quality": "drift",
    }
    assert alarms(report) == {"answers_with_slot_errors"}
    detail = next(one for one in report["detectors"] if one["alarm"])["detail"]
    assert (detail["reference"], detail["current"]) == (0.0, pytest.approx(1 / 3))


def test_a_model_that_grows_unsure_is_output_drift(tmp_path):
    case = Case(tmp_path)
    case.freeze([row | {"mean_logprob": row["mean_logprob"] - 0.2} for row in usual()])
    report = run(case)
    assert report["verdicts"]["output"] == "drift"
    assert alarms(report) == {"mean_logprob"}


def test_too_few_different_prompts_say_so_however_many_rows(tmp_path):
    case = Case(tmp_path)
    pub = pubs(1, "one")[0]
    case.freeze([live_row(pub, number) for number in range(200)])
    report = run(case)
    assert report["verdict"] == "too_few_rows"
    assert set(report["verdicts"].values()) == {"too_few_rows"}
    assert report["rests_on"]["window"]["different"] == 1
    assert "found 200 different reference prompts and 1 in" in report["not_compared"][0]["reason"]


def test_an_empty_window_has_too_few_rows(tmp_path):
    case = Case(tmp_path)
    case.freeze([])
    assert run(case)["verdict"] == "too_few_rows"


def test_repeats_of_a_few_prompts_are_no_drift_by_themselves(tmp_path):
    case = Case(tmp_path)
    rows = usual(60)
    often = [row | {"id": f"again-{n}"} for n, row in enumerate(rows[:1] * 60)]
    case.freeze(rows + often)
    report = run(case)
    assert report["verdict"] == "no_evidence"
    assert report["rests_on"]["window"]["different"] == 60


def test_rows_without_text_are_compared_by_their_figures(tmp_path):
    case = Case(tmp_path)
    hidden = {"prompt": None, "slots": None, "answer": None}
    case.freeze([row | hidden | {"slot_errors": int(n % 3 == 0)} for n, row in enumerate(usual())])
    report = run(case)
    assert report["verdicts"]["quality"] == "drift"
    assert report["rests_on"]["window"]["without_text"] == 120
    assert any("120 rows of the window have no text" in line for line in report["rests_on"]["said"])
    reasons = {one["name"]: one["reason"] for one in report["not_compared"]}
    assert reasons["prompt_classifier"] == "no text in the window"
    assert "prompt_chars" in {one["name"] for one in report["detectors"]}


def test_answers_of_another_model_are_not_compared(tmp_path):
    case = Case(tmp_path)
    case.freeze([row | {"model_sha256": "0" * 64, "slot_errors": 3} for row in usual()])
    report = run(case)
    assert report["verdicts"] == {
        "input": "no_evidence",
        "output": "not_compared",
        "quality": "not_compared",
    }
    assert any(
        line.startswith("120 rows of the window were") for line in report["rests_on"]["said"]
    )


def test_another_language_is_drift_of_the_whole_prompt(tmp_path):
    case = Case(tmp_path)
    rows = usual()
    for row in rows:
        row["prompt"] = f"Wo gibt es {row['slots']['food']} bei uns in der Nähe, {row['id']}?"
        row |= {"slots": None, "slot_names": None, "prompt_chars": len(row["prompt"])}
    case.freeze(rows)
    report = run(case)
    assert {"prompt_classifier", "prompt_unseen_words"} <= alarms(report)
    assert "wo" in {one["term"] for one in case.report("evidence.json")["words"]["current"]}


def test_what_a_window_could_not_use_is_named(tmp_path):
    case = Case(tmp_path)
    bad = {"file": "x.parquet", "row_group": None, "rows": None, "reason": "not Parquet <b>"}
    case.freeze(usual(), rejected=[bad])
    report = run(case)
    assert report["rejected"] == {"entries": 1, "first": [bad]}
    assert "not used of the window's sources: 1 files, 0 rows" in report["rests_on"]["said"]
    page = (tmp_path / "reports/drift/index.html").read_text(encoding="utf-8")
    assert "not Parquet &lt;b&gt;" in page


def test_a_damaged_window_says_what_to_do(tmp_path):
    case = Case(tmp_path)
    case.freeze(usual())
    (tmp_path / "data/windows/w/rows.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    with pytest.raises(StillhouseError, match=r"rows\.parquet"):
        run(case)


def test_the_same_window_gives_the_same_bytes(tmp_path):
    case = Case(tmp_path, calibration={"repeats": 2, "shift": 0.5})
    case.freeze(with_new_foods(0.3))
    names = ("drift.json", "evidence.json", "index.html")
    run(case)
    first = [(tmp_path / "reports/drift" / name).read_bytes() for name in names]
    run(case)
    assert [(tmp_path / "reports/drift" / name).read_bytes() for name in names] == first
    assert len(list((tmp_path / "scratch/drift").iterdir())) == 1


def test_a_live_window_is_compared_with_what_the_cascade_would_answer(tmp_path):
    case = Case(tmp_path)
    case.answer("baseline", BASELINE)
    path = tmp_path / "data/answers/baseline.calibration.jsonl"
    rows = _io.read_jsonl(path)
    for number, row in enumerate(rows):  # sure of every second
        row |= {"confidence": 0.9 - 0.5 * (number % 2), "mean_logprob": None, "min_logprob": None}
    _io.write_jsonl(path, rows)
    baseline = Rung("baseline", "local", 0.8, "confidence", BASELINE)
    case.route(baseline, Rung("student", "local", None, "mean_logprob", STUDENT))
    live = usual()
    none = {"mean_logprob": None, "min_logprob": None, "confidence": 0.9}
    live = [r | none | {"rung": "baseline", "model_sha256": BASELINE} for r in live[:60]] + live[
        60:
    ]
    case.freeze(live)
    report = run(case)
    assert report["verdict"] == "no_evidence"
    assert report["rests_on"]["reference"]["answered_by"] == "the cascade of baseline, student"
    assert "rung" in {one["name"] for one in report["detectors"]}
    case.freeze(usual(), name="all-student")
    case.drift["window"] = "all-student"
    assert "rung" in alarms(run(case))


def test_a_planted_window_is_compared_with_the_winner_alone(tmp_path):
    case = Case(tmp_path)
    case.freeze(usual(), planted={"scenario": ["units"], "share": 0.0})
    report = run(case)
    assert report["rests_on"]["reference"]["answered_by"] == "the winner student"


def test_an_earlier_window_can_be_the_reference(tmp_path):
    case = Case(tmp_path, reference="before")
    case.freeze(usual(150, "before"), name="before")
    case.freeze([row | {"cache": "memory"} for row in usual()])
    report = run(case)
    assert "cache" in alarms(report)
    case.drift["reference"] = "w"
    with pytest.raises(StillhouseError, match=r"both w\. Name an earlier window"):
        run(case)


def test_answers_of_another_model_than_the_winner_are_refused(tmp_path):
    case = Case(tmp_path)
    case.freeze(usual())
    _io.write_json(tmp_path / "data/answers/student.model.json", {"sha256": "0" * 64})
    with pytest.raises(StillhouseError, match="student answered as 000000000000, expected 5555"):
        run(case)


def test_more_rows_than_are_compared_are_sampled_and_counted(tmp_path):
    case = Case(tmp_path, max_rows_per_side=60)
    case.freeze(usual(150))
    said = run(case)["rests_on"]["said"]
    assert said[0].startswith("window w: 60 of 150 rows, sampled, 60 different prompts")
    assert "60 of 200 rows, sampled" in said[1]


def test_too_few_permutations_for_so_many_tests_are_said(tmp_path):
    case = Case(tmp_path, permutations=199)
    case.freeze(usual())
    report = run(case)
    tests = len(report["detectors"])
    assert tests >= 10  # 10 / 200 is alpha
    last = report["rests_on"]["said"][-1]
    assert last == (
        f"with 199 permutations one drifted feature among {tests} tests cannot raise an alarm: set "
        f"drift.permutations to {80 * tests}"
    )


def test_evidently_that_is_not_installed_is_said(tmp_path):
    pytest.importorskip("stages._drift.evidently_report")
    case = Case(tmp_path, evidently=True)
    case.freeze(usual())
    try:
        import evidently  # noqa: F401
    except ImportError:
        with pytest.raises(StillhouseError, match=r"pip install -e .\[drift\]"):
            run(case)


def test_a_checked_score_counts_what_the_service_would_find(tmp_path):
    case = Case(tmp_path)
    rng = random.Random(0)
    rows = [answer_to(pub, rng, wrong=n < 100) for n, pub in enumerate(case.calibration)]
    _io.write_jsonl(tmp_path / "data/answers/student.calibration.jsonl", rows)
    case.answer("teacher", BASELINE)
    first = Rung("student", "local", -50.0, "checked", STUDENT)
    case.route(first, replace(first, name="teacher", threshold=None, model_sha256=BASELINE))
    case.freeze(usual())
    shares = next(one for one in run(case)["detectors"] if one["name"] == "rung")["detail"][
        "shares"
    ]
    assert {name: before for name, before, _ in shares} == {"student": 0.5, "teacher": 0.5}
