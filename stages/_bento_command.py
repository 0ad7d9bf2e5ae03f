"""One command of BentoML, run as the program it is, in a process of its own.

BentoML asks for uv before it looks whether there is anything to lock, and installs it from the
network where there is none (_internal/configuration/__init__.py, get_uv_command). Hence a `uv` on
the path that does nothing.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.errors import StillhouseError


def run_bentoml(
    arguments: Sequence[str], home: Path, folder: Path, environment: Mapping[str, str]
) -> None:
    """Run `bentoml` with `arguments` in `folder`.

    Args:
        home: BENTOML_HOME; a folder beside it has the `uv`.
        environment: all of the process's environment but that.

    Raises:
        StillhouseError: it ended with a fault; its last line is told.
    """
    path = os.pathsep.join([str(_without_uv(home)), environment.get("PATH", "")])
    command = [sys.executable, "-m", "bentoml", *arguments]
    done = subprocess.run(  # noqa: S603 - our own words
        command,
        cwd=folder,
        env={**environment, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise StillhouseError(
            f'"bentoml {arguments[0]}" ended with {done.returncode}: {lines[-1][:300]}. '
            f"Mend what it names, then run the stage again."
        )


def _without_uv(home: Path) -> Path:
    """A folder for PATH with a `uv` that refuses whatever it is asked."""
    folder = home.resolve().with_name(f"{home.name}-path")
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "uv"
    program.write_text('#!/bin/sh\necho "our lock is not to be locked again" >&2\nexit 1\n')
    program.chmod(0o755)
    return folder
