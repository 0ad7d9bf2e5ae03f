"""Images by buildah, which needs no daemon: it builds them, and `buildah run` starts them, as root.

It runs commands in a file system that can be written. Here that one is mounted read-only with
folders in memory on /tmp and /run, which is what `docker run --read-only --tmpfs /tmp` gives, in a
table of mounts and of processes of its own: when that ends, nothing of it is left. The network is
this machine's.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from serving.errors import StillhouseError
from stages._container.image import Image, image_of
from stages._container.programs import Ended, ask, attempt, environment, told

MOUNTED = ("etc/hostname", "etc/hosts", "etc/resolv.conf")  # files that buildah mounts its own on
HARDEN = """
set -e
mount --bind "$1" "$1"
mount -o remount,bind,ro "$1"
mount -t tmpfs -o mode=1777,noexec,nosuid,nodev tmpfs "$1/tmp"
mount -t tmpfs -o mode=0755 tmpfs "$1/run"
shift
exec "$@"
"""
APART = ("unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")


class Buildah:
    """buildah, with the isolation and the storage that the environment names."""

    program = "buildah"
    options: tuple[str, ...] = ("format=docker",)  # OCI's has no health check

    def inspect(self, name: str) -> Image:
        """What an image says of itself.

        Raises:
            StillhouseError: there is none of this name, or it is not one of ours.
        """
        found = json.loads(ask([self.program, "inspect", "--type=image", name]))
        return image_of(name, found["FromImageID"], found["Docker"]["config"])

    def run(self, image: Image, command: Sequence[str], variables: Mapping[str, str]) -> Ended:
        """How a command ends in a fresh container."""
        with _container(image) as (name, root):
            return attempt(_hardened(root, [*told(variables), name, "--", *command]))

    @contextmanager
    def start(
        self, image: Image, port: int, variables: Mapping[str, str], log: Path
    ) -> Iterator["Container"]:
        """The image's own process, which listens at `port`; what it says goes to `log`."""
        address = {"PORT": str(port)}
        with _container(image) as (name, root), log.open("w", encoding="utf-8") as stream:
            words = [*told({**variables, **address}), name, "--", *image.entrypoint]
            process = subprocess.Popen(  # noqa: S603 - our own words
                _hardened(root, words),
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
            try:
                yield Container(name, process)
            finally:
                process.kill()
                process.wait()


class Container:
    """One that runs: unshare, `buildah run`, its helpers, and below them the image's process."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]") -> None:
        """`process`: of unshare."""
        self._name, self._process = name, process

    def ask(self, command: Sequence[str]) -> int:
        """Exit code of a command in it."""
        words = ["nsenter", f"--target={self._chain()[0]}", "--mount", "--pid"]
        return attempt([*words, "buildah", "run", self._name, "--", *command]).code

    def stop(self, limit_s: float) -> int:
        """Send SIGTERM and wait; buildah itself would not pass it on.

        Raises:
            StillhouseError: it has ended already, or does not end in time.
        """
        os.kill(next(pid for pid in self._chain() if not _is_buildah(pid)), signal.SIGTERM)
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise StillhouseError(
                f"the container did not end within {limit_s:g} s of SIGTERM. See its log."
            ) from None

    def _chain(self) -> list[int]:
        """Ids of unshare's child, of its first child, and so on.

        Raises:
            StillhouseError: there is none any more.
        """
        chain = [self._process.pid]
        while below := _children(chain[-1]):
            chain.append(below[0])
        if len(chain) == 1:
            raise StillhouseError("the container has ended by itself. See its log.")
        return chain[1:]


def _children(pid: int) -> list[int]:
    """Processes that any thread of `pid` has started, the oldest first."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for file in files for child in file.read_text().split())


def _is_buildah(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"buildah")


def _hardened(root: Path, words: Sequence[str]) -> list[str]:
    return [*APART, "sh", "-c", HARDEN, "sh", str(root), "buildah", "run", *words]


@contextmanager
def _container(image: Image) -> Iterator[tuple[str, Path]]:
    """Name and file system of a fresh container."""
    name = ask(["buildah", "from", "--pull-never", image.id]).strip()
    try:
        root = Path(ask(["buildah", "mount", name]).strip())
        for file in MOUNTED:
            (root / file).touch()
        yield name, root
    finally:
        attempt(["buildah", "rm", name])
