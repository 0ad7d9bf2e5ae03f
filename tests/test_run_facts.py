"""What a run's facts hold: metrics by DVC, params, gates, and which stages ran."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from structure import ROOT

from serving.errors import StillhouseError
from stages import _io
from stages._run_facts import FACTS, budgets, flatten, gather

BEGAN = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
DVC_YAML = """
stages:
  prepare: {cmd: "true"}
  evaluate:
    foreach: [student, teacher]
    do: {cmd: "true"}
  select: {cmd: "true"}
metrics: [reports/evaluate/summary.json]
"""


def git(root, *arguments):
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


def record(root, stage, folder, started, seconds):
    told = {"dvc_stage": stage, "started_at": started, "seconds": seconds}
    _io.write_json(root / f"reports/{folder}/run.json", told)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    (tmp_path / "params.yaml").write_text("seed: 20\nteacher: {steps: 1300}\n")
    git(tmp_path, "init", "-q")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "all")
    (tmp_path / "params.yaml").write_text(
        "# profile: tiny (over it)\nseed: 20\nteacher: {steps: 9}\n"
    )
    _io.write_json(tmp_path / "reports/evaluate/summary.json", {"student": {"bleu": 60.5}})
    record(tmp_path, "prepare", "prepare", "2026-11-22T07:00:00+00:00", 2.0)
    record(tmp_path, "evaluate@student", "evaluate/student", "2026-11-22T08:00:01.5+00:00", 3.5)
    record(tmp_path, "gone", "gone", "2026-11-22T08:00:02+00:00", 100.0)
    _io.write_json(tmp_path / "reports/other/run.json", {"not": "ours"})
    return tmp_path


def test_facts_are_those_of_this_run_and_of_no_other(project):
    decision = {"winners": {"cpu": "student"}, "candidates": []}
    _io.write_json(project / "reports/select/decision.json", decision)
    facts = gather(project, BEGAN, budget_s=5.0)
    assert facts["profile"] == "tiny"
    assert facts["winner"] == "student"
    assert facts["params"]["teacher.steps"] == 9
    assert facts["committed_params"]["teacher.steps"] == 1300
    assert facts["metrics"] == {"evaluate.student.bleu": 60.5}
    assert facts["stages"] == [
        {"stage": "prepare", "state": "cached", "seconds": 2.0},
        {"stage": "evaluate@student", "state": "ran", "seconds": 3.5},
    ]
    [time] = facts["budgets"]
    assert (time["budget"], time["value"], time["verdict"]) == ("seconds", 5.5, "fail")


@pytest.mark.slow
def test_a_pipeline_that_did_not_reach_select_has_facts_too(project):
    assert gather(project, BEGAN, budget_s=None)["winner"] is None


def test_gates_are_budgets():
    gate = {"gate": "disk_mb", "value": 2.5, "threshold": 3.0, "verdict": "pass", "reason": "."}
    decision = {"candidates": [{"name": "ct2", "gates": [gate]}, {"name": "teacher"}]}
    assert list(budgets(decision)) == [
        {"candidate": "ct2", "budget": "disk_mb", "value": 2.5, "limit": 3.0, "verdict": "pass"}
    ]


def test_leaves_stand_under_their_path():
    tree = {"a": {"b": [1, 2], "c": [{"d": None}]}, "e": {}, "f": []}
    assert flatten(tree) == {"a.b": [1, 2], "a.c.0.d": None, "e": {}, "f": []}


@pytest.mark.slow
def test_a_broken_project_is_told_in_dvc_s_words(project):
    (project / "dvc.yaml").write_text("stages: 3")
    with pytest.raises(StillhouseError, match="stage list"):
        gather(project, BEGAN, budget_s=None)


@pytest.mark.slow
def test_the_command_writes_the_file(project):
    command = [sys.executable, "-m", "stages._run_facts", "--since", "2026-11-22T08:00:00"]
    subprocess.run(
        command, cwd=project, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}, check=True
    )
    assert json.loads((project / FACTS).read_text())["stages"][1]["state"] == "ran"
