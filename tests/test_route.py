"""The route stage on answers written by hand: thresholds, costs, and what is refused."""

import json

import pytest
from route_cases import PATHS, PROMPTS, Case
from toy import SCHEMA

from serving._cascade.route import check_route, read_route
from serving.errors import StillhouseError
from stages import _io
from stages.route import route


def run(case):
    return route(case.params(), *case.paths())


def made(case):
    return read_route(case.root / "models" / "route.json")


def rungs(case):
    return {row["rung"]: row for row in case.report()["rungs"]}


def test_every_rung_answers_what_it_is_sure_enough_of(tmp_path):
    case = Case(tmp_path)
    metrics = run(case)
    found = {rung.name: rung for rung in made(case).rungs}
    assert list(found) == ["baseline", "student", "teacher"]
    assert metrics["alpha"] == pytest.approx(12 / 240 + 0.01)
    assert -125 < found["baseline"].threshold < -100
    assert found["teacher"].threshold is None
    assert sum(metrics["accepted_share"].values()) == pytest.approx(1.0)
    assert [rung.place for rung in found.values()] == ["local"] * 3


def test_the_second_rung_is_calibrated_on_what_the_first_leaves(tmp_path):
    case = Case(tmp_path)
    run(case)
    rows = rungs(case)
    assert rows["baseline"]["asked"] == len(PROMPTS)
    assert rows["student"]["asked"] == len(PROMPTS) - rows["baseline"]["accepted"]
    assert rows["teacher"]["asked"] == rows["student"]["asked"] - rows["student"]["accepted"]
    for name in ("baseline", "student"):
        assert rows[name]["bound"] <= made(case).alpha
        assert rows[name]["level"] < made(case).delta / 2


def test_a_rung_that_can_show_nothing_is_left_out_with_the_reason(tmp_path, capsys):
    case = Case(tmp_path)
    case.add("baseline", range(0, 240, 3), "confidence")
    run(case)
    assert [rung.name for rung in made(case).rungs] == ["student", "teacher"]
    assert "errors, which shows a rate of at most" in made(case).unmet["baseline"]
    assert rungs(case)["baseline"]["accepted"] == 0
    assert "baseline: left out: its surest" in capsys.readouterr().out


def test_too_few_prompts_say_how_many_it_takes(tmp_path):
    case = Case(tmp_path, alpha=0.01)
    run(case)
    assert made(case).unmet["student"] == (
        "240 calibration prompts reach it, and it takes 368 without any error to show a rate of "
        "at most 1.00%"
    )


def test_the_expected_cost_is_of_every_model_that_is_asked(tmp_path):
    case = Case(tmp_path)
    metrics = run(case)
    rows = rungs(case)
    hour = 0.1 / 3600  # USD per second; 1, 10 and 100 ms per answer
    seconds = rows["baseline"]["asked"] * 0.001 + rows["student"]["asked"] * 0.01
    seconds += rows["teacher"]["asked"] * 0.1
    assert metrics["cost_per_1k_requests_usd"] == pytest.approx(1000 * hour * seconds / 240)
    assert metrics["all_teacher_cost_per_1k_requests_usd"] == pytest.approx(1000 * hour * 0.1)
    assert 0.5 < metrics["saved_share"] < 1.0


def test_the_expected_error_counts_the_answers_that_are_given(tmp_path):
    case = Case(tmp_path)
    metrics = run(case)
    errors = sum(row["errors"] for row in rungs(case).values())
    assert metrics["error_rate"]["score"] == pytest.approx(errors / 240)
    assert metrics["error_rate"]["low"] < errors / 240 < metrics["error_rate"]["high"]
    assert metrics["teacher_error_rate"] == 12 / 240


def test_prices_of_the_params_come_before_the_benchmark_s(tmp_path):
    price = {"usd_per_million_completion_tokens": 50.0, "usd_per_request": 0.001}
    case = Case(tmp_path, rungs={"teacher": {"price": price, "place": "remote"}})
    metrics = run(case)
    assert metrics["all_teacher_cost_per_1k_requests_usd"] == pytest.approx(2.0)  # of 20 tokens
    assert made(case).prices["teacher"].usd_per_hour == 0.0
    assert made(case).rungs[-1].place == "remote"


def test_what_was_not_measured_has_no_cost(tmp_path):
    case = Case(tmp_path)
    (tmp_path / "reports" / "benchmark" / "student.json").unlink()
    price = {"usd_per_hour": 0.1}
    case.route = {"rungs": {"student": {"price": price}}}
    metrics = run(case)
    assert metrics["cost_per_1k_requests_usd"] is None
    assert metrics["saved_share"] is None


def test_without_records_an_answer_unlike_its_references_is_wrong(tmp_path):
    case = Case(tmp_path, schema=None, similarity_floor=0.97)
    run(case)
    assert made(case).error == "similarity"
    assert case.report()["teacher_error_rate"]["errors"] == 12  # another food


def test_an_answer_is_wrong_by_its_record_or_by_the_references(tmp_path):
    case = Case(tmp_path, similarity_floor=0.97)
    path = tmp_path / "data" / "answers" / "teacher.calibration.jsonl"
    rows = _io.read_jsonl(path)
    rows[0]["text"] = "Eagle! The Eagle, where dogs are welcome, has fish and says so: fish, fish."
    _io.write_jsonl(path, rows)
    run(case)
    assert made(case).error == "either"
    assert case.report()["teacher_error_rate"]["errors"] == 13  # 12 say another food
    assert case.report()["similarity_floor"] == 0.97


def test_records_without_references_are_judged_by_slots_alone(tmp_path):
    case = Case(tmp_path)
    _io.write_jsonl(tmp_path / PATHS["calibration"], [pub | {"references": []} for pub in PROMPTS])
    run(case)
    assert made(case).error == "slots"
    assert case.report()["quality"] is None


def test_an_answer_that_the_check_finds_wrong_is_less_sure_than_all_others(tmp_path):
    case = Case(tmp_path, rungs={"baseline": None})
    wrong, rates = range(0, 60), {"8": 100.0}  # it is surest of what is wrong
    case.add("student", wrong, "min_logprob", requests_per_s=rates, schema=SCHEMA, scale=0.1)
    case.win("student")
    run(case)
    found = rungs(case)["student"]
    assert (found["score"], found["score_auroc"]) == ("checked", 1.0)
    assert 170 < found["accepted"] < 200 and made(case).rungs[0].threshold > -200
    case.route["rungs"]["student"] = {"score": "min_logprob"}
    run(case)
    assert rungs(case)["student"]["accepted"] == 0


def test_without_a_schema_in_the_contract_checked_is_the_least_log_probability(tmp_path):
    case = Case(tmp_path)
    run(case)
    first = made(case).rungs[1].threshold
    case.route = {"rungs": {"student": {"score": "min_logprob"}}}
    run(case)
    assert made(case).rungs[1].threshold == first


def test_the_answers_are_compared_with_the_teacher_s(tmp_path):
    case = Case(tmp_path)
    run(case)
    quality = case.report()["quality"]
    assert quality["prompts"] == len(PROMPTS)
    slots, errors = quality["slot_errors"], case.report()["expected"]["error_rate"]["score"]
    assert slots["cascade"]["score"] == pytest.approx(errors)
    assert slots["teacher"]["score"] == 12 / 240
    assert slots["difference"]["score"] == pytest.approx(errors - 12 / 240)
    assert quality["bleu"]["difference"]["low"] <= quality["bleu"]["difference"]["high"]
    assert quality["below_similarity_floor"]["teacher"]["score"] == 0.0


def test_a_teacher_left_out_is_calibrated_against_all_the_same(tmp_path):
    case = Case(tmp_path, rungs={"teacher": None}, otherwise="abstain")
    metrics = run(case)
    assert [rung.name for rung in made(case).rungs] == ["baseline", "student"]
    assert made(case).otherwise == "abstain"
    assert metrics["answered_share"] < 1.0


def test_a_score_that_answers_do_not_have_is_told_with_those_that_they_have(tmp_path):
    case = Case(tmp_path, rungs={"student": {"score": "confidence"}})
    with pytest.raises(StillhouseError, match=r"score is confidence.*all have: min_logprob"):
        run(case)
    assert not (tmp_path / "models" / "route.json").exists()


@pytest.mark.parametrize("name", ["baseline", "student", "teacher"])
def test_a_model_made_again_after_it_answered_is_refused(tmp_path, name):
    case = Case(tmp_path)
    answered = _io.read_json(tmp_path / "data" / "answers" / f"{name}.model.json")
    case.add(name, (), "min_logprob", revision="of another run")
    _io.write_json(tmp_path / "data" / "answers" / f"{name}.model.json", answered)
    with pytest.raises(StillhouseError, match=f"{name} was answered as") as error:
        run(case)
    assert "\n" not in str(error.value)


def test_a_winner_that_is_no_longer_there_is_refused(tmp_path):
    case = Case(tmp_path)
    case.add("student", (), "min_logprob", revision="of another run")
    with pytest.raises(StillhouseError, match=r"student was benchmarked as .*; student was chosen"):
        run(case)


def test_answers_to_other_prompts_are_refused(tmp_path):
    case = Case(tmp_path)
    path = tmp_path / "data" / "answers" / "teacher.calibration.jsonl"
    _io.write_jsonl(path, _io.read_jsonl(path)[1:])
    with pytest.raises(StillhouseError, match="239 answers for 240 prompts, 1 prompts have none"):
        run(case)


def test_no_rung_at_all_ends_in_one_line(tmp_path):
    case = Case(tmp_path, alpha=0.01, rungs={"teacher": None})
    with pytest.raises(StillhouseError, match=r"No model can answer anything \(baseline: 240"):
        run(case)


def test_the_route_belongs_to_the_models_it_was_made_for(tmp_path):
    case = Case(tmp_path)
    run(case)
    digests = {rung.name: rung.model_sha256 for rung in made(case).rungs}
    check_route(made(case), digests)
    names = {n: _io.read_json(tmp_path / "data/answers" / f"{n}.model.json") for n in digests}
    assert digests == {name: model["sha256"] for name, model in names.items()}


def test_the_curve_has_every_threshold_that_was_looked_at(tmp_path):
    case = Case(tmp_path)
    run(case)
    lines = (tmp_path / "reports/route/curve.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("rung,threshold,accepted")
    assert {line.split(",")[0] for line in lines[1:]} == {"baseline", "student"}
    assert len(lines) > 20


def test_the_same_files_give_the_same_bytes(tmp_path):
    case = Case(tmp_path)
    run(case)
    first = (tmp_path / "models" / "route.json").read_bytes()
    run(case)
    assert (tmp_path / "models" / "route.json").read_bytes() == first
    assert "params_hash" in json.loads(first)
