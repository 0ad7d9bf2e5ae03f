"""`make retrain` and back: what was refused, broke off or is taken back leaves nothing behind."""

from datetime import timedelta

import pytest
from retrain_cases import LEFT, NOW, PARAMS, SETTINGS, Pipeline, Project, go, watched

from serving.errors import StillhouseError
from stages._params.retrain import Retrain
from stages._retraining.records import read_attempts
from stages.retrain import Settings, undo


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def killed():
    raise KeyboardInterrupt


def fail(project, how, now=NOW):
    """An attempt that broke off, in the middle of the pipeline or of this program."""
    if how is killed:
        with pytest.raises(KeyboardInterrupt):
            go(project, killed, now=now)
    else:
        assert go(project, lambda: 1, now=now).ending == "failed"


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"winner": None, "code": 1}, "no one passes"), ({"verdict": "keep"}, "because")],
    ids=["forgets", "learned nothing"],
)
def test_a_refused_model_leaves_the_params_as_they_were(project, change, reason):
    watched(project)
    pipeline = Pipeline(project, **change)
    pipeline.decision["reason"] = reason
    assert go(project, pipeline) == ("refused", reason)
    assert (project.root / "params.yaml").read_text() == PARAMS
    assert not (project.root / "configs/retrained.yaml").exists()
    assert not any((project.root / name).exists() for name in LEFT)
    assert read_attempts(project.windows)[0].ending == "refused"


def test_a_pipeline_that_breaks_may_be_repeated_and_goes_on(project):
    watched(project)
    broken = Pipeline(project, code=130)
    broken.decision = None
    assert go(project, broken) == ("failed", "the pipeline ended with 130 before select")
    after = Pipeline(project, code=1)
    assert go(project, after, now=NOW + timedelta(hours=1)).ending == "failed"
    week = SETTINGS.watch.model_copy(update={"retrainings_per_week": 3})
    settings = Settings(Retrain(), week, 20)
    assert go(project, Pipeline(project), settings, NOW + timedelta(hours=2)).ending == "promoted"
    assert broken.params == after.params
    assert [one.ending for one in read_attempts(project.windows)] == ["failed"] * 2 + ["promoted"]


@pytest.mark.parametrize("how", [killed, "failed"])
def test_what_is_refused_after_an_attempt_that_broke_off_leaves_nothing_either(project, how):
    watched(project)
    fail(project, how)
    assert project.params().prepare.windows
    assert go(project, Pipeline(project, "keep"), now=NOW + timedelta(hours=1)).ending == "refused"
    assert (project.root / "params.yaml").read_text() == PARAMS
    assert not (project.root / "configs/retrained.yaml").exists()
    assert not any((project.root / name).exists() for name in LEFT)


def test_a_window_whose_attempt_failed_is_not_in_the_next_one_on_another(project):
    first = watched(project)
    fail(project, "failed")
    second = watched(project, start=100)
    pipeline = Pipeline(project)
    assert go(project, pipeline, now=NOW + timedelta(hours=1)).ending == "promoted"
    assert list(pipeline.params[0].prepare.windows) == [second.name] != [first.name]


@pytest.mark.parametrize("verdict", ["keep", "replace"])
def test_edits_that_a_person_made_since_are_kept(project, verdict):
    watched(project)
    fail(project, "failed")
    path = project.root / "params.yaml"
    path.write_text(path.read_text().replace("seed: 20", "seed: 21  # mended"))
    go(project, Pipeline(project, verdict), now=NOW + timedelta(hours=1))
    path.write_text(path.read_text() + "benchmark:\n  prompts: 30\n")
    undo(project.root)
    text = path.read_text()
    assert text.startswith("seed: 21  # mended\n")
    assert "source: incidents   # kept" in text
    assert project.params().prepare.windows == {}
    assert "incumbent" not in project.params().answer.candidates
    assert project.params().benchmark.prompts == 30
    undo(project.root)
    assert path.read_text() == text


def test_what_was_before_may_be_gone_where_git_has_taken_it_back(project):
    folder = watched(project)
    fail(project, "failed")
    (project.root / f"reports/retrain/{folder.name}/before.json").unlink()
    with pytest.raises(StillhouseError, match=r"before\.json is gone.* with Git"):
        go(project, Pipeline(project), now=NOW + timedelta(hours=1))
    with pytest.raises(StillhouseError, match=r"before\.json is gone"):
        undo(project.root)
    (project.root / "params.yaml").write_text(PARAMS)
    assert go(project, Pipeline(project), now=NOW + timedelta(hours=1)).ending == "promoted"


def test_one_that_was_killed_is_in_the_record_and_in_the_budget(project):
    watched(project)
    for hours in (0, 1):
        fail(project, killed, NOW + timedelta(hours=hours))
    assert [one.ending for one in read_attempts(project.windows)] == [None, None]
    pipeline = Pipeline(project)
    assert go(project, pipeline, now=NOW + timedelta(hours=2)) == "over_budget"
    assert pipeline.params == []


def test_the_last_retraining_can_be_taken_back(project):
    watched(project)
    go(project, Pipeline(project))
    undo(project.root)
    assert (project.root / "params.yaml").read_text() == PARAMS
    assert not (project.root / "configs/retrained.yaml").exists()
    assert not any((project.root / name).exists() for name in LEFT)


def test_nothing_to_take_back_is_told(project):
    with pytest.raises(StillhouseError, match="Nothing was retrained yet"):
        undo(project.root)


def test_params_that_would_be_no_params_are_put_back(project):
    watched(project)
    (project.root / "params.yaml").write_text(PARAMS + "selectt: {}\n")
    with pytest.raises(StillhouseError, match="did you mean select"):
        go(project, Pipeline(project))
    assert (project.root / "params.yaml").read_text() == PARAMS + "selectt: {}\n"
    assert not (project.root / "configs/retrained.yaml").exists()
    assert read_attempts(project.windows) == []
