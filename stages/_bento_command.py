"""One command of BentoML, run as the program it is, in a process of its own."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from serving.errors import StillhouseError


def run_bentoml(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Run `bentoml` with `arguments` in `folder`.

    Args:
        environment: all of the process's environment.

    Raises:
        StillhouseError: it ended with a fault; its last line is told.
    """
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-m", "bentoml", *arguments],
        cwd=folder,
        env=dict(environment),
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
