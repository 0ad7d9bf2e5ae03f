"""ci and pipeline-smoke, executed for real in a copy of the project: minutes. Stand-ins: `sudo` and
`apt-get`, so that nothing is installed on this machine. What would run this test again is narrowed:
`make test-fast` runs one file, and `make test-slow` only lists what it would run.
"""

import json

import pytest
from release_cases import git
from workflow_cases import copy_project, make_machine

pytestmark = pytest.mark.slow
GITHUB = {"repository": "somebody/project", "event_name": "pull_request"}


@pytest.fixture
def machine(tmp_path):
    project = copy_project(tmp_path / "project")
    git(project, "init", "-q")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "all")
    return make_machine(tmp_path / "machine", project)


@pytest.mark.parametrize(
    ("job", "arguments", "said"),
    [
        ("check", "tests/test_io.py", ["All checks passed!", "Success: no issues", " passed"]),
        ("slow", "--collect-only -q tests/test_workflow_ci.py", ["tests collected"]),
    ],
)
def test_ci_lints_checks_types_and_tests(machine, monkeypatch, job, arguments, said):
    monkeypatch.setenv("ARGS", arguments)
    ended = machine.run_job("ci", job, github=GITHUB)
    assert not ended.failed, ended.log[-5000:]
    for words in said:
        assert words in ended.log
    assert machine.calls == []  # nothing was installed


def test_pipeline_smoke_makes_the_tiny_profile_and_its_facts(machine):
    ended = machine.run_job("pipeline-smoke", "tiny", github=GITHUB)
    assert not ended.failed, ended.log[-5000:]
    facts = json.loads((machine.project / "scratch/pull_request/facts.json").read_text())
    assert facts["profile"] == "tiny"
    assert facts["metrics"]["evaluate.student.bleu"] > 0
    assert {stage["state"] for stage in facts["stages"]} == {"ran"}
    assert facts["budgets"][-1]["budget"] == "seconds"
    assert "**Stages**" in ended.summary
    uploaded = {inputs["name"]: inputs["path"] for name, inputs in ended.uses if "upload" in name}
    assert uploaded == {"facts": "scratch/pull_request/facts.json", "reports": "reports"}
    assert (machine.project / "reports/select/decision.json").is_file()


def test_a_stage_that_fails_fails_the_smoke_and_leaves_no_facts(machine):
    (machine.project / "configs/tiny.yaml").write_text("teacher: {scratch: {vocabulary: 1}}\n")
    ended = machine.run_job("pipeline-smoke", "tiny", github=GITHUB)
    assert ended.failed
    assert ended.ran == ["Tiny profile"]
    assert [inputs["name"] for name, inputs in ended.uses if "upload" in name] == ["reports"]
    assert not (machine.project / "scratch/pull_request").exists()
