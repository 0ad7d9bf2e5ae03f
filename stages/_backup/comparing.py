"""What a restore would overwrite: everything here that is other than what the backup has.

A clone is behind its backup and has nothing of its own: decision records that the backup goes on
from are no difference, and neither is what is not there.
"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from stages import _io
from stages._backup import database, objects
from stages._backup.manifest import Manifest
from stages._provenance import dvc_md5

RELEASES = "releases"
# Copies and proposals: the records beside them say what is in force.
FOLLOWING = (f"{RELEASES}/current.json", f"{RELEASES}/challenger.json")


def differences(
    root: Path, manifest: Manifest, outs: Iterable[objects.Out], scratch: Path
) -> list[str]:
    """Paths that hold something else than the backup.

    Args:
        outs: outputs as the backup's dvc.lock names them.
        scratch: where a copy of the database may be made.
    """
    return [
        *_other_files(root, manifest, scratch),
        *_later_records(root, manifest),
        *_other_outs(root, outs),
    ]


def lacking(root: Path, outs: Iterable[objects.Out], missing: Collection[str]) -> list[str]:
    """Outputs that are not in their places as they should be, those `missing` apart."""
    absent = [out.path for out in outs if not (root / out.path).exists()]
    return [path for path in (*absent, *_other_outs(root, outs)) if path not in missing]


def _other_files(root: Path, manifest: Manifest, scratch: Path) -> Iterator[str]:
    for name, entry in manifest["files"].items():
        path = root / name
        if name in FOLLOWING or name == database.STAMP or not path.exists():
            continue
        same = path.is_file() and _io.sha256_file(path) == entry["sha256"]
        if not same and name == database.NAME and path.is_file():
            # where the backup was made, the file differs from its copy in a counter
            database.copy_database(path, scratch / "present.db")
            same = _io.sha256_file(scratch / "present.db") == entry["sha256"]
        if not same:
            yield name


def _later_records(root: Path, manifest: Manifest) -> Iterator[str]:
    """Decision records that the backup does not have: it is older, or of another project."""
    for path in sorted((root / RELEASES).glob("*.json")):
        name = f"{RELEASES}/{path.name}"
        if path.stem.isdecimal() and name not in manifest["files"]:
            yield name


def _other_outs(root: Path, outs: Iterable[objects.Out]) -> Iterator[str]:
    for out in outs:
        if (root / out.path).exists() and dvc_md5(root / out.path) != out.md5:
            yield out.path
