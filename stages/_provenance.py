"""Where a result comes from: commit, versions, memory, and the hash DVC knows a file by.

Plain facts about the code, the process and the data, gathered without MLflow or DVC, so that
`reports/<stage>/run.json` can say who made a result even where nothing was tracked.
"""

import getpass
import hashlib
import json
import math
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from serving.errors import StillhouseError

# The packages whose version can change a result; those that are absent are left out.
PACKAGES = (
    "accelerate",
    "bentoml",
    "bitsandbytes",
    "ctranslate2",
    "datasets",
    "dvc",
    "evaluate",
    "mlflow",
    "numpy",
    "onnxruntime",
    "peft",
    "sacrebleu",
    "scikit-learn",
    "stillhouse",
    "tokenizers",
    "torch",
    "transformers",
)


class GitState(NamedTuple):
    """The commit checked out and whether anything differs from it; None outside of Git."""

    commit: str | None
    dirty: bool | None


def git_state(root: Path, apart_from: str = "dvc.lock") -> GitState:
    """The commit of `root` and whether files differ from it.

    `dvc.lock` doesn't count: DVC rewrites it after each stage, so within a pipeline every run but
    the first would be called dirty.
    """
    changed = uncommitted(root, apart_from)
    return GitState(
        commit=_git(root, "rev-parse", "--verify", "--quiet", "HEAD") or None,
        dirty=None if changed is None else bool(changed),
    )


def uncommitted(root: Path, apart_from: str) -> list[str] | None:
    """Files that differ from the commit, but for a file or folder; None outside of Git."""
    status = _git(root, "status", "--porcelain", "--", ".", f":(exclude){apart_from}")
    return None if status is None else [line.split(maxsplit=1)[1] for line in status.splitlines()]


def person(root: Path) -> str:
    """Who runs this: the name that CI or Git has for them, else that of the account."""
    actor = os.environ.get("GITHUB_ACTOR") or os.environ.get("GITLAB_USER_LOGIN")
    return actor or _git(root, "config", "user.name") or getpass.getuser()


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints, stripped; None without git, a repository or a commit."""
    try:
        done = subprocess.run(  # noqa: S603 - nobody's input
            ["git", *arguments],  # noqa: S607 - the git of the person's own PATH is meant
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def installed_versions() -> dict[str, str]:
    """Version of Python and of each installed package in `PACKAGES`."""
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def peak_memory_mb() -> float:
    """Largest resident set of this process so far, in MB (10^6 bytes).

    On Linux this is VmHWM. `getrusage` would do elsewhere, but on Linux its figure survives `exec`:
    a stage that DVC starts would inherit DVC's own 150 MB as a floor.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        status = ""
    if found := re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE):
        return round(int(found[1]) * 1024 / 1e6, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


def file_md5(path: Path) -> str:
    """Hexadecimal MD5 of a file's bytes: DVC's identity of a file, no safeguard against anyone."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, _md5).hexdigest()


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)


def dvc_md5(path: Path) -> str:
    """The hash under which DVC keeps a file or a folder, at most 36 characters.

    A folder's is the MD5 of the JSON list of its files, with `.dir` appended (dvc-data,
    `hashfile/tree.py`), so that what MLflow shows can be looked up in dvc.lock.

    Raises:
        StillhouseError: there is nothing at `path`.
    """
    if not path.exists():
        raise StillhouseError(f"{path} is missing, so it has no hash. Name data that is there.")
    if path.is_file():
        return file_md5(path)
    files = sorted(
        (file.relative_to(path).as_posix(), file)
        for file in path.rglob("*")
        if file.is_file() and file.parent.name != "__pycache__"  # .dvcignore leaves it out too
    )
    listing = [{"md5": file_md5(file), "relpath": name} for name, file in files]
    digest = _md5()
    digest.update(json.dumps(listing, sort_keys=True).encode())
    return f"{digest.hexdigest()}.dir"


def relative_source(path: Path, root: Path) -> str:
    """`path` as written from `root`; only the name of what lies outside, so no machine's path."""
    absolute, base = (root / path).resolve(), root.resolve()
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else path.name


def flat_params(values: Mapping[str, Any]) -> dict[str, str]:
    """Nested parameters as one level of text: {"train": {"lr": 0.1}} -> {"train.lr": "0.1"}."""
    return {key: value if isinstance(value, str) else _json(value) for key, value in _walk(values)}


def flat_numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a nested report, one level deep; anything that is no number is left out."""
    return {
        key: float(value)
        for key, value in _walk(values)
        if isinstance(value, Real) and not isinstance(value, bool)
    }


def finite(numbers: Mapping[str, float]) -> dict[str, float]:
    """Without NaN and infinity, which JSON cannot hold."""
    return {key: value for key, value in numbers.items() if math.isfinite(value)}


def _walk(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested mappings with its dotted key, in letters that MLflow accepts."""
    for name, value in values.items():
        # Letters that MLflow takes; a slash would too, but not as part of every path.
        key = prefix + (re.sub(r"[^\w\-. ]", "_", str(name)) or "_")
        if isinstance(value, Mapping):
            yield from _walk(value, f"{key}.")
        else:
            yield key, value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
