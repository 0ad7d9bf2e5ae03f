"""A project that can be released: models, their reports, a decision, an MLflow store.

Nothing is trained; files hold what the stages would have written.
"""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from serving.contract import Contract, digest, write_contract
from stages import _io
from stages._params import check_params
from stages._proposing import Asked

CANDIDATES = {
    "teacher": "models/teacher",
    "student": "models/student",
    "control": "models/control",
    "int8": "models/variants/int8",
    "nf4": "models/variants/nf4",
}
ALL = check_params({"answer": {"candidates": CANDIDATES}}, Path("params.yaml"))
FEW = {name: CANDIDATES[name] for name in ("student", "int8", "nf4")}  # a version takes its time
PARAMS = check_params({"answer": {"candidates": FEW}}, Path("params.yaml"))
COMMAND = "python -m stages.release"
SCORE = {"score": 60.0, "low": 58.0, "high": 62.0, "signature": "case:lc"}


@cache
def empty_store():
    """A folder with an MLflow database of no runs, made once per process: making one is slow."""
    from stages._tracking import prepare_store

    root = Path(mkdtemp(prefix="stillhouse-"))
    prepare_store(root)
    return root


def copy_store(root):
    """Give the project in `root` a database of its own, as a copied project would have."""
    for name in ("mlflow.db", "mlflow.db.version"):
        shutil.copy(empty_store() / name, root / name)


def make_model(root, name, weights):
    """A model folder with its evaluation and benchmark, as of `weights`; returns its digest."""
    folder = root / CANDIDATES[name]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "weights.txt").write_text(weights)
    scheme = {"scheme": name} if folder.parent.name == "variants" else None
    contract = Contract(
        engine="transformers",
        prompt_template="{prompt}",
        slot_schema=None,
        limits={},
        decoding={},
        params_hash="a" * 64,
        data_hash="d" * 64,
        quantization=scheme,
    )
    sha256 = write_contract(folder, contract)
    report = {
        "candidate": name,
        "examples": 640,
        "data": {"name": "pubs", "sha256": "7" * 64},
        "model": {"parameters": 10, "size_mb": 1.25, "engine": "transformers", "sha256": sha256},
        "bleu": SCORE,
        "tokens_per_answer": 20.5,
    }
    _io.write_json(root / f"reports/evaluate/{name}.json", report)
    speed = {"device": "cpu", "latency_ms": {"p50": 9.0, "p95": 11.0}, "disk_mb": 1.25}
    _io.write_json(root / f"reports/benchmark/{name}.json", speed)
    return sha256


def win(root, name, **changes):
    """Let `name` win on the CPU, against what releases/current.json holds."""
    sha256 = digest(root / CANDIDATES[name])
    winner = {"candidate": name, "folder": CANDIDATES[name], "model_sha256": sha256}
    current = _io.read_json(root / "releases/current.json")
    decision = {
        "winners": {"cpu": name, "cuda": None},
        "candidates": [
            {"name": name, "device": "cpu", "passed": True, "failed": [], "model_sha256": sha256}
        ],
        "incumbent": {"release": current["release"]} if current else None,
        "reason": f"{name} is the cheapest of those that pass",
    }
    _io.write_json(root / "models/winner.json", {"cpu": winner, "cuda": None})
    _io.write_json(root / "reports/select/decision.json", decision | changes)


def bring_into_force(root, **asked):
    """Release what won; unless the test says otherwise, no canary is asked."""
    from stages.release import release

    return release(PARAMS, root, Asked(COMMAND, **{"without_canary": "a test", **asked}))


def pack(root, name, tag="stillhouse:abc"):
    """The report of a Bento with the model `name`."""
    sha256 = digest(root / CANDIDATES[name])
    made = {"bento_tag": tag, "bento_sha256": "b" * 64, "model_sha256": sha256}
    _io.write_json(root / "reports/package/release.json", {"bentos": {"cpu": made}})


def image(letter):
    """An image's name with a digest of this letter."""
    return f"ghcr.io/somebody/stillhouse@sha256:{letter * 64}"


def git(root, *arguments):
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True)


def make_project(root):
    """Models, labels, reports and the first decision, committed; the winner is int8."""
    _io.write_json(root / "releases/current.json", {})
    for name in CANDIDATES:
        make_model(root, name, f"weights of {name}")
    teacher = digest(root / "models/teacher")
    _io.write_json(root / "data/labels/index.json", {"manifest": {"teacher_sha256": teacher}})
    for name, method in (("student", "logits"), ("control", "sft")):
        training = {"recipe": {"method": method}, "init": "prune"}
        _io.write_json(root / f"reports/distill/{name}/distill.json", training)
    made = {"run_id": "0" * 32, "git_commit": "c" * 40}
    _io.write_json(root / "reports/quantize/int8/run.json", made)
    win(root, "int8")
    (root / ".gitignore").write_text("/models\n/reports\n/data\n/mlflow.db*\n/mlartifacts\n")
    (root / "params.yaml").write_text("seed: 20\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "all")
    return root


def aliases(root):
    """The candidate behind each alias of the registered model."""
    from tracking_cases import open_client

    client = open_client(root)
    there = client.get_registered_model("stillhouse").aliases
    return {
        alias: client.get_model_version("stillhouse", str(version)).tags["candidate"]
        for alias, version in there.items()
    }


def versions(root):
    """Candidates of all versions, in the order of their numbers."""
    from tracking_cases import open_client

    found = open_client(root).search_model_versions("name='stillhouse'")
    return [v.tags["candidate"] for v in sorted(found, key=lambda v: int(v.version))]
