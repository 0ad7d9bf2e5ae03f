"""The tracking database: a copy of one moment of mlflow.db, whoever writes to it meanwhile."""

import sqlite3
from contextlib import closing
from pathlib import Path

from serving.errors import StillhouseError
from stages._run import tracking_state
from stages._tracking import shown_uri

NAME = "mlflow.db"
STAMP = "mlflow.db.version"
ARTIFACTS = "mlartifacts"


def why_not(root: Path) -> str:
    """Why the tracking database stays out of a backup; empty where it goes in.

    Raises:
        StillhouseError: it is some other database, and nobody said to leave it out.
    """
    if tracking_state() == "off":
        return "STILLHOUSE_TRACKING is off"
    uri = shown_uri(root)
    if uri.startswith(("http://", "https://")):
        return f"{uri} is a server, and what it has outlives this project's folder"
    if uri != NAME:
        raise StillhouseError(
            f"the tracking store is {uri}, no file of this project. Back it up with its own tools "
            f"(pg_dump for PostgreSQL, and its folder or bucket of artifacts), and all else with "
            f"STILLHOUSE_TRACKING=off make backup; make release writes its aliases again."
        )
    return "" if (root / NAME).is_file() else f"there is no {NAME}"


def copy_database(source: Path, target: Path) -> None:
    """Copy a SQLite database as of one moment, with SQLite's own backup.

    Raises:
        StillhouseError: it is no database, or it is damaged.
    """
    target.unlink(missing_ok=True)  # so that the same source always gives the same bytes
    try:
        with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
            (verdict,) = new.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        raise StillhouseError(
            f"{source.name} cannot be copied: {error}. Stop what writes to it, or move it away."
        ) from None
    if verdict != "ok":
        raise StillhouseError(f"{source.name} is damaged: {verdict}. Restore an earlier backup.")
