"""drift and its dispatch, executed. Real: the run blocks, `make watch` on a project with a window,
`make drift-issue`, .ci/issue. Stand-ins: `gh`, and the programs that freeze and compare a window.
"""

import json
from datetime import UTC, datetime, timedelta

import pytest
from retrain_cases import Project, write_drift
from structure import read_yaml
from workflow_cases import WORKFLOWS, copy_project, evaluate, make_machine

CODE = (".ci", "Makefile", "settings.env", "stages", "serving", "requirements")
WEEKLY, DAILY = "17 5 * * 1", "43 6 * * *"


@pytest.fixture
def machine(tmp_path):
    project = copy_project(tmp_path / "project", *CODE)
    return make_machine(tmp_path / "machine", project, ["stages.window", "stages._pipeline"])


@pytest.fixture
def runner(tmp_path):
    """A machine of GitHub's: it has the scripts, and no project with records."""
    return make_machine(tmp_path / "runner", copy_project(tmp_path / "checkout", ".ci"))


def contexts(machine, event="schedule", **inputs):
    github = {"repository": "somebody/project", "token": "t", "event_name": event}
    github |= {"event": {"schedule": WEEKLY}, "ref_name": "main"}
    variables = {"DRIFT_RUNNER": '["own"]', "DRIFT_PROJECT": str(machine.project)}
    return {"github": github, "vars": variables, "inputs": inputs}


def tell(machine, kind, issues=(), event="schedule", **inputs):
    """The job that tells, after one that watched; returns how it ended."""
    place = machine.place / "temp/drift"
    place.mkdir(parents=True)
    (place / "issue.md").write_text("what was found")
    machine.reply({"match": "issue list", "stdout": json.dumps(issues)})
    watched = {"watch": {"result": "success", "outputs": {"kind": kind, "window": "w-1"}}}
    ended = machine.run_job("drift", "tell", needs=watched, **contexts(machine, event, **inputs))
    assert not ended.failed, ended.log
    assert ended.summary == "what was found"
    return ended


@pytest.mark.parametrize(("verdict", "kind"), [("drift", "retrain"), ("no_evidence", "nothing")])
def test_a_window_is_frozen_compared_watched_and_told(machine, verdict, kind):
    project = Project(machine.project)
    folder = project.window()
    write_drift(project.root, folder, verdict)
    params = "watch: {windows: 1, alarms: 1, min_gold: 20}\n"
    (project.root / "params.yaml").write_text(
        f"seed: 20\n{params}drift: {{window: {folder.name}}}\n"
    )
    ended = machine.run_job("drift", "watch", **contexts(machine))
    assert not ended.failed, ended.log
    assert ended.outputs == {"kind": kind, "window": folder.name}
    days = [datetime.now(UTC).date() - timedelta(days=n) for n in (7, 1)]
    assert machine.calls == [
        f"stages.window --first {days[0]} --last {days[1]} --compare",
        "stages._pipeline drift",
    ]
    [(action, inputs)] = ended.uses
    uploaded = {path.name for path in (machine.place / "temp/drift").iterdir()}
    assert (action, inputs["name"], uploaded) == (
        "actions/upload-artifact",
        "drift",
        {"outcome.json", "issue.md"},
    )


def test_a_mistake_fails_the_job_and_leaves_no_old_outcome(machine):
    outcome = machine.project / "reports/watch/outcome.json"
    outcome.parent.mkdir(parents=True)
    outcome.write_text('{"kind": "retrain", "window": "old"}')
    (machine.project / "params.yaml").write_text("seed: 20\n")
    ended = machine.run_job("drift", "watch", **contexts(machine))
    assert ended.failed
    assert ended.ran[-1] == "Remember it"
    assert not outcome.exists()


def test_drift_opens_an_issue_and_dispatches_train(runner):
    tell(runner, "retrain")
    opened = [call for call in runner.noted() if "issue create" in call["line"]]
    assert [call["body"] for call in opened] == ["what was found"]
    assert "--title Drift: retrain (w-1)" in opened[0]["line"]
    assert "gh workflow run train.yml --ref main --raw-field window=w-1" in runner.calls


def test_the_open_issue_is_brought_up_to_date(runner):
    tell(runner, "wait", issues=[{"number": 12}])
    assert any(line.startswith("gh issue edit 12 --title Drift: wait") for line in runner.calls)
    assert not any("issue create" in line or "workflow run" in line for line in runner.calls)


def test_where_all_is_well_nobody_is_told(runner):
    tell(runner, "nothing")
    assert [line.split(" --")[0] for line in runner.calls] == ["gh issue list"]


def test_who_asks_not_to_retrain_only_gets_the_issue(runner):
    tell(runner, "retrain", event="workflow_dispatch", retrain=False)
    assert any("issue create" in line for line in runner.calls)
    assert not any("workflow run" in line for line in runner.calls)


@pytest.mark.parametrize(("days", "failed"), [(2, False), (12, True), (None, True)])
def test_a_report_that_is_too_old_raises_an_alarm(runner, days, failed):
    now = datetime.now(UTC)
    forks = {
        "head_repository_id": 2,
        "repository_id": 1,
    }  # a pull request makes artifacts, too
    made = [{"created_at": now.isoformat(), "workflow_run": forks}]
    if days is not None:
        own = {"head_repository_id": 1, "repository_id": 1}
        made.append({"created_at": (now - timedelta(days=days)).isoformat(), "workflow_run": own})
    runner.reply(
        {"match": "artifacts?name=drift", "stdout": json.dumps({"artifacts": made})},
        {"match": "issue list", "stdout": "[]"},
    )
    ended = runner.run_job("drift", "overdue", **contexts(runner))
    assert ended.failed is failed
    assert any("issue create --label drift-overdue" in line for line in runner.calls) is failed


def test_without_a_runner_of_one_s_own_nothing_runs():
    jobs = read_yaml(WORKFLOWS["drift"])["jobs"]
    for schedule, wanted in ((WEEKLY, {"watch"}), (DAILY, {"overdue"})):
        told = {"github": {"event": {"schedule": schedule}}}
        variables = {"DRIFT_RUNNER": '["own"]', "DRIFT_PROJECT": "/srv/project"}
        ran = {
            n for n in ("watch", "overdue") if evaluate(jobs[n]["if"], told | {"vars": variables})
        }
        assert ran == wanted
        assert not any(evaluate(jobs[n]["if"], told) for n in ("watch", "overdue"))
    assert {WEEKLY, DAILY} == {
        one["cron"] for one in read_yaml(WORKFLOWS["drift"])["on"]["schedule"]
    }
