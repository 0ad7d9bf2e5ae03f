"""A spool: the file to which one process appends its records, a JSON line each.

    spool/<start>-<pid>-<random>.jsonl.open   its writer holds a lock (flock) on it
    spool/<start>-<pid>-<random>.jsonl        closed: to be turned into Parquet

A file that bears .open and no lock is one whose writer was killed, and is as good as closed. Each
batch of lines is written in one piece, so a process that is killed loses what it had not written
and leaves at most one torn line; what was written survives it. A power cut takes what came after
the last fsync: one per `SYNC_S` seconds of writing, and one when a spool is closed.
"""

import fcntl
import os
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path

OPEN = ".open"
SUFFIX = ".jsonl"
SYNC_S = 5.0
PRIVATE = 0o700


def spool_folder(folder: Path) -> Path:
    """Where spools lie within the folder of live records."""
    return folder / "spool"


def make_private(folder: Path) -> None:
    """Make a folder that is the owner's alone; one that exists stays as it is."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=PRIVATE, exist_ok=True)


def size_of(spools: Path) -> int:
    """Bytes of all spools."""
    return sum(path.stat().st_size for path in spools.glob(f"*{SUFFIX}*"))


class Spool:
    """One open spool; used by one thread. Its methods raise OSError."""

    def __init__(self, folder: Path) -> None:
        """Make the file, mode 600."""
        make_private(folder)
        make_private(spool_folder(folder))
        start = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        name = f"{start}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
        self.path = spool_folder(folder) / name
        self._open = self.path.with_name(name + OPEN)
        hidden = self.path.with_name(f".{name}.tmp")  # until it is locked, or it seems abandoned
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(hidden, flags, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(self._open)
        except OSError:
            os.close(self._file)
            raise
        self.began = self._synced = time.monotonic()
        self.bytes = 0

    def write(self, lines: bytes) -> None:
        """Append whole lines; a part that found no room is taken back."""
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, self.bytes)
            raise
        self.bytes += len(lines)
        if time.monotonic() - self._synced >= SYNC_S:
            self.sync()

    def sync(self) -> None:
        """Make what was written survive a power cut."""
        os.fsync(self._file)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Close it for good: from now on it can be turned into Parquet."""
        try:
            self.sync()
            self._open.rename(self.path)
        finally:
            os.close(self._file)


def closed_spools(folder: Path) -> list[Path]:
    """Spools to read, oldest first; those of killed writers are closed on the way."""
    spools = spool_folder(folder)
    for path in sorted(spools.glob(f"*{SUFFIX}{OPEN}")):
        _close_abandoned(path)
    return sorted(spools.glob(f"*{SUFFIX}"))


def _close_abandoned(path: Path) -> None:
    """Rename a spool that nobody holds; flock ends with the process that held it."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fsync(file.fileno())
            path.rename(path.with_name(path.name.removesuffix(OPEN)))
    except (BlockingIOError, FileNotFoundError):
        return  # its writer lives, or has just closed it
