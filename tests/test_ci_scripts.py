"""What the workflows share as scripts in .ci; `aws`, `gcloud`, `kubectl`, `curl` are stand-ins."""

import json
import os
import subprocess

import pytest
from release_cases import git
from structure import ROOT
from workflow_cases import make_machine

from stages import _io

HOSTILE = [
    "it's",
    'a "quoted" b',
    "$HOME $(touch pwned) `touch pwned`",
    "$(shell touch pwned) ${shell touch pwned}",
    "two\nlines",
    "# % & ; | > < * ? \\ ~",
    "",
    "--to",
    "ünïcode 🥃",
]


@pytest.fixture
def machine(tmp_path):
    (tmp_path / "project").mkdir()
    return make_machine(tmp_path / "machine", tmp_path / "project")


def call(machine, script, *arguments, code=0, **variables):
    path = f"{machine.place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "STAND_IN": str(machine.place), "HOME": "/nowhere"}
    command = [str(ROOT / ".ci" / script), *arguments]
    done = subprocess.run(
        command, cwd=machine.project, env=environment | variables, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_make_hands_arguments_on_as_they_are(machine):
    makefile = (ROOT / "Makefile").read_text().split("\n.PHONY")[0].replace("include", "-include")
    program = "import json, sys; print(json.dumps(sys.argv[1:]))"
    (machine.project / "Makefile").write_text(
        f"{makefile}\nshow:\n\t@python3 -c '{program}' $(ARGS)\n"
    )
    quoted = call(machine, "arguments", *HOSTILE).stdout
    outer = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")  # where make runs the tests, it would say so
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    command = ["make", "show", f"ARGS={quoted}"]
    shown = subprocess.check_output(command, cwd=machine.project, env=environment)
    assert json.loads(shown) == HOSTILE
    assert not (machine.project / "pwned").exists()
    assert call(machine, "arguments").stdout == ""


def test_a_cluster_at_aws_is_asked_for_by_its_name(machine):
    call(machine, "cluster", CLUSTER='{"eks": "one", "region": "here"}')
    assert machine.calls == ["aws eks update-kubeconfig --name one --region here"]


def test_a_cluster_at_google_gets_a_token_of_the_job_s_identity(machine):
    machine.reply(
        {"match": "describe", "stdout": "192.0.2.1\tQ0E="},
        {"match": "print-access-token", "stdout": "short-lived\n"},
    )
    call(machine, "cluster", CLUSTER='{"gke": "one", "region": "here"}')
    assert "kubectl config set-cluster target --server https://192.0.2.1" in machine.calls
    assert "kubectl config set clusters.target.certificate-authority-data Q0E=" in machine.calls
    assert "kubectl config set-credentials target --token short-lived" in machine.calls


def test_a_cluster_that_trusts_github_gets_the_job_s_own_token(machine):
    machine.reply({"match": "curl", "stdout": '{"value": "of-the-job"}'})
    cluster = {"server": "https://k8s.example.com", "certificate": "Q0E=", "audience": "k8s"}
    request = {"ACTIONS_ID_TOKEN_REQUEST_URL": "https://token.example.com/?api=1"}
    request["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = "request"
    call(machine, "cluster", CLUSTER=json.dumps(cluster), **request)
    assert machine.calls[0].endswith("https://token.example.com/?api=1&audience=k8s")
    assert "kubectl config set-credentials target --token of-the-job" in machine.calls


@pytest.mark.parametrize("cluster", ["", "{}"])
def test_without_a_cluster_nothing_is_asked(machine, cluster):
    assert "names none" in call(machine, "cluster", CLUSTER=cluster, code=1).stderr
    assert machine.calls == []


@pytest.mark.parametrize(
    "image", ["name:latest", f"name@sha256:{'a' * 63}", f"a b@sha256:{'a' * 64}"]
)
def test_an_image_without_a_digest_is_not_even_looked_up(machine, image):
    told = call(machine, "verify", image, "1" * 64, code=1)
    assert "expected NAME@sha256" in told.stderr
    assert machine.calls == []


@pytest.mark.parametrize(
    ("verdict", "challenged"),
    [("replace", True), ("not_comparable", True), ("keep", False), ("same", False), (None, False)],
)
def test_only_what_select_would_put_in_force_challenges(machine, verdict, challenged):
    project = machine.project
    incumbent = {"release": 1, "cpu": {"verdict": verdict}} if verdict else None
    _io.write_json(project / "reports/select/decision.json", {"incumbent": incumbent})
    (project / ".gitignore").write_text("/.ci\n/.venv\n/reports\n/scratch\n")
    (project / "Makefile").write_text(
        "challenge:\n\tmkdir releases\n\techo {} > releases/challenger.json\n"
    )
    (project / "dvc.lock").write_text("before\n")
    (project / ".ci").symlink_to(ROOT / ".ci")
    git(project, "init", "-q")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "before")
    (project / "dvc.lock").write_text("after\n")
    call(machine, "challenge", "What was trained", "params.yaml", "dvc.lock")
    told = subprocess.check_output(
        ["git", "log", "--format=%s", "--name-only"], cwd=project, text=True
    )
    assert ("releases/challenger.json" in told) is challenged
    assert "What was trained\n\ndvc.lock" in told
    assert (project / "scratch/proposal/commits.bundle").is_file()


def test_where_nothing_is_new_nothing_is_proposed(machine):
    git(machine.project, "init", "-q")
    git(machine.project, "commit", "-qm", "before", "--allow-empty")
    assert "nothing is new" in call(machine, "bundle", "HEAD", "Nothing", "absent").stdout
    told = call(machine, "propose", "scratch/proposal", "a", "b", "c", BASE_BRANCH="main")
    assert "nothing is proposed" in told.stdout
    assert machine.calls == []
