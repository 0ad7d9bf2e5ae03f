"""backups/<id>.json: what a backup holds. Its own SHA-256 is in its name, so a torn one is seen."""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, TypedDict, cast

from serving.errors import StillhouseError
from stages._backup.place import Place
from stages._releases import Git

SCHEMA_VERSION = 1
FOLDER = "backups"
SHOWN = 12  # characters of the digest in a name
NAME = re.compile(r"backups/(\d{8}T\d{6}Z-[0-9a-f]{12})\.json")
# The only files that a restore ever writes, so that no manifest can name others.
PLACES = ("dvc.lock", "mlflow.db", "mlflow.db.version", "releases/", "mlartifacts/")
OUTS = ("data/", "models/", "reports/")
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
SHA256 = re.compile(r"[0-9a-f]{64}")


class Entry(TypedDict):
    """A file."""

    sha256: str
    bytes: int


class Manifest(TypedDict):
    """A backup."""

    schema_version: int
    git: Git
    """The commit that the project was at; its code fits these files."""
    serves: int | None
    """The release in force; None before the first."""
    files: dict[str, Entry]
    """By their paths in the project."""
    objects: dict[str, Entry]
    """What DVC keeps, by MD5."""
    outs: dict[str, str]
    """The pipeline's outputs: MD5 by path."""
    released: dict[str, dict[str, str]]
    """The same of what the release in force and the one before it need to serve, by number."""
    missing: list[str]
    """Those of `outs` that neither DVC's cache nor an earlier backup had."""
    aliases: dict[str, dict[str, str]]
    """Digests behind the aliases of each registered model, to be compared after a restore."""
    tracking: str
    """What of the tracking store is in it, or why nothing is."""


FIELDS = frozenset(Manifest.__annotations__)


def list_backups(place: Place) -> list[str]:
    """Ids of all whole backups, the oldest first."""
    found = (NAME.fullmatch(name) for name in place.sizes(FOLDER))
    return sorted(match[1] for match in found if match)


def read_manifest(place: Place, backup: str) -> Manifest:
    """A backup's list of files.

    Raises:
        StillhouseError: there is no such backup, it was changed, or it names files of others.
    """
    known = list_backups(place)
    if backup not in known:
        raise StillhouseError(
            f"{place.shown} has no backup {backup}. Name one of these: {', '.join(known) or '-'}."
        )
    content = place.read(f"{FOLDER}/{backup}.json")
    if hashlib.sha256(content).hexdigest()[:SHOWN] != backup[-SHOWN:]:
        raise StillhouseError(
            f"{FOLDER}/{backup}.json in {place.shown} was changed or is torn. Take another backup: "
            f"{', '.join(name for name in known if name != backup) or 'there is none'}."
        )
    found = json.loads(content)
    version = found.get("schema_version")
    if version != SCHEMA_VERSION or not found.keys() >= FIELDS:
        raise StillhouseError(
            f"backup {backup} has schema version {version}, this program reads {SCHEMA_VERSION}. "
            f"Use the Stillhouse that made it."
        )
    _refuse_strange_names(found)
    return cast(Manifest, found)


def _refuse_strange_names(found: Mapping[str, Any]) -> None:
    strange = [name for name in found["files"] if not _is_inside(name, PLACES)]
    named = [path for outs in (found["outs"], *found["released"].values()) for path in outs]
    strange += [path for path in named if not _is_inside(path, OUTS)]
    strange += [md5 for md5 in found["objects"] if not MD5.fullmatch(md5)]
    entries = [*found["files"].values(), *found["objects"].values()]
    strange += [e["sha256"] for e in entries if not SHA256.fullmatch(e["sha256"])]
    if strange:
        raise StillhouseError(
            f"the backup names {strange[0]}, which no backup of a project has. Nothing was changed."
        )


def _is_inside(name: str, places: tuple[str, ...]) -> bool:
    path = PurePosixPath(name)
    inside = path.as_posix() == name and not path.is_absolute() and ".." not in path.parts
    return inside and name.startswith(places)


def write_manifest(place: Place, manifest: Manifest) -> str:
    """Write it under a name of now and of what is in it; returns the id."""
    content = json.dumps(manifest, indent=1, ensure_ascii=False, sort_keys=True).encode()
    time = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    backup = f"{time}-{hashlib.sha256(content).hexdigest()[:SHOWN]}"
    place.write(f"{FOLDER}/{backup}.json", content)
    return backup


def file_name(sha256: str) -> str:
    """Where a file that is no object of DVC's lies in a backup."""
    return f"files/{sha256[:2]}/{sha256}"
