"""A project whose releases name images, around it a machine to deploy from; nothing is trained."""

import json
import shutil
import subprocess

from release_cases import git, image
from workflow_cases import copy_project, make_machine

from stages import _io
from stages._releases import append, next_record, read_chain

CODE = (".ci", ".github", "Makefile", "settings.env", "stages", "serving", "requirements", "deploy")
REDIS = f"docker.io/library/redis@sha256:{'e' * 64}"
CLUSTER = {"eks": "one", "region": "here"}
MODELS = {1: "1" * 64, 2: "2" * 64, 3: "3" * 64}
"""Digests of the models that were released first and second, and of the one that challenges."""


def decision(number):
    """What a record says of the model `number` in the image `number`."""
    sha256 = MODELS[number]
    winner = {"candidate": "student", "folder": "models/student", "model_sha256": sha256}
    made = {
        "image": image(str(number)),
        "bento_tag": f"stillhouse:{number}",
        "bento_sha256": sha256,
    }
    return {
        "kind": "release",
        "time": "2030-01-01T00:00:00+00:00",
        "by": "somebody",
        "command": "python -m stages.release",
        "reason": "",
        "git": {"commit": "c" * 40, "dirty": False},
        "winners": {"cpu": winner, "cuda": None},
        "scores": {"cpu": {}},
        "benchmark": {"cpu": {}},
        "data": {},
        "candidates": {"student": winner},
        "decision": {},
        "bento": f"stillhouse:{number}",
        "images": {"cpu": made},
        "canary": {"verdict": "waived", "reason": "a test"},
    }


def make_released(root, releases):
    """The project's code with so many releases, committed."""
    copy_project(root, *CODE)
    _io.write_json(root / "releases/current.json", {})
    for number in range(1, releases + 1):
        chain = read_chain(root / "releases")
        append(root / "releases", next_record(root / "releases", chain, decision(number)))
    for name in ("params.yaml", "dvc.lock"):
        (root / name).write_text("# as it was trained\n")
    (root / ".gitignore").write_text("/scratch\n/models\n/reports\n/.venv\n__pycache__\n")
    git(root, "init", "-q", "--initial-branch=main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "released")
    return root


def machine_for(released, place, programs=()):
    """A machine with a checkout of `released`, and a repository beside it that it came from."""
    place.mkdir(exist_ok=True)
    subprocess.run(["git", "clone", "-q", "--bare", released, place / "origin"], check=True)
    subprocess.run(["git", "clone", "-q", place / "origin", place / "project"], check=True)
    return make_machine(place / "machine", place / "project", programs)


def contexts(**changes):
    """GitHub's contexts of a dispatched workflow with the environment's variables."""
    event = {"repository": {"default_branch": "main"}}
    github = {"repository": "Somebody/project", "token": "t", "event": event, "actor": "somebody"}
    variables = {"CLUSTER": json.dumps(CLUSTER), "REDIS_IMAGE": REDIS, "BACKUP_REMOTE": "/backup"}
    return {"github": github, "vars": variables} | changes


def verifying(*models):
    """Replies: every attestation is good, and the one of models names these; kustomize is real."""
    components = [{"hashes": [{"alg": "SHA-256", "content": model}]} for model in models]
    statement = {"predicate": {"components": components}}
    shown = json.dumps([{"verificationResult": {"statement": statement}}])
    return [
        {"match": "gh attestation verify", "stdout": shown},
        {"match": "kubectl kustomize", "real": shutil.which("kubectl")},
    ]


def places(machine, *parts):
    """Where in the order of all calls those stand that have each of these parts."""
    return [n for n, line in enumerate(machine.calls) if all(part in line for part in parts)]


def pushed(place, branch):
    """Subject and files of the last commit of a branch that was pushed."""
    command = ["git", "show", "--stat", "--format=%s", branch]
    return subprocess.check_output(command, cwd=place / "origin", text=True)
