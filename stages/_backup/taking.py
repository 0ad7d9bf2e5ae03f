"""Taking a backup back: first all of it comes here and is checked, then it is put in its place."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from serving.errors import StillhouseError
from stages import _io
from stages._backup import database, objects
from stages._backup.comparing import lacking
from stages._backup.manifest import Entry, Manifest, file_name
from stages._backup.place import Place
from stages._recorder import one_line
from stages._restoring import object_path

CURRENT = "releases/current.json"


def fetch_files(place: Place, manifest: Manifest, staging: Path) -> None:
    """All files but DVC's to `staging`, by their SHA-256; those that are there whole stay.

    Raises:
        StillhouseError: some are not what the backup says.
    """
    entries = manifest["files"].values()
    _fetch(place, {file_name(e["sha256"]): (staging / e["sha256"], e) for e in entries})


def fetch_objects(place: Place, manifest: Manifest, cache: Path) -> None:
    """All objects into DVC's cache, where a damaged one is replaced.

    Raises:
        StillhouseError: some are not what the backup says.
    """
    wanted = {
        objects.remote_name(md5): (object_path(cache, md5), entry)
        for md5, entry in manifest["objects"].items()
    }
    _fetch(place, wanted)
    for md5 in manifest["objects"]:
        objects.check(md5, object_path(cache, md5))
        object_path(cache, md5).chmod(0o444)  # DVC's sign that nobody writes to it


def _fetch(place: Place, wanted: Mapping[str, tuple[Path, Entry]]) -> None:
    lacking = {name: path for name, (path, entry) in wanted.items() if not _is(path, entry)}
    parts = {name: path.with_name(f"{path.name}.part") for name, path in lacking.items()}
    place.fetch(parts)
    wrong = [name for name, part in parts.items() if not _is(part, wanted[name][1])]
    for name, part in parts.items():
        if name in wrong:
            part.unlink()
        else:
            lacking[name].unlink(missing_ok=True)  # DVC's cache is read-only
            part.replace(lacking[name])
    if wrong:
        raise StillhouseError(
            f"{len(wrong)} files in {place.shown} are not what was sent, {wrong[0]} among them. "
            f"Nothing here was replaced. Take an earlier backup (--backup ID), or make a new one "
            f"where the project still is."
        )


def _is(path: Path, entry: Entry) -> bool:
    return (
        path.is_file()
        and path.stat().st_size == entry["bytes"]
        and _io.sha256_file(path) == entry["sha256"]
    )


def set_aside(root: Path, paths: Iterable[str], kept: Path) -> None:
    """Move what a restore replaces to the folder `kept`, under the paths that it has."""
    for name in dict.fromkeys(paths):
        journals = [f"{name}-wal", f"{name}-shm"] if name == database.NAME else []
        for moved in (name, *journals):
            if (root / moved).exists():
                (kept / moved).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(root / moved, kept / moved)


def put_files(root: Path, manifest: Manifest, staging: Path, names: Iterable[str]) -> None:
    """Put files of the backup in their places, each whole or not at all."""
    for name in names:
        source, target = staging / manifest["files"][name]["sha256"], root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part")
        shutil.copyfile(source, part)
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(target)


def in_order(names: Iterable[str]) -> list[str]:
    """Files as they are put: what says what is in force is the last."""
    return sorted(names, key=lambda name: (name == CURRENT, name.startswith("releases/"), name))


def check_out(root: Path, outs: Sequence[objects.Out], missing: Sequence[str]) -> None:
    """Have DVC lay the outputs of dvc.lock out from its cache.

    Args:
        missing: paths that the cache lacks.

    Raises:
        StillhouseError: DVC refuses, or this clone's dvc.yaml does not know some of them.
    """
    command = [sys.executable, "-m", "dvc", "checkout", "--quiet"]
    command += ["--allow-missing"] if missing else []
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        raise StillhouseError(f"dvc checkout failed: {one_line(Exception(done.stderr))}")
    if left := lacking(root, outs, missing):
        raise StillhouseError(
            f"dvc checkout did not make {left[0]} ({len(left)} in all): this clone's dvc.yaml is "
            f"of another commit. Check out the backup's and run the same command again."
        )
