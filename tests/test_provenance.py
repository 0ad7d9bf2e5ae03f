"""Facts about code, process and data: commit, memory, names and the hashes that DVC gives."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import StillhouseError
from stages._provenance import (
    dvc_md5,
    flat_numbers,
    flat_params,
    git_state,
    peak_memory_mb,
    person,
    uncommitted,
)


def test_params_and_metrics_become_one_level_of_names_that_mlflow_takes():
    values = {"a": 1, "b": {"c": [1, 2], "d/e": "x", "f": {"g@h": 2.5}}, "ok": True, "no": None}
    assert flat_params(values) == {
        "a": "1",
        "b.c": "[1, 2]",
        "b.d_e": "x",
        "b.f.g_h": "2.5",
        "ok": "true",
        "no": "null",
    }
    assert flat_numbers(values) == {"a": 1.0, "b.f.g_h": 2.5}


def test_a_folder_has_the_hash_that_dvc_gives_it(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_text("hello\n")
    (tmp_path / "a").write_text("")
    listing = (
        '[{"md5": "d41d8cd98f00b204e9800998ecf8427e", "relpath": "a"}, '
        '{"md5": "b1946ac92492d2347c6235b4d2611184", "relpath": "b/x"}]'
    )
    assert dvc_md5(tmp_path) == hashlib.md5(listing.encode()).hexdigest() + ".dir"
    with pytest.raises(StillhouseError, match="is missing"):
        dvc_md5(tmp_path / "nothing")


def test_a_commit_is_dirty_by_any_file_but_the_lock(tmp_path):
    assert git_state(tmp_path) == (None, None)
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "m"], cwd=tmp_path, check=True)
    (tmp_path / "dvc.lock").write_text("")
    commit, dirty = git_state(tmp_path)
    assert (len(commit), dirty) == (40, False)
    (tmp_path / "code.py").write_text("")
    assert git_state(tmp_path) == (commit, True)
    assert git_state(tmp_path, apart_from="code.py") == (commit, True), "then the lock does count"


def test_uncommitted_files_are_named_whatever_became_of_them(tmp_path):
    assert uncommitted(tmp_path, apart_from="releases") is None
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run([*git, "init", "-q"], cwd=tmp_path, check=True)
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("")
    subprocess.run([*git, "add", "-A"], cwd=tmp_path, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "m"], cwd=tmp_path, check=True)
    assert uncommitted(tmp_path, apart_from="releases") == []
    (tmp_path / "a.py").write_text("changed")
    (tmp_path / "b.py").unlink()
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases/1.json").write_text("")
    assert uncommitted(tmp_path, apart_from="releases") == ["a.py", "b.py"]


def test_who_runs_this_is_named_by_ci_or_git(tmp_path, monkeypatch):
    monkeypatch.delenv("GITLAB_USER_LOGIN", raising=False)
    monkeypatch.delenv("GITHUB_ACTOR", raising=False)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "config", "user.name", "somebody"], cwd=tmp_path, check=True)
    assert person(tmp_path) == "somebody"
    monkeypatch.setenv("GITHUB_ACTOR", "a-robot")
    assert person(tmp_path) == "a-robot"


def test_peak_memory_is_this_process_not_the_one_that_started_it():
    ballast = bytearray(b"x" * 400_000_000)
    code = "from stages._provenance import peak_memory_mb; print(peak_memory_mb())"
    root = Path(__file__).parent.parent
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True).stdout
    assert float(out) < 200 < len(ballast) / 1e6 < peak_memory_mb()
