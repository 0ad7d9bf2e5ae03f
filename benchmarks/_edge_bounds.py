"""Bounds of a small machine on a large one: a control group for memory, a network of nothing.

Both need root. Version 1 and version 2 of control groups are known (cgroups(7)).
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import if_nameindex

from serving.errors import StillhouseError

GROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryGroup:
    """A control group that bounds the memory of all processes in it."""

    version: int
    folder: Path

    def command(self, words: Sequence[str]) -> list[str]:
        """What runs `words` in the group from their first page on."""
        joined = f'echo $$ > {self.folder}/cgroup.procs && exec "$@"'
        return ["sh", "-c", joined, "sh", *words]

    def peak_mb(self) -> float:
        """Most that was in use at once, page cache included [MB]."""
        name = "memory.max_usage_in_bytes" if self.version == 1 else "memory.peak"
        return int((self.folder / name).read_text()) / 1e6

    def limit_hits(self) -> int:
        """How often the bound was met, and pages had to be given back [count]."""
        if self.version == 1:
            return int((self.folder / "memory.failcnt").read_text())
        events = dict(
            line.split() for line in (self.folder / "memory.events").read_text().splitlines()
        )
        return int(events["max"])


@contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """A group of its own, taken away in the end.

    Raises:
        StillhouseError: this system or this user cannot make one.
    """
    version = 2 if "memory" in _controllers() else 1
    folder = (GROUPS if version == 2 else GROUPS / "memory") / f"stillhouse-edge-{os.getpid()}"
    limit = "memory.max" if version == 2 else "memory.limit_in_bytes"
    try:
        folder.mkdir()
        (folder / limit).write_text(str(limit_bytes))
    except OSError as error:
        raise StillhouseError(
            f"{folder} cannot be made ({error.strerror}). Run this as root, where control groups "
            f"are mounted, or with --unbounded."
        ) from None
    try:
        yield MemoryGroup(version, folder)
    finally:
        folder.rmdir()


def _controllers() -> list[str]:
    file = GROUPS / "cgroup.controllers"
    return file.read_text().split() if file.is_file() else []


def leave_network(module: str, arguments: Sequence[str]) -> None:
    """Start `module` again where there is no interface but loopback; returns there alone.

    Raises:
        StillhouseError: a tool is missing.
    """
    if interfaces() == ["lo"]:
        return
    for tool, package in (("unshare", "util-linux"), ("ip", "iproute2")):
        if shutil.which(tool) is None:
            raise StillhouseError(f"{tool} is missing. Install {package}, or use --unbounded.")
    again = [sys.executable, "-m", module, *arguments]
    words = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *again]
    os.execvp(words[0], words)


def interfaces() -> list[str]:
    """Names of the network interfaces that there are."""
    return [name for _, name in if_nameindex()]
