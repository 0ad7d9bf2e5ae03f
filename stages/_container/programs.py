"""Programs of a container engine, run to their end: what they said, or one line that says why."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.errors import StillhouseError

# Where neither user namespaces nor overlay file systems are to be had, buildah works with these.
PLAIN = {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    said: str
    """Both of its outputs."""


def environment() -> dict[str, str]:
    """Ours, with buildah's plainest ways unless others are chosen."""
    return PLAIN | dict(os.environ)


def told(variables: Mapping[str, str]) -> list[str]:
    """The words that give a container its environment."""
    return [f"--env={name}={value}" for name, value in variables.items()]


def ask(words: Sequence[str]) -> str:
    """What a program says on standard output.

    Raises:
        StillhouseError: there is no such program, or it ended with a fault.
    """
    done = _run(words, subprocess.PIPE)
    if done.returncode != 0:
        raise StillhouseError(_describe(words, done.returncode, done.stderr))
    return str(done.stdout)


def attempt(words: Sequence[str]) -> Ended:
    """How a program ends that may well refuse.

    Raises:
        StillhouseError: there is no such program.
    """
    done = _run(words, subprocess.STDOUT)
    return Ended(done.returncode, done.stdout)


def record(
    words: Sequence[str], log: Path, variables: Mapping[str, str], folder: Path | None = None
) -> None:
    """Run a program that takes minutes; what it says goes to `log`.

    Args:
        variables: all of its environment.
        folder: where it runs; None: here.

    Raises:
        StillhouseError: there is no such program, or it ended with a fault.
    """
    with log.open("w", encoding="utf-8") as stream:
        try:
            done = subprocess.run(  # noqa: S603 - our own words
                words,
                env=dict(variables),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        except FileNotFoundError:
            raise _absent(words[0]) from None
    if done.returncode != 0:
        said = log.read_text(encoding="utf-8", errors="replace")
        raise StillhouseError(f"{_describe(words, done.returncode, said)} All of it: {log}")


def _run(words: Sequence[str], errors: int) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(  # noqa: S603 - our own words
            words,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    except FileNotFoundError:
        raise _absent(words[0]) from None


def _absent(program: str) -> StillhouseError:
    return StillhouseError(
        f"{program} is not installed here. Install it (.ci/packages does on Debian), or choose "
        f"another --backend."
    )


def _describe(words: Sequence[str], code: int, said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it said nothing"]
    named = words[2:4] if words[1:2] == ["-m"] else words[:2]
    return f'"{" ".join(named)}" ended with {code}: {lines[-1][:300]}'
