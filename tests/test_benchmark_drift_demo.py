"""The demo's figures, its steps, and the files that scale is measured with."""

import pytest
from toy import SCHEMA

from benchmarks._drift_demo_figures import conclude, find_planted, slot_errors, table
from benchmarks._drift_demo_project import Demo
from benchmarks._drift_demo_service import draw_prompts
from benchmarks._drift_scale_files import write_live
from benchmarks._drift_steps import peak_mb
from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages._windows.choosing import Asked
from stages._windows.reading import sample_rows, summarise
from stages.window import window

TOP = [{"name": name} for name in ("prompt_classifier", "slot_values.service", "slot_values.value")]


def test_new_services_and_new_units_must_both_be_named():
    found = find_planted(TOP, ["drone api", "turbine", "the"])
    assert found["right"]
    assert found["new_words"] == ["drone", "turbine"]
    assert not find_planted(TOP[:2], ["drone"])["right"]
    assert not find_planted(TOP, ["checkout"])["right"]


def right_and_wrong():
    """Two prompts, the second of which is answered wrongly before and rightly after."""
    rows = [{"slots": {"name": name, "food": "pizza"}} for name in ("Alpha", "Beta")]
    said = [f"{row['slots']['name']} serves pizza." for row in rows]
    return rows, {"before": [said[0], "Beta serves sushi."], "after": said}


def test_slot_errors_are_per_slot_and_compared_prompt_by_prompt():
    rows, answers = right_and_wrong()
    found = slot_errors(rows, answers, SlotSchema.from_dict(SCHEMA))
    assert found["before"]["score"] > 0.0
    assert found["after"]["score"] == 0.0
    assert found["difference"]["score"] == -found["before"]["score"]
    assert found["prompts"] == 2


def test_without_an_after_there_is_no_difference():
    rows, answers = right_and_wrong()
    found = slot_errors(rows, {"before": answers["before"]}, SlotSchema.from_dict(SCHEMA))
    assert "difference" not in found
    assert table({"cascade": {"new": found}})[1].endswith("-")


def score(middle, half=0.01):
    return {"score": middle, "low": middle - half, "high": middle + half}


ERRORS = {
    "cascade": {
        "new": {"before": score(0.2), "after": score(0.06), "difference": score(-0.14)},
        "old": {"before": score(0.05), "after": score(0.05), "difference": score(0.0)},
    }
}


def test_all_is_said_to_be_as_it_should_be_only_where_it_is():
    right = find_planted(TOP, ["drone"])
    good = conclude(right, "no_evidence", "drift", "promoted", ERRORS)
    assert len(good) == 7
    assert all(line.startswith("as it should be") for line in good)
    bad = conclude(right, "drift", "drift", "refused", ERRORS)
    assert [line.startswith("NOT") for line in bad] == [True, False, False, True]


def test_an_old_slice_that_got_worse_is_said():
    old = ERRORS["cascade"]["old"] | {"difference": score(0.03)}
    worse = {"cascade": {**ERRORS["cascade"], "old": old}}
    told = conclude(find_planted(TOP, ["drone"]), "no_evidence", "drift", "promoted", worse)
    assert [line for line in told if line.startswith("NOT")] == [told[-1]]


def test_a_step_is_done_once_and_one_that_failed_is_done_again(tmp_path):
    demo, times = Demo(tmp_path, tmp_path / "demo"), []

    def fail_first(_):
        times.append(1)
        if len(times) == 1:
            raise StillhouseError("not yet")
        return {"found": len(times)}

    with pytest.raises(StillhouseError):
        demo.step("one", fail_first)
    assert demo.step("one", fail_first)["found"] == 2
    assert demo.step("one", fail_first)["found"] == 2
    assert len(times) == 2


def test_drifted_prompts_are_all_changed_and_both_scenarios_take_turns():
    drawn = draw_prompts(1, 20, 1.0)
    assert {row["meta"]["drift"] for row in drawn} == {"services", "units"}
    assert not any("drift" in row["meta"] for row in draw_prompts(1, 20, 0.0))


def test_made_up_live_records_freeze_into_a_window_that_can_be_sampled(tmp_path):
    write_live(tmp_path, 60, seed=1)
    made = window(tmp_path / "live", tmp_path / "windows", Asked())
    assert (made.info["rows"], made.info["rows_with_text"]) == (60, 60)
    rows, _ = sample_rows(made.folder, 10, seed=1)
    assert all(row["prompt"] and row["slots"] and row["mean_logprob"] < 0.0 for row in rows)
    assert summarise(made.folder)["missing"]["slot_errors"] == 0.0
    assert peak_mb() > 10.0
