"""From a release to its backup, and to an empty clone that serves the champion untrained."""

import json
import os
import shlex
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from backup_cases import choose, clone, dvc, make_released, release_anew, state
from release_cases import CANDIDATES, aliases, git
from toy import example, write_prepared
from tracking_cases import VARIABLES, open_client

from serving.contract import digest, read_contract, write_contract
from serving.errors import StillhouseError
from stages import _io
from stages._backup.manifest import file_name, list_backups, read_manifest, write_manifest
from stages._backup.place import Place
from stages._params import check_params
from stages._served import served
from stages.backup import backup
from stages.restore import restore
from stages.rollback import rollback

pytest.importorskip("ctranslate2")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
PARAMS = check_params({"baseline": {"confidence_rows": 50, "jobs": 1}}, Path("params.yaml"))
PROMPT = example("Zizzi", "pies", "no")["prompt"]
START_S = 240.0
KEPT = ("models/", "reports/", "releases/", "mlartifacts/", "dvc.lock")


def put_models(root):
    """Two tiny models and a baseline that a service can load, and the service's own code."""
    from converted_models import write_converted
    from tiny_models import write_model

    from stages.baseline import baseline

    plain, prepared = write_model(root.parent / "plain"), root.parent / "prepared"
    for name, params_hash in (("int8", "1" * 64), ("nf4", "2" * 64)):
        folder = root / CANDIDATES[name]
        shutil.rmtree(folder)
        write_converted(folder, plain)
        write_contract(folder, replace(read_contract(folder), params_hash=params_hash))
        report = _io.read_json(root / f"reports/evaluate/{name}.json")
        report["model"]["sha256"] = digest(folder)
        _io.write_json(root / f"reports/evaluate/{name}.json", report)
    write_prepared(prepared)
    inputs = {n: prepared / n for n in ("train.jsonl", "validation.jsonl", "slots.json")}
    outputs = {"model": root / "models/baseline", "reports": root.parent / "baseline"}
    baseline(PARAMS, inputs, outputs)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "serving", root / "serving", ignore=ignored)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Release 1, of int8, and its backup in `remote` beside the project."""
    root = tmp_path_factory.mktemp("kept") / "project"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        make_released(root, put_models)
        backup(root, str(root.parent / "remote"))
        yield root


def empty_clone(project, to):
    """A clone in which there is nothing to serve."""
    clone(project, to)
    assert not any((to / name).exists() for name in ("models", "reports", "mlflow.db"))
    assert not (to / ".dvc/cache").exists()
    return to


def ask(folder):
    """The answer of the service that a project's own code and models make."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("STILLHOUSE_", "BENTOML_"))}
    kept.pop("PYTHONPATH", None)
    home = str(folder / "scratch/bentoml")
    told = {**kept, "BENTOML_HOME": home, "STILLHOUSE_DRAIN_NOTICE_S": "0"}
    with served("serving.service:Stillhouse", folder, told, START_S) as running:
        answer = httpx.post(
            f"{running.url}/generate", json={"prompt": PROMPT}, trust_env=False, timeout=60
        )
        classic = httpx.post(
            f"{running.url}/baseline", json={"prompt": PROMPT}, trust_env=False, timeout=60
        )
    assert (answer.status_code, classic.status_code) == (200, 200)
    return answer.json()["text"], classic.json()["text"]


def test_an_empty_clone_serves_the_champion_and_knows_its_aliases(project, tmp_path, capsys):
    there = empty_clone(project, tmp_path / "clone")
    restore(there, str(project.parent / "remote"))
    out = capsys.readouterr().out
    assert "release 1 is in force: cpu: int8" in out
    assert "Next: make serve" in out
    assert ask(there) == ask(project)
    found, expected = (
        {name: sha256 for name, sha256 in state(root).items() if name.startswith(KEPT)}
        for root in (there, project)
    )
    assert found == expected
    assert aliases(there) == {"challenger": "int8", "champion": "int8"}
    changed = json.loads(dvc(there, "status", "--json"))
    assert changed == json.loads(dvc(project, "status", "--json")), "no stage would run but select"


def test_the_remote_is_one_that_dvc_pulls_from(project, tmp_path):
    there = empty_clone(project, tmp_path / "clone")
    dvc(there, "remote", "add", "-q", "kept", str(project.parent / "remote/dvc"))
    dvc(there, "pull", "-q", "--remote", "kept")
    for name in ("int8", "nf4"):
        assert digest(there / CANDIDATES[name]) == digest(project / CANDIDATES[name])


def test_the_aliases_of_a_backup_are_those_of_its_database(project, tmp_path):
    remote = Place(str(project.parent / "remote"))
    manifest = read_manifest(remote, list_backups(remote)[0])
    champion = digest(project / CANDIDATES["int8"])
    assert manifest["aliases"] == {"stillhouse": {"challenger": champion, "champion": champion}}


def test_a_database_with_other_aliases_than_noted_is_not_put(project, tmp_path):
    shutil.copytree(project.parent / "remote", tmp_path / "remote")
    remote = Place(str(tmp_path / "remote"))
    manifest = read_manifest(remote, list_backups(remote)[0])
    shutil.copy(project / "mlflow.db", tmp_path / "other.db")
    with closing(sqlite3.connect(tmp_path / "other.db")) as other, other:
        other.execute("DELETE FROM registered_model_aliases")
    other_sha256 = _io.sha256_file(tmp_path / "other.db")
    remote.send({file_name(other_sha256): tmp_path / "other.db"})
    size = (tmp_path / "other.db").stat().st_size
    manifest["files"]["mlflow.db"] = {"sha256": other_sha256, "bytes": size}
    made = write_manifest(remote, manifest)
    there = empty_clone(project, tmp_path / "clone")
    with pytest.raises(StillhouseError, match=r"has the aliases \{'stillhouse': \{\}\}, expected"):
        restore(there, str(tmp_path / "remote"), backup=made)
    assert not (there / "mlflow.db").exists()


def test_a_database_that_has_gone_on_is_kept_aside_with_force_only(project, tmp_path):
    there = empty_clone(project, tmp_path / "clone")
    remote = str(project.parent / "remote")
    restore(there, remote)
    restore(there, remote)  # twice changes nothing
    assert aliases(there)["champion"] == "int8"
    open_client(there).delete_registered_model_alias("stillhouse", "champion")
    with pytest.raises(StillhouseError, match=r"mlflow\.db would be overwritten"):
        restore(there, remote)
    restore(there, remote, force=True)
    (aside,) = (there / "before-restore").iterdir()
    assert (aside / "mlflow.db").is_file()
    manifest = read_manifest(Place(remote), list_backups(Place(remote))[0])
    assert manifest["files"]["mlflow.db"]["sha256"] == _io.sha256_file(there / "mlflow.db")


def test_after_a_rollback_the_clone_is_told_how_it_gets_the_champion(project, tmp_path, capsys):
    there = tmp_path / "project"
    shutil.copytree(project, there)
    remote = str(tmp_path / "remote")
    (there / "models/winner.json").unlink()
    choose(there, "nf4")
    release_anew(there)
    rollback(there, "python -m stages.rollback")
    git(there, "add", "-A")
    git(there, "commit", "-qm", "Back")
    backup(there, remote)
    restore(empty_clone(there, tmp_path / "clone"), remote)
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "git checkout" in one]
    first, second = line.removeprefix("Next: ").split(" && ")
    git(tmp_path / "clone", *shlex.split(first)[1:])
    dvc(tmp_path / "clone", *shlex.split(second)[1:])
    served_now = _io.read_json(tmp_path / "clone/models/winner.json")["cpu"]
    assert served_now["candidate"] == "int8"
    assert digest(tmp_path / "clone" / served_now["folder"]) == served_now["model_sha256"]
