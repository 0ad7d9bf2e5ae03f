"""pr-report, executed: its run blocks, `make pr-report` and .ci/comment are real; `gh` is a
stand-in that answers from a list and notes every call; its --jq is run by the real jq.
"""

import json

import pytest
from workflow_cases import copy_project, make_machine

MARKER = "<!-- stillhouse: pipeline report -->"
SHA = "5" * 40
BOT, SOMEBODY = {"login": "github-actions[bot]"}, {"login": "somebody"}
PULLS = [{"number": 4, "head": {"sha": "0" * 40}}, {"number": 5, "head": {"sha": SHA}}]


def facts(bleu, **changes):
    found = {
        "schema_version": 1,
        "commit": SHA,
        "profile": "tiny",
        "metrics": {"evaluate.student.bleu": bleu},
        "params": {"seed": 20},
        "committed_params": {"seed": 20},
        "budgets": [],
        "stages": [],
    }
    return found | changes


@pytest.fixture
def machine(tmp_path):
    project = copy_project(
        tmp_path / "project", ".ci", "Makefile", "settings.env", "stages", "serving"
    )
    return make_machine(tmp_path / "machine", project)


def replies(machine, head=None, base=None, comments=(), pulls=PULLS):
    found = [
        {"match": "/pulls ", "stdout": json.dumps(pulls)},
        {"match": "--method", "stdout": ""},
        {"match": "/comments", "stdout": json.dumps(comments)},
        {"match": "run list", "stdout": json.dumps([{"databaseId": 3}] if base else [])},
    ]
    for run, content in (("17", head), ("3", base)):
        path = machine.place / f"{run}.json"
        path.write_text(json.dumps(content))
        files = {str(path): "{dir}/facts.json"}
        given = {"files": files} if content else {"code": 1}
        found.append({"match": f"run download {run} ", **given})
    machine.reply(*found)


def run(machine, branch="topic", **changes):
    event = {
        "event": "pull_request",
        "conclusion": "success",
        "id": 17,
        "head_sha": SHA,
        "head_branch": branch,
        "head_repository": {"owner": {"login": "stranger"}},
        "html_url": "https://github.com/somebody/project/actions/runs/17",
    }
    github = {"repository": "somebody/project", "token": "t"}
    github["event"] = {"workflow_run": event | changes, "repository": {"default_branch": "main"}}
    ended = machine.run_job("pr-report", "comment", github=github)
    assert not ended.failed, ended.log
    return ended


def written(machine):
    """The one call that wrote a comment."""
    [call] = [call for call in machine.noted() if call["body"] is not None]
    return call


def test_the_first_report_makes_a_comment_with_the_differences(machine):
    replies(machine, head=facts(41.0), base=facts(40.0))
    run(machine)
    call = written(machine)
    assert "--method POST repos/somebody/project/issues/5/comments" in call["line"]
    assert call["body"].startswith(MARKER)
    assert "| `evaluate.student.bleu` | 40 | 41 | +1 |" in call["body"]


def test_the_next_report_brings_that_comment_up_to_date_and_no_other(machine):
    comments = [
        {"id": 1, "user": SOMEBODY, "body": f"{MARKER}\nmine"},
        {"id": 2, "user": BOT, "body": "another of the bot's"},
        {"id": 3, "user": BOT, "body": f"{MARKER}\nolder"},
    ]
    replies(machine, head=facts(41.0), base=facts(40.0), comments=comments)
    run(machine)
    assert "--method PATCH repos/somebody/project/issues/comments/3" in written(machine)["line"]


def test_a_pull_request_that_has_moved_on_waits_for_the_next_report(machine):
    replies(machine, head=facts(41.0), pulls=PULLS[:1])
    ended = run(machine)
    assert ended.ran == ["Find the pull request"]
    assert len(machine.calls) == 1


def test_a_run_that_failed_without_facts_is_told_too(machine):
    replies(machine, base=facts(40.0))
    run(machine, conclusion="failure")
    assert "left no facts" in written(machine)["body"]
    assert "`failure`" in written(machine)["body"]


def test_without_an_earlier_run_there_is_nothing_to_compare_with(machine):
    replies(machine, head=facts(41.0))
    run(machine)
    assert "no earlier run" in written(machine)["body"]
    assert "| `evaluate.student.bleu` | – | 41 | – |" in written(machine)["body"]


def test_a_branch_s_name_is_never_run(machine):
    replies(machine, head=facts(41.0))
    branch = "x$(touch pwned)`touch pwned`;touch pwned"
    run(machine, branch)
    assert any(f"head=stranger:{branch}" in call["arguments"] for call in machine.noted())
    assert list(machine.place.parent.rglob("pwned")) == []


@pytest.mark.parametrize(
    ("event", "conclusion", "wanted"),
    [
        ("pull_request", "failure", True),
        ("push", "success", False),
        ("pull_request", "cancelled", False),
    ],
)
def test_only_ended_runs_of_pull_requests_are_reported(event, conclusion, wanted):
    from structure import read_yaml
    from workflow_cases import WORKFLOWS, evaluate

    condition = read_yaml(WORKFLOWS["pr-report"])["jobs"]["comment"]["if"]
    told = {"event": {"workflow_run": {"event": event, "conclusion": conclusion}}}
    assert evaluate(condition.replace("\n", " "), {"github": told}) is wanted
