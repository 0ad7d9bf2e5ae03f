"""The workflows as text: valid, pinned, with few rights, and calling what the Makefile has."""

import re
import subprocess
import sys

import pytest
from structure import ROOT, read_yaml
from workflow_cases import EXPRESSION, WORKFLOWS, evaluate

ACTIONS = {
    path.parent.name: path for path in sorted((ROOT / ".github/actions").glob("*/action.yml"))
}
# The tags of releases and the commits that they name, each looked up and none from memory.
PINS = {
    "actions/checkout": ("v7.0.1", "3d3c42e5aac5ba805825da76410c181273ba90b1"),
    "actions/setup-python": ("v7.0.0", "5fda3b95a4ea91299a34e894583c3862153e4b97"),
    "actions/cache": ("v5.0.5", "27d5ce7f107fe9357f9df03efb73ab90386fccae"),
    "actions/upload-artifact": ("v7.0.0", "bbbca2ddaa5d8feaa63e36b76fdaad77386f024f"),
    "actions/download-artifact": ("v8.0.1", "3e5f45b2cfb9172054b4087a40e8e0b5a5461e7c"),
    "actions/attest": ("v4.2.2", "1e69f48acb82d1966a394da916b4c1698aa569d6"),
    "docker/login-action": ("v4.1.0", "4907a6ddec9925e35a0a9e82d7399ccc52663121"),
    "anchore/sbom-action": ("v0.24.0", "e22c389904149dbc22b58101806040fa8d37a610"),
    "aws-actions/configure-aws-credentials": (
        "v6.2.3",
        "e6de054238d6b7531b4efff3b6587d9aade6a06c",
    ),
    "google-github-actions/auth": ("v3.0.0", "7c6bc770dae815cd3e89ee6cdf493a5fab2cc093"),
}
NEEDED = {"ci", "pipeline-smoke", "pr-report", "train", "cd", "drift", "rollback"}
# What a job may do beyond reading the code, and that it may not do more.
DEPLOYING = {"attestations": "read", "id-token": "write", "packages": "read"}
PROPOSING = {"contents": "write", "pull-requests": "write"}
RIGHTS = {
    ("pr-report", "comment"): {"actions": "read", "pull-requests": "write"},
    ("train", "train"): {"id-token": "write"},
    ("train", "propose"): PROPOSING,
    ("cd", "build"): {"attestations": "write", "id-token": "write", "packages": "write"},
    ("cd", "staging"): DEPLOYING,
    ("cd", "canary"): DEPLOYING,
    ("cd", "production"): DEPLOYING,
    ("cd", "record"): {"id-token": "write"},
    ("cd", "propose"): PROPOSING,
    ("rollback", "redeploy"): DEPLOYING,
    ("rollback", "propose"): PROPOSING,
    ("drift", "tell"): {"actions": "write", "issues": "write"},
    ("drift", "overdue"): {"actions": "read", "issues": "write"},
}
DEPLOYS = ("cd", "rollback", "train", "drift")
OF_PULL_REQUESTS = ("ci", "pipeline-smoke")


def workflow(name):
    return read_yaml(WORKFLOWS[name])


def jobs():
    """Every job with the name of its workflow and its own."""
    return [(n, job, body) for n in WORKFLOWS for job, body in workflow(n)["jobs"].items()]


def steps():
    found = [(f"{n}.{job}", step) for n, job, body in jobs() for step in body["steps"]]
    for name, path in ACTIONS.items():
        found += [(name, step) for step in read_yaml(path)["runs"]["steps"]]
    return found


def blocks():
    return [(where, step["run"]) for where, step in steps() if "run" in step]


def test_every_workflow_of_the_plan_is_there():
    assert set(WORKFLOWS) == NEEDED


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ("github-workflows", WORKFLOWS),
        ("github-actions", ACTIONS),
        ("dependabot", {"dependabot": ROOT / ".github/dependabot.yml"}),
    ],
)
def test_they_are_valid_by_the_schema_that_is_published_for_them(schema, paths):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*command, *paths.values()], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actions_are_pinned_to_the_commits_that_were_looked_up():
    used = set()
    for path in [*WORKFLOWS.values(), *ACTIONS.values()]:
        for line in re.findall(r"uses: (.+)$", path.read_text(encoding="utf-8"), re.M):
            if line.startswith("./"):
                assert (ROOT / line / "action.yml").is_file(), line
                continue
            name = line.split("@")[0]
            tag, commit = PINS[name]
            assert line == f"{name}@{commit} # {tag}"
            used.add(name)
    assert used == set(PINS)


def test_nothing_is_allowed_but_what_a_job_needs():
    for name in WORKFLOWS:
        assert workflow(name)["permissions"] == {}, name
    for name, job, body in jobs():
        allowed = dict(body["permissions"])
        if allowed.get("contents") == "read":
            del allowed["contents"]
        assert allowed == RIGHTS.get((name, job), {}), f"{name}.{job}"


def test_a_pull_request_s_job_has_no_secret_and_no_right_to_write():
    for name in OF_PULL_REQUESTS:
        text = WORKFLOWS[name].read_text(encoding="utf-8")
        assert "pull_request_target" not in text
        assert "secrets." not in text and "github.token" not in text
        for job in workflow(name)["jobs"].values():
            assert job["permissions"] == {"contents": "read"}
            assert "environment" not in job
            assert job["runs-on"] == "ubuntu-24.04"  # never a machine of our own


def test_no_secret_but_the_job_s_own_token_and_the_canary_s_key_is_used():
    for path in WORKFLOWS.values():
        found = re.findall(r"secrets\.(\w+)", path.read_text(encoding="utf-8"))
        assert set(found) <= {"CANARY_KEY"}, path


def test_the_token_is_left_in_no_checkout():
    checkouts = [
        step for _, step in steps() if step.get("uses", "").startswith("actions/checkout@")
    ]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)
    assert len(checkouts) >= 10


def test_one_artifact_lands_in_the_folder_that_is_named_whether_by_name_or_pattern():
    """A pattern that one artifact matches makes no folder of its name, one of two does."""
    for where, step in steps():
        downloads = step.get("uses", "").startswith("actions/download-artifact@")
        if downloads and "name" not in step["with"]:
            assert step["with"]["merge-multiple"] is True, where
            assert step["with"]["path"].endswith(f"/{step['with']['pattern']}"), where


def test_a_job_with_an_identity_of_its_own_names_its_environment():
    named = {
        f"{name}.{job}": body["environment"]
        for name, job, body in jobs()
        if body["permissions"].get("id-token") == "write"
    }
    assert {"staging", "canary", "production", "build", "train"} == set(named.values())
    assert named["rollback.redeploy"] == "production"


def test_nothing_is_rolled_out_before_its_image_was_verified():
    checked = 0
    for name, job, body in jobs():
        told = [step.get("uses", "") + step.get("run", "") for step in body["steps"]]
        changes = [
            n for n, text in enumerate(told) if re.search(r"rollout|set-weights|kubectl", text)
        ]
        if changes:
            assert told.index("./.github/actions/target") < min(changes), f"{name}.{job}"
            checked += 1
    target = read_yaml(ACTIONS["target"])["runs"]["steps"]
    order = [step.get("run", "") for step in target]
    assert order.index('.ci/verify "$IMAGE" "$MODEL"') < order.index(".ci/cluster")
    assert checked == 4


def test_every_job_ends_at_a_limit():
    for name, job, body in jobs():
        assert isinstance(body["timeout-minutes"], int), f"{name}.{job}"


def test_runs_of_a_pull_request_give_way_and_deployments_never_do():
    for name in DEPLOYS:
        rule = workflow(name)["concurrency"]
        assert (rule["cancel-in-progress"], rule["queue"]) == (False, "max"), name
    for name in OF_PULL_REQUESTS:
        rule = workflow(name)["concurrency"]
        assert rule["cancel-in-progress"] == "${{ github.event_name == 'pull_request' }}", name
        assert "github.ref" in rule["group"]
    assert all("concurrency" in workflow(name) for name in WORKFLOWS)
    groups = {name: workflow(name)["concurrency"]["group"] for name in ("cd", "rollback")}
    assert len(set(groups.values())) == 1, "a rollback waits for a roll-out, and not beside it"


def test_run_blocks_stop_at_the_first_mistake():
    for name in WORKFLOWS:
        assert workflow(name)["defaults"]["run"]["shell"] == "bash -euo pipefail {0}", name
    scripts = [path for path in (ROOT / ".ci").iterdir() if path.is_file()]
    for path in scripts:
        assert path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n"), path
        assert "\nset -euo pipefail\n" in path.read_text(encoding="utf-8"), path
    assert len(scripts) >= 8


def test_what_others_write_reaches_a_script_through_its_environment_alone():
    for where, text in blocks():
        for expression in EXPRESSION.findall(text):
            raise AssertionError(f"{where}: ${{{{{expression}}}}} in a script; put it into env")
    assert len(blocks()) >= 30


def test_every_make_target_is_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    scripts = [(path.name, path.read_text("utf-8")) for path in (ROOT / ".ci").iterdir()]
    named = {
        target
        for _, text in [*blocks(), *scripts]
        for target in re.findall(r"^\s*(?:\*\) )?make ([a-z][a-z-]*)", text, re.M)
    }
    missing = {target for target in named if not re.search(rf"^{target}:", makefile, re.M)}
    assert missing == set()
    assert {"lint", "types", "test-fast", "repro", "facts", "pr-report", "rollback"} <= named


def test_the_scripts_that_are_called_are_there_and_can_be_run():
    named = {name for _, text in blocks() for name in re.findall(r"\.ci/([a-z]+)", text)}
    assert all((ROOT / ".ci" / name).stat().st_mode & 0o111 for name in named)
    assert {"arguments", "comment", "issue", "propose"} <= named


def test_schedules_avoid_the_full_hour():
    crons = [entry["cron"] for name in WORKFLOWS for entry in trigger(name).get("schedule", [])]
    assert all(int(cron.split()[0]) % 30 > 0 for cron in crons)
    assert crons


def trigger(name):
    on = workflow(name)["on"]
    return on if isinstance(on, dict) else {}


@pytest.mark.parametrize(
    ("staging", "canary", "first", "reason", "through", "wanted"),
    [
        ("success", "success", "false", "", "production", True),
        ("success", "failure", "false", "", "production", False),
        ("success", "skipped", "false", "", "production", False),
        ("success", "skipped", "true", "", "production", True),
        ("success", "skipped", "false", "urgent", "production", True),
        ("failure", "skipped", "true", "urgent", "production", False),
        ("success", "skipped", "true", "", "staging", False),
        ("success", "success", "false", "", "", True),
    ],
)
def test_production_wants_staging_and_a_canary_or_a_reason(
    staging, canary, first, reason, through, wanted
):
    condition = " ".join(workflow("cd")["jobs"]["production"]["if"].split())
    needs = {"staging": {"result": staging}, "canary": {"result": canary}}
    needs["build"] = {"outputs": {"first": first}}
    told = {"needs": needs, "inputs": {"through": through, "without_canary": reason}}
    assert bool(evaluate(condition, told)) is wanted
