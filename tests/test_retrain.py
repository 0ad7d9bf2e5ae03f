"""`make retrain`: once per window, by the rules, against what serves."""

from datetime import timedelta

import pytest
from retrain_cases import NOW, PARAMS, RULES, Pipeline, Project, asked, go, watched, write_drift
from select_cases import write_model
from window_cases import write_window

from serving.contract import digest
from serving.errors import StillhouseError
from stages import _io
from stages._params.retrain import Retrain
from stages._params.watch import Watch
from stages._retraining.records import append_line, read_attempts
from stages._retraining.verdicts import read_ending
from stages.retrain import Settings
from stages.watch import watch

WON = {"winners": {"cpu": "student"}}


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_what_learned_the_window_is_promoted(project):
    folder = watched(project)
    _io.write_json(project.root / "reports/select/decision.json", {"of": "an earlier run"})
    pipeline = Pipeline(project)
    assert go(project, pipeline) == ("promoted", "because")
    [params] = pipeline.params
    use = params.prepare.windows[folder.name]
    assert (use.gold, use.prompts) == ("held_out", 2000)
    assert use.gold_sha256 == _io.sha256_file(folder / "gold.jsonl")
    assert use.content_sha256 == _io.read_json(folder / "window.json")["content_sha256"]
    assert params.answer.candidates["incumbent"] == "models/incumbent"
    assert digest(project.root / "models/incumbent") == project.released
    assert project.params() == params
    assert "# kept" in (project.root / "params.yaml").read_text()
    [attempt] = read_attempts(project.windows)
    assert (attempt.window, attempt.ending, attempt.started) == (folder.name, "promoted", NOW)
    report = _io.read_json(project.root / f"reports/retrain/{folder.name}/retrain.json")
    assert (report["ending"], report["incumbent_sha256"]) == ("promoted", project.released)
    assert report["teacher"]["verdict"] == "not_measured"


@pytest.mark.parametrize("despite", ["", "I insist"])
@pytest.mark.parametrize("verdict", ["replace", "keep"])
def test_the_same_window_twice_does_nothing_twice(project, verdict, despite):
    watched(project)
    pipeline = Pipeline(project, verdict)
    go(project, pipeline)
    files = {path: path.read_bytes() for path in project.root.rglob("*") if path.is_file()}
    assert go(project, pipeline, now=NOW + timedelta(days=90), despite=despite) == "nothing"
    assert len(pipeline.params) == 1
    assert {p: p.read_bytes() for p in project.root.rglob("*") if p.is_file()} == files


@pytest.mark.parametrize(
    ("window", "expected"),
    [({"verdict": "no_evidence"}, "nothing"), ({"gold": 0}, "no_new_labels")],
)
def test_without_a_reason_the_rules_hold_and_with_one_they_do_not(project, window, expected):
    watched(project, **window)
    pipeline = Pipeline(project)
    assert go(project, pipeline) == expected
    assert (project.root / "params.yaml").read_text() == PARAMS
    assert not (project.root / "models/incumbent").exists()
    assert go(project, pipeline, despite="the new product starts today").ending == "promoted"
    lines = _io.read_jsonl(project.windows / "retrainings.jsonl")
    assert {line["despite"] for line in lines} == {"the new product starts today"}


def test_another_window_than_the_newest_takes_a_reason(project):
    old, _ = watched(project), watched(project, start=100)
    pipeline = Pipeline(project)
    assert go(project, pipeline, window=old.name) == "nothing"
    assert go(project, pipeline, window=old.name, despite="it was missed").ending == "promoted"
    assert list(pipeline.params[0].prepare.windows) == [old.name]


def test_a_window_that_nobody_watched_is_refused_without_a_name(project):
    project.window()
    with pytest.raises(StillhouseError, match="no window was watched yet"):
        go(project, Pipeline(project))


def test_windows_of_earlier_retrainings_stay(project):
    first = watched(project)
    go(project, Pipeline(project))
    second = watched(project, start=100)
    pipeline = Pipeline(project)
    assert go(project, pipeline, now=NOW + timedelta(days=2)).ending == "promoted"
    assert list(pipeline.params[0].prepare.windows) == [first.name, second.name]


def test_more_gold_makes_a_refused_window_worth_another_attempt(project):
    folder = watched(project)
    go(project, Pipeline(project, "keep"))
    gold = _io.read_jsonl(folder / "gold.jsonl")
    _io.write_jsonl(folder / "gold.jsonl", [*gold, {"id": "row-000050", "references": ["Yes."]}])
    pipeline = Pipeline(project)
    assert go(project, pipeline, now=NOW + timedelta(hours=1)) == "cooling_down"
    assert go(project, pipeline, now=NOW + timedelta(days=2)).ending == "promoted"


def test_before_the_first_release_there_is_nothing_to_retrain_against(project):
    watched(project)
    _io.write_json(project.root / "releases/current.json", {})
    with pytest.raises(StillhouseError, match="Run: make release"):
        go(project, Pipeline(project))


def test_a_model_in_force_that_is_not_in_its_folder_is_told_with_the_way_to_get_it(project):
    watched(project)
    write_model(project.root / "models/student", "another")
    with pytest.raises(StillhouseError, match="models/student does not hold it"):
        go(project, Pipeline(project))
    assert (project.root / "params.yaml").read_text() == PARAMS


def test_an_incumbent_that_is_there_already_does_for_a_student_that_is_not(project):
    watched(project)
    write_model(project.root / "models/incumbent", "student")
    write_model(project.root / "models/student", "the refused one")
    assert go(project, Pipeline(project)).ending == "promoted"


def test_the_planted_window_is_copied_before_the_pipeline_makes_it_again(project):
    folder = write_window(project.windows / "planted", [asked(n) for n in range(60)])
    write_drift(project.root, folder)
    rules = Watch(windows=1, alarms=1, min_gold=0)
    name = watch(project.root, "planted", rules, 20, NOW).window
    pipeline = Pipeline(project)
    assert go(project, pipeline, Settings(Retrain(), rules, 20)).ending == "promoted"
    assert list(pipeline.params[0].prepare.windows) == [name]
    assert _io.read_json(project.windows / name / "window.json")["id"] == name
    copied = (project.windows / name / "rows.parquet").read_bytes()
    assert copied == (folder / "rows.parquet").read_bytes()
    again = {"window": "planted", "despite": "I insist"}
    assert go(project, pipeline, Settings(Retrain(), rules, 20), **again) == "nothing"


def test_the_planted_window_has_its_full_name_however_it_is_asked_for(project):
    folder = write_window(project.windows / "planted", [asked(n) for n in range(60)])
    write_drift(project.root, folder)
    name = watch(project.root, "planted", RULES, 20, NOW).window
    pipeline = Pipeline(project)
    assert go(project, pipeline, window="planted", despite="a trial").ending == "promoted"
    assert list(pipeline.params[0].prepare.windows) == [name] != ["planted"]


def test_a_window_with_an_empty_file_of_gold_is_not_taken_twice(project):
    folder = project.window(gold=0)
    (folder / "gold.jsonl").touch()
    write_drift(project.root, folder)
    rules = RULES.model_copy(update={"min_gold": 0, "cool_down_hours": 0.0})
    watch(project.root, folder.name, rules, 20, NOW)
    settings, pipeline = Settings(Retrain(), rules, 20), Pipeline(project, "keep")
    assert go(project, pipeline, settings).ending == "refused"
    assert go(project, pipeline, settings, NOW + timedelta(hours=1)) == "nothing"
    assert len(pipeline.params) == 1


@pytest.mark.parametrize(
    ("decision", "code", "expected"),
    [
        (None, 0, "failed"),
        ({"winners": {"cpu": None}, "reason": "r"}, 1, "refused"),
        (
            {"winners": {"cpu": "student"}, "incumbent": {"cpu": {"verdict": "replace"}}},
            0,
            "promoted",
        ),
        (
            {"winners": {"cpu": "student"}, "incumbent": {"cpu": {"verdict": "replace"}}},
            1,
            "failed",
        ),
        (WON | {"incumbent": {"cpu": {"verdict": "keep"}}}, 0, "refused"),
        (WON | {"incumbent": None}, 0, "refused"),
    ],
)
def test_how_it_ended_is_read_from_what_select_left(tmp_path, decision, code, expected):
    if decision is not None:
        _io.write_json(tmp_path / "reports/select/decision.json", decision)
    assert read_ending(tmp_path, code).ending == expected


def test_an_attempt_of_another_window_is_no_reason_against_this_one(project):
    folder = watched(project)
    line = {"window": "other", "last": "2026-01-01", "started": "2026-01-02", "gold_sha256": None}
    append_line(project.windows / "retrainings.jsonl", line | {"outcome": "refused"})
    assert go(project, Pipeline(project)).ending == "promoted"
    assert read_attempts(project.windows)[1].window == folder.name
