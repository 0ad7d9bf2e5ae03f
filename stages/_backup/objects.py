"""What DVC keeps of the pipeline and of releases: objects of its cache, named by their MD5.

`dvc push` needs a plugin for S3 and knows no way to a release that a later run has replaced, so the
objects go as they lie in the cache, in the layout that a DVC remote has.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from serving.errors import StillhouseError
from stages._provenance import file_md5
from stages._recorder import one_line
from stages._releases import Record
from stages._restoring import object_path

LOCK = "dvc.lock"
NEEDED = "models/"  # what serves: model folders, winner.json, route.json, the Bento


class Out(NamedTuple):
    """An output of a stage, or a model of a release."""

    path: str
    md5: str
    """Of the file, or of a folder's listing, which ends in .dir."""


class Kept(NamedTuple):
    """What there is of some outputs, and what is nowhere."""

    objects: dict[str, Path]
    """Where DVC's cache has them, by MD5."""
    sent: set[str]
    """MD5s of those that only an earlier backup has."""
    missing: list[Out]
    """Outputs that are not all there."""


def present_outs(root: Path) -> list[Out]:
    """The outputs of the pipeline as it is; a dvc.lock keeps those of stages that are gone, too.

    Raises:
        StillhouseError: DVC cannot read dvc.yaml, or dvc.lock is damaged.
    """
    if not (root / LOCK).is_file():
        return []
    command = [sys.executable, "-m", "dvc", "stage", "list", "--name-only"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        raise StillhouseError(f"dvc stage list failed: {one_line(Exception(done.stderr))}")
    return outs_of((root / LOCK).read_text(encoding="utf-8"), done.stdout.split())


def outs_of(lock: str, names: Collection[str] | None = None) -> list[Out]:
    """The outputs that the text of a dvc.lock names; none where it is empty.

    Args:
        names: stages that count; None: all.

    Raises:
        StillhouseError: it is no dvc.lock.
    """
    try:
        stages = (YAML(typ="safe", pure=True).load(lock) or {}).get("stages", {})
        counted = [stage for name, stage in stages.items() if names is None or name in names]
        outs = [out for stage in counted for out in stage.get("outs", [])]
        return [Out(out["path"], out["md5"]) for out in outs if "md5" in out]
    except (YAMLError, AttributeError, KeyError, TypeError):
        raise StillhouseError(f'{LOCK} is damaged. Run "git checkout -- {LOCK}".') from None


def released_outs(root: Path, record: Record, noted: Mapping[str, str]) -> list[Out]:
    """What a release needs to serve, by the dvc.lock of its commit.

    Args:
        noted: what an earlier backup knew of it, for a clone that does not have the commit.
    """
    commit = record["git"]["commit"]
    outs = outs_of(_lock_at(root, commit)) if commit else []
    serving = [out for out in outs if out.path.startswith(NEEDED)]
    return [*winners_of(record), *(serving or [Out(*one) for one in noted.items()])]


def winners_of(record: Record) -> list[Out]:
    """The models that a release serves."""
    models = record["candidates"]
    names = [winner["candidate"] for winner in record["winners"].values() if winner]
    return [Out(models[name]["folder"], models[name]["dvc_md5"]) for name in names]


def _lock_at(root: Path, commit: str) -> str:
    """dvc.lock at a commit; empty where the commit, or the file in it, is not known here."""
    command = ["git", "show", f"{commit}:./{LOCK}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)  # noqa: S603
    return done.stdout if done.returncode == 0 else ""


def collect(
    cache: Path,
    outs: Iterable[Out],
    known: Collection[str] = (),
    read: Callable[[str], bytes] = lambda _: b"[]",
) -> Kept:
    """Where the objects of these outputs are: in DVC's cache, or in an earlier backup.

    Args:
        known: MD5s of the objects that the earlier backup has.
        read: gives one of them.
    """
    kept = Kept({}, set(), [])
    for out in dict.fromkeys(outs):
        names = list(_names(cache, out.md5, known, read))
        there = {md5: path for md5 in names if (path := object_path(cache, md5)).is_file()}
        elsewhere = set(names) - there.keys()
        if elsewhere <= set(known):
            kept.objects.update(there)
            kept.sent.update(elsewhere)
        else:
            kept.missing.append(out)
    return kept


def _names(
    cache: Path, md5: str, known: Collection[str], read: Callable[[str], bytes]
) -> Iterator[str]:
    """MD5s of an output: the file's, or those of a folder's listing and of every file in it."""
    yield md5
    path = object_path(cache, md5)
    if md5.endswith(".dir") and (path.is_file() or md5 in known):
        listing = path.read_bytes() if path.is_file() else read(md5)
        yield from (entry["md5"] for entry in json.loads(listing))


def check(md5: str, path: Path) -> None:
    """Refuse an object whose bytes are others than its name says.

    Raises:
        StillhouseError: it is damaged.
    """
    if file_md5(path) != md5.removesuffix(".dir"):
        raise StillhouseError(
            f"{path.name} in DVC's cache is damaged: its MD5 is not {md5}. Delete {path} and run "
            f'"make repro" to make it again.'
        )


def remote_name(md5: str) -> str:
    """Where an object lies in a backup."""
    return object_path(Path("dvc"), md5).as_posix()
