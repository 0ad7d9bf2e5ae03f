"""A released DVC project of tiny models whose clone can be served, and what its backup holds."""

import json
import os
import shutil
import subprocess
import sys

from release_cases import bring_into_force, copy_store, git, make_project, win
from ruamel.yaml import YAML

from stages import _io
from stages._provenance import dvc_md5, file_md5
from stages._releases import append, next_record, read_chain

# What the stages would have made lies ready in source/: nothing here is trained.
DVC_YAML = """
stages:
  models:
    cmd: mkdir -p models && cp -r source/models/. models/
    deps: [source/models]
    outs: [models/teacher, models/student, models/control, models/baseline,
      models/variants/int8, models/variants/nf4]
  reports:
    cmd: mkdir -p reports && cp -r source/reports/. reports/
    deps: [source/reports]
    outs: [reports/evaluate, reports/benchmark, reports/distill, reports/quantize]
  select:
    cmd: mkdir -p reports/select && cp source/winner.json models/winner.json &&
      cp source/decision.json reports/select/decision.json
    deps: [models/variants/int8, source/winner.json, source/decision.json]
    outs: [models/winner.json, reports/select/decision.json]
"""
IGNORED = "/models\n/reports\n/data\n/mlflow.db*\n/mlartifacts\n/scratch\n/before-restore\n"


def cache(root, path):
    """Put a file or a folder into DVC's cache, as a run would; returns its MD5."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    objects = {file_md5(file): file.read_bytes() for file in files}
    if path.is_dir():
        listing = [{"md5": file_md5(f), "relpath": f.relative_to(path).as_posix()} for f in files]
        objects[dvc_md5(path)] = json.dumps(listing, sort_keys=True).encode()
    for md5, content in objects.items():
        target = root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return dvc_md5(path)


def md5_of(lock, path):
    """The MD5 that the text of a dvc.lock has for an output."""
    stages = YAML(typ="safe", pure=True).load(lock)["stages"].values()
    return next(out["md5"] for stage in stages for out in stage["outs"] if out["path"] == path)


def make_small(root):
    """A project with release 1 and its model, by hand: no DVC and no MLflow has seen it."""
    contents = {
        "models/int8/weights.txt": "weights",
        "models/int8/contract.json": "{}",
        "models/route.json": "{}",
        "models/winner.json": "{}",
        "data/prepared.json": "prepared",
        "mlartifacts/0/run/artifacts/report.json": "{}",
        ".gitignore": IGNORED,
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".dvc/config": "[core]\n    analytics = false\n",
    }
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n" if name.endswith(".json") else text)
    outs = ("models/int8", "models/route.json", "models/winner.json", "data/prepared.json")
    kept = [{"path": name, "hash": "md5", "md5": cache(root, root / name)} for name in outs]
    lock = {"schema": "2.0", "stages": {"all": {"cmd": "true", "outs": kept}}}
    (root / "dvc.lock").write_text(json.dumps(lock))  # JSON is YAML
    stage = {"cmd": "true", "outs": list(outs)}
    (root / "dvc.yaml").write_text(json.dumps({"stages": {"all": stage}}))
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "all")
    append_release(root, 1)
    return root


def append_release(root, number):
    """A record of a release of int8, at the present commit."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    winner = {"candidate": "int8", "folder": "models/int8", "model_sha256": f"{number}" * 64}
    facts = {"folder": "models/int8", "dvc_md5": dvc_md5(root / "models/int8")}
    decision = dict.fromkeys(["time", "by", "command", "reason", "scores", "benchmark", "data"])
    decision |= dict.fromkeys(["decision", "bento"]) | {"images": {}, "canary": {}}
    decision |= {"kind": "release", "winners": {"cpu": winner, "cuda": None}}
    decision |= {"candidates": {"int8": facts}}
    decision |= {"git": {"commit": head.stdout.strip(), "dirty": False}}
    folder = root / "releases"
    folder.mkdir(exist_ok=True)
    append(folder, next_record(folder, read_chain(folder), decision))


def dvc(root, *arguments):
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(
        command,
        cwd=root,
        capture_output=True,
        text=True,
        env={**os.environ, "DVC_NO_ANALYTICS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_released(root, prepare):
    """A project in Git and DVC with release 1, of int8, in force.

    Args:
        prepare: puts real models where made-up ones are, before the pipeline runs.
    """
    copy_store(root)
    make_project(root)
    prepare(root)
    (root / "source").mkdir()
    choose(root, "int8")
    for name in ("models", "reports"):
        shutil.move(root / name, root / "source" / name)
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / ".gitignore").write_text(IGNORED)
    dvc(root, "init", "-q")
    return release_anew(root)


def choose(root, name):
    """Let `name` win in what the stage select copies."""
    win(root, name)
    shutil.move(root / "models/winner.json", root / "source/winner.json")
    shutil.move(root / "reports/select/decision.json", root / "source/decision.json")


def release_anew(root):
    """Run the pipeline, release what won, commit both."""
    dvc(root, "repro", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "Models", "--allow-empty")
    record = bring_into_force(root)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "A release")
    return record


def clone(root, to):
    """What `git clone` gives: no model, no report, no cache, no tracking."""
    git(to.parent, "clone", "-q", str(root), str(to))
    return to


def state(root):
    """Every file of a project apart from Git's, caches and scratch, with its hash."""
    passed_over = {".git", ".dvc", "scratch", "source", "before-restore"}
    return {
        path.relative_to(root).as_posix(): _io.sha256_file(path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] not in passed_over
    }
