"""Where a released model is: in its folder, in DVC's cache, or behind a command that gets it."""

import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest
from release_cases import git, make_model

from serving.contract import digest
from serving.errors import StillhouseError
from stages._deciding import check_fresh
from stages._provenance import dvc_md5, git_state
from stages._restoring import describe_place, is_cached

COMMIT = {"commit": "c" * 40, "dirty": False}
MODEL = {"folder": "models/variants/int8", "dvc_md5": "ab" + "0" * 30 + ".dir"}


@pytest.fixture
def cache(tmp_path):
    """A cache with the listing of one folder and its two files."""
    objects = tmp_path / ".dvc/cache/files/md5"
    files = [{"md5": "01" + "a" * 30, "relpath": "x"}, {"md5": "02" + "b" * 30, "relpath": "y"}]
    for md5, text in [(MODEL["dvc_md5"], json.dumps(files))] + [(f["md5"], "") for f in files]:
        path = objects / md5[:2] / md5[2:]
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path / ".dvc/cache"


def test_a_folder_is_cached_with_all_its_files_or_not_at_all(cache):
    assert is_cached(cache, MODEL["dvc_md5"])
    (cache / "files/md5/02" / ("b" * 30)).unlink()
    assert not is_cached(cache, MODEL["dvc_md5"])
    assert not is_cached(cache, "cd" + "0" * 30 + ".dir")
    assert not is_cached(cache, "")


def test_a_model_in_its_folder_needs_no_command(tmp_path):
    sha256 = make_model(tmp_path, "int8", "weights")
    model = MODEL | {"model_sha256": sha256}
    assert describe_place(tmp_path, model, COMMIT) == [
        f"models/variants/int8 holds it ({sha256[:12]})"
    ]


def test_a_tampered_folder_does_not_count(tmp_path, cache):
    sha256 = make_model(tmp_path, "int8", "weights")
    (tmp_path / "models/variants/int8/weights.txt").write_text("tampered")
    lines = describe_place(tmp_path, MODEL | {"model_sha256": sha256}, COMMIT)
    assert "does not hold it" in lines[0]
    assert lines[0].endswith("DVC's cache has it")
    folder = "models/variants/int8"
    assert lines[1] == f"get it: dvc get . {folder} --rev {'c' * 40} --out {folder} --force"
    assert len(lines) == 3, "the last tells how to check what came"


def test_what_is_nowhere_can_be_made_again(tmp_path):
    lines = describe_place(tmp_path, MODEL | {"model_sha256": "e" * 64}, COMMIT)
    assert "neither here nor in DVC's cache" in lines[0]
    assert f"git checkout {'c' * 40} && make repro" in lines[2]


def test_a_release_of_uncommitted_files_says_that_its_commit_may_lack_it(tmp_path):
    git = {"commit": None, "dirty": None}
    lines = describe_place(tmp_path, MODEL | {"model_sha256": "e" * 64}, git)
    assert "no commit holds" in lines[1]
    assert not any("--rev" in line for line in lines)


DVC_YAML = """
stages:
  quantize:
    cmd: cp -r source/. models/variants/int8
    deps: [source]
    outs: [models/variants/int8]
  select:
    cmd: cp models/variants/int8/contract.json models/winner.json
    deps: [models/variants/int8, releases/current.json]
    outs: [models/winner.json]
"""


def dvc(root, *arguments):
    command = [sys.executable, "-m", "dvc", *arguments]
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run(command, cwd=root, check=True, capture_output=True, env=environment)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A DVC project of two stages, run and committed; the digest of its model."""
    root = tmp_path_factory.mktemp("pipeline")
    sha256 = make_model(root, "int8", "weights")
    (root / "models/variants/int8").rename(root / "source")
    (root / "models/variants/int8").mkdir()
    (root / "releases").mkdir()
    (root / "releases/current.json").write_text("{}\n")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / ".gitignore").write_text("/models\n")
    git(root, "init", "-q")
    dvc(root, "init", "-q")
    dvc(root, "repro", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "all")
    return root, sha256


@pytest.mark.slow
def test_the_command_that_is_named_gets_the_model_out_of_the_cache(pipeline):
    root, sha256 = pipeline
    model = MODEL | {"model_sha256": sha256, "dvc_md5": dvc_md5(root / "models/variants/int8")}
    state = git_state(root)
    there = {"commit": state.commit, "dirty": state.dirty}
    shutil.rmtree(root / "models/variants/int8")
    place, command, _ = describe_place(root, model, there)
    assert place.endswith("DVC's cache has it")
    dvc(root, *shlex.split(command)[3:])  # get it: dvc ...
    assert digest(root / "models/variants/int8") == sha256
    assert len(describe_place(root, model, there)) == 1


@pytest.mark.slow
def test_a_decision_made_from_other_files_is_out_of_date(pipeline):
    root, _ = pipeline
    dvc(root, "checkout", "-q")
    check_fresh(root)
    (root / "source/weights.txt").write_text("trained again")
    with pytest.raises(StillhouseError, match="out of date: quantize would come out anew"):
        check_fresh(root)
    (root / "dvc.yaml").write_text("stages: [")
    with pytest.raises(StillhouseError, match="dvc status failed") as caught:
        check_fresh(root)
    assert "\n" not in str(caught.value)
