"""Restore: a backup comes back, into an empty clone too, which then serves the champion.

Reads   REMOTE as `make backup` left it: its newest backup, or the one named
Writes  releases/, dvc.lock, mlflow.db, mlartifacts/, DVC's cache and from it data/, models/ and
        reports/ as dvc.lock names them; before-restore/<time>/ with --force
Run     python -m stages.restore REMOTE [--backup ID] [--force]

First everything is fetched and each hash is checked; only then is anything replaced, what says what
is in force last. After an interruption the same command goes on. What is here and differs from the
backup is not overwritten: --force moves it to before-restore/ and goes on. Nothing is trained.
"""

import argparse
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

from serving.contract import read_contract
from serving.errors import StillhouseError
from stages import _io, _releases
from stages._backup import database, objects
from stages._backup.comparing import differences
from stages._backup.manifest import Manifest, list_backups, read_manifest
from stages._backup.place import Place
from stages._backup.taking import (
    check_out,
    fetch_files,
    fetch_objects,
    in_order,
    put_files,
    set_aside,
)
from stages._provenance import git_state
from stages._releases import Record
from stages._restoring import cache_folder
from stages._roles import describe_winners
from stages._stage import print_line
from stages._tracking.registry import read_aliases

RELEASES = Path("releases")
SCRATCH = Path("scratch/restore")
ASIDE = Path("before-restore")
SHOWN = 3  # paths in a message


def restore(root: Path, remote: str, backup: str = "", force: bool = False) -> Manifest:
    """Bring a backup back; returns what it holds.

    Args:
        backup: its id; empty: the newest.
        force: whether what differs here may step aside.

    Raises:
        StillhouseError: there is no such backup, a hash is wrong, or something here differs.
    """
    place = Place(remote)
    backup = backup or _newest(place)
    manifest = read_manifest(place, backup)
    staging = root / SCRATCH / backup
    with _releases.holding(root / RELEASES):
        print_line(f"restore {backup}, taken at commit {manifest['git']['commit']}")
        fetch_files(place, manifest, staging)
        _check_aliases(manifest, staging)
        outs = [objects.Out(path, md5) for path, md5 in manifest["outs"].items()]
        others = differences(root, manifest, outs, staging)
        if others and not force:
            _refuse(others, manifest)
        fetch_objects(place, manifest, cache_folder(root))
        if others:
            _move_aside(root, others)
        *first, last = in_order(manifest["files"])
        put_files(root, manifest, staging, first)
        if outs:
            check_out(root, outs, manifest["missing"])
        put_files(root, manifest, staging, [last])
        shutil.rmtree(staging)
        _tell(root, manifest, _releases.read_chain(root / RELEASES))
    return manifest


def _newest(place: Place) -> str:
    known = list_backups(place)
    if not known:
        raise StillhouseError(f"{place.shown} has no backup. Name another place.")
    return known[-1]


def _check_aliases(manifest: Manifest, staging: Path) -> None:
    """Refuse a database whose aliases are not those that the backup noted, before it is put."""
    entry = manifest["files"].get(database.NAME)
    if entry is None:
        return
    copy = staging / "aliases.db"  # MLflow may write to what it opens
    database.copy_database(staging / entry["sha256"], copy)
    found = read_aliases(copy)
    if found != manifest["aliases"]:
        raise StillhouseError(
            f"the database in the backup has the aliases {found}, expected {manifest['aliases']}. "
            f"Take an earlier backup (--backup ID)."
        )


def _refuse(others: list[str], manifest: Manifest) -> None:
    shown = ", ".join(others[:SHOWN]) + (f" and {len(others) - SHOWN} more" * (len(others) > SHOWN))
    raise StillhouseError(
        f"{shown} would be overwritten: expected nothing, or what the backup has. Restore into a "
        f"clone of commit {manifest['git']['commit']}, or move all that aside: "
        f"make restore REMOTE=... ARGS=--force"
    )


def _move_aside(root: Path, others: list[str]) -> None:
    kept = ASIDE / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    set_aside(root, others, root / kept)
    print_line(f"  {len(others)} that differed were moved to {kept}/")


def _tell(root: Path, manifest: Manifest, chain: list[Record]) -> None:
    entries = [*manifest["files"].values(), *manifest["objects"].values()]
    whole_mb = sum(entry["bytes"] for entry in entries) / 1e6
    print_line(f"restored: {len(entries)} files, {whole_mb:.1f} MB, every hash checked")
    for model, aliases in manifest["aliases"].items():
        told = ", ".join(f"{alias} {sha256[:12]}" for alias, sha256 in aliases.items())
        print_line(f"  MLflow model {model}: {told or 'no aliases'}")
    if manifest["tracking"] != database.NAME:
        print_line(f"  without the tracking database: {manifest['tracking']}")
    if manifest["missing"]:
        print_line(f"  the backup lacks {', '.join(manifest['missing'])}")
    if git_state(root).commit != manifest["git"]["commit"]:
        print_line(f"  its code is at another commit: git checkout {manifest['git']['commit']}")
    if serving := _releases.in_force(chain):
        _tell_champion(root, serving)


def _tell_champion(root: Path, serving: Record) -> None:
    """Whether what lies in models/ is what is in force, and how it gets there otherwise."""
    for line in describe_winners(serving):
        print_line(f"  release {serving['release']} is in force: {line}")
    if _serves(root, serving):
        print_line("Next: make serve")
        return
    print_line("  models/winner.json was decided after it and names another model. The champion:")
    # of that run the backup has what serves, models/, and not every report
    checkout = "dvc checkout --allow-missing"
    print_line(f"Next: git checkout {serving['git']['commit']} -- dvc.lock && {checkout}")


def _serves(root: Path, serving: Record) -> bool:
    """Whether the service would load the models that are in force."""
    chosen = root / "models/winner.json"
    winners = _io.read_json(chosen) if chosen.is_file() else {}
    for device, winner in serving["winners"].items():
        named = winners.get(device) or {}
        if winner and named.get("model_sha256") != winner["model_sha256"]:
            return False
        if winner:
            read_contract(root / named["folder"])  # each file's hash
    return True


def main() -> None:
    """Restore the project."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.restore",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("remote", help="a folder, or s3://bucket/folder")
    parser.add_argument("--backup", metavar="ID", default="", help="which one (the newest)")
    parser.add_argument(
        "--force", action="store_true", help="move what differs here to before-restore/"
    )
    given = parser.parse_args()
    try:
        restore(Path.cwd(), given.remote, given.backup, given.force)
    except StillhouseError as error:
        sys.exit(f"error: restore: {error}")


if __name__ == "__main__":
    main()
