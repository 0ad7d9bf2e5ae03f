"""Backup: what a clone of the repository lacks to serve the champion goes to a folder or to S3.

Reads   dvc.lock, DVC's cache, releases/, mlflow.db, mlartifacts/; in Git the dvc.lock of the
        release in force and of the one before it
Writes  REMOTE/dvc (a DVC remote), REMOTE/files, REMOTE/backups/<id>.json, which is written last
Run     python -m stages.backup REMOTE        # a folder, or s3://bucket/folder

Only what is not there yet is sent; after an interruption the same command goes on. Where nothing
has changed, there is no new backup. Not in it: data/live, data/windows and data/raw (prompts and
what is yours), models/incumbent, the code (Git has it).
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from serving.errors import StillhouseError
from stages import _releases
from stages._backup import database, objects
from stages._backup.gathering import Gathered, describe, gather
from stages._backup.manifest import (
    Manifest,
    file_name,
    list_backups,
    read_manifest,
    write_manifest,
)
from stages._backup.place import Place
from stages._stage import print_line

RELEASES = Path("releases")


def backup(root: Path, remote: str) -> str:
    """Send what the remote lacks; returns the id of the backup that holds the present state.

    Raises:
        StillhouseError: the model in force is not in DVC's cache, the tracking store cannot be
            copied, or the remote cannot be used.
    """
    place = Place(remote)
    left_out = database.why_not(root)
    with _releases.holding(root / RELEASES), _scratch(root) as scratch:
        chain = _releases.read_chain(root / RELEASES)
        _releases.repair(root / RELEASES, chain)
        last, before = _last(place)
        gathered = gather(root, scratch, place, chain, before, left_out)
        manifest = describe(root, chain, gathered, before)
        _send(place, manifest, gathered)
        if manifest == before:
            print_line(f"backup {last} holds all this already: no new backup")
            return last
        made = write_manifest(place, manifest)
    _tell(place, made, manifest)
    return made


@contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    (root / "scratch").mkdir(exist_ok=True)
    with TemporaryDirectory(dir=root / "scratch", prefix="backup-") as folder:
        yield Path(folder)


def _last(place: Place) -> tuple[str, Manifest | None]:
    """The newest backup that is whole; a damaged list must not keep another backup off."""
    for backup in reversed(list_backups(place)):
        try:
            return backup, read_manifest(place, backup)
        except StillhouseError as error:
            print_line(f"warning: {error}")
    return "", None


def _send(place: Place, manifest: Manifest, gathered: Gathered) -> None:
    """Send what is not there in its whole size.

    Raises:
        StillhouseError: afterwards something is not there.
    """
    files, sizes = _by_name(manifest, gathered), _sizes(manifest)
    there = place.sizes("files") | place.sizes("dvc")
    lacking = [name for name, size in sizes.items() if there.get(name) != size]
    if lost := [name for name in lacking if name not in files]:
        raise StillhouseError(
            f"{place.shown} has lost {lost[0]} ({len(lost)} in all), and DVC's cache here does not "
            f"have it. Run this where the cache has it, or name another place."
        )
    place.send({name: files[name] for name in lacking})
    sent_mb = sum(sizes[name] for name in lacking) / 1e6
    print_line(f"backup: {len(lacking)} of {len(sizes)} files sent, {sent_mb:.1f} MB")
    there = place.sizes("files") | place.sizes("dvc")
    if short := [name for name, size in sizes.items() if there.get(name) != size]:
        raise StillhouseError(
            f"{place.shown} lacks {len(short)} files that were sent, {short[0]} among them. Run "
            f"the same command again."
        )


def _by_name(manifest: Manifest, gathered: Gathered) -> dict[str, Path]:
    """What is here, by its name in the remote."""
    entries = manifest["files"].items()
    files = {file_name(entry["sha256"]): gathered.files[name] for name, entry in entries}
    here = gathered.kept.objects.items()
    return files | {objects.remote_name(md5): path for md5, path in here}


def _sizes(manifest: Manifest) -> dict[str, int]:
    """Bytes of all that has to be there, by its name in the remote."""
    files = {file_name(e["sha256"]): e["bytes"] for e in manifest["files"].values()}
    kept = manifest["objects"].items()
    return files | {objects.remote_name(md5): entry["bytes"] for md5, entry in kept}


def _tell(place: Place, made: str, manifest: Manifest) -> None:
    entries = [*manifest["files"].values(), *manifest["objects"].values()]
    whole_mb = sum(entry["bytes"] for entry in entries) / 1e6
    print_line(f"backup {made}: {len(entries)} files, {whole_mb:.1f} MB in all, {place.shown}")
    if manifest["serves"] is None:
        print_line("  nothing was released yet, so it has no champion")
    if manifest["tracking"] != database.NAME:
        print_line(f"  without the tracking database: {manifest['tracking']}")
    if manifest["missing"]:
        print_line(f"  not in DVC's cache, so not in it: {', '.join(manifest['missing'])}")
    if manifest["git"]["dirty"] or not manifest["git"]["commit"]:
        print_line("  some files differ from the commit, and Git alone keeps those: commit them")
    print_line(f"Next: in a clone of commit {manifest['git']['commit']}, with the same REMOTE:")
    print_line(f"      make restore REMOTE={place.shown}")


def main() -> None:
    """Back the project up."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.backup",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("remote", help="a folder, or s3://bucket/folder")
    given = parser.parse_args()
    try:
        backup(Path.cwd(), given.remote)
    except StillhouseError as error:
        sys.exit(f"error: backup: {error}")


if __name__ == "__main__":
    main()
