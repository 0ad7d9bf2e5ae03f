"""What goes into a backup: copies of small files, objects of DVC's cache, and what both are for."""

import shutil
from pathlib import Path
from typing import NamedTuple

from serving.errors import StillhouseError
from stages import _io, _releases
from stages._backup import database, objects
from stages._backup.manifest import SCHEMA_VERSION, Entry, Manifest
from stages._backup.objects import Out
from stages._backup.place import Place
from stages._provenance import git_state
from stages._releases import Record
from stages._restoring import cache_folder
from stages._stage import print_line
from stages._tracking.registry import read_aliases

RELEASES = Path("releases")


class Gathered(NamedTuple):
    """What goes into a backup, and where it is now."""

    files: dict[str, Path]
    """Copies, by the paths of the project."""
    outs: list[Out]
    released: dict[str, list[Out]]
    """Of the release in force and the one before it, by number."""
    kept: objects.Kept
    left_out: str
    """Why the tracking database is not in it; empty where it is."""


def gather(
    root: Path,
    scratch: Path,
    place: Place,
    chain: list[Record],
    before: Manifest | None,
    left_out: str,
) -> Gathered:
    """Everything that a backup has, where it is now.

    Args:
        scratch: an empty folder for the copies.
        before: the list of the last backup.
        left_out: why the tracking database stays out; empty where it goes in.

    Raises:
        StillhouseError: the model in force is nowhere.
    """
    outs, released = objects.present_outs(root), _released(root, chain, before)
    gathered = Gathered(
        files=_copy_files(root, scratch, with_database=not left_out),
        outs=outs,
        released=released,
        kept=_collect(root, place, [outs, *released.values()], before),
        left_out=left_out,
    )
    _require_champion(chain, gathered)
    if lost := [out.path for out in gathered.kept.missing if out not in outs]:
        print_line(f"  of an earlier release nothing has {', '.join(lost)}")
    return gathered


def _copy_files(root: Path, scratch: Path, with_database: bool) -> dict[str, Path]:
    """Copies of what Git may lack and DVC does not keep: nobody changes them while they are sent.

    Returns:
        Where each is, by its path in the project.
    """
    found = [*(root / RELEASES).glob("*.json"), *(root / database.ARTIFACTS).rglob("*")]
    found += [root / name for name in (objects.LOCK, database.STAMP)]
    copies = {}
    for path in filter(Path.is_file, found):
        name = path.relative_to(root).as_posix()
        copies[name] = scratch / name
        copies[name].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copies[name])
    if with_database:
        copies[database.NAME] = scratch / database.NAME
        database.copy_database(root / database.NAME, copies[database.NAME])
    return copies


def _by_path(outs: list[Out]) -> dict[str, str]:
    return {out.path: out.md5 for out in outs}


def _released(root: Path, chain: list[Record], before: Manifest | None) -> dict[str, list[Out]]:
    """What the release in force and the one before it need to serve, by number."""
    noted = before["released"] if before else {}
    found = filter(None, (_releases.in_force(chain), _releases.before(chain)))
    return {
        str(number): objects.released_outs(root, record, noted.get(str(number), {}))
        for record in found
        for number in [record["release"]]
    }


def _collect(
    root: Path, place: Place, outs: list[list[Out]], before: Manifest | None
) -> objects.Kept:
    """Where all objects are; of a clone that trained, only the last backup has the champion."""
    known = before["objects"] if before else {}
    every = [out for some in outs for out in some]
    return objects.collect(
        cache_folder(root), every, known, lambda md5: place.read(objects.remote_name(md5))
    )


def _require_champion(chain: list[Record], gathered: Gathered) -> None:
    """Refuse a backup that could not serve.

    Raises:
        StillhouseError: the model in force is nowhere.
    """
    serving = _releases.in_force(chain)
    needed = set(objects.winners_of(serving)) if serving else set()
    if serving and (absent := needed & set(gathered.kept.missing)):
        paths = ", ".join(sorted(out.path for out in absent))
        raise StillhouseError(
            f"{paths} of release {serving['release']} is neither in DVC's "
            f"cache nor in the last backup, and without it nobody could serve. Get it: git "
            f"checkout {serving['git']['commit']} && make repro; then come back, run this again."
        )


def _entry(path: Path) -> Entry:
    return {"sha256": _io.sha256_file(path), "bytes": path.stat().st_size}


def _entries(kept: objects.Kept, before: Manifest | None) -> dict[str, Entry]:
    """Their hashes; those of the last backup are taken over, since an object never changes."""
    known = before["objects"] if before else {}
    described = {}
    for md5 in sorted({*kept.objects, *kept.sent}):
        if md5 in known:
            described[md5] = known[md5]
        else:
            objects.check(md5, kept.objects[md5])
            described[md5] = _entry(kept.objects[md5])
    return described


def describe(
    root: Path, chain: list[Record], gathered: Gathered, before: Manifest | None
) -> Manifest:
    """The list of a backup: each file and each object with its hash."""
    commit, dirty = git_state(root, apart_from=RELEASES.name)
    database_copy = gathered.files.get(database.NAME)
    return {
        "schema_version": SCHEMA_VERSION,
        "git": {"commit": commit, "dirty": dirty},
        "serves": chain[-1]["serves"] if chain else None,
        "files": {name: _entry(path) for name, path in sorted(gathered.files.items())},
        "objects": _entries(gathered.kept, before),
        "outs": _by_path(gathered.outs),
        "released": {number: _by_path(outs) for number, outs in gathered.released.items()},
        "missing": sorted(out.path for out in gathered.kept.missing if out in gathered.outs),
        "aliases": read_aliases(database_copy) if database_copy else {},
        "tracking": gathered.left_out or database.NAME,
    }
