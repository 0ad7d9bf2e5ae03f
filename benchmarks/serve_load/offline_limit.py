"""The offline engine as a process that takes turns with the servers."""

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serve_load.peers import pinned
from benchmarks.serve_load.servers import ROOT, kill_tree, measure_memory
from serving.errors import StillhouseError


class Offline:
    """benchmarks/serve_load/offline.py, asked over its pipes."""

    def __init__(self, process: psutil.Popen, told: str) -> None:
        self.process, self.told = process, told

    def pause(self) -> None:
        """Stop until `resume`."""
        self.process.suspend()

    def resume(self) -> None:
        """Let it go on."""
        self.process.resume()

    def measure(self, rows: int, seconds: float) -> dict[str, Any]:
        """Tokens/s of full batches of `rows`."""
        self.process.stdin.write(f"{rows} {seconds}\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(read_line(self.process))
        return found

    def memory(self) -> dict[str, Any]:
        """Memory of the process [MB]."""
        return measure_memory([self.process])


def read_line(process: psutil.Popen) -> str:
    """The next line it says.

    Raises:
        StillhouseError: it ended.
    """
    line = process.stdout.readline()
    if not line:
        raise StillhouseError(
            f"the offline engine ended with {process.wait()}. "
            f"Its words are above; leave it out with --without offline."
        )
    return str(line)


@contextmanager
def offline(options: Namespace, model: Path, prompts: Sequence[str], folder: Path) -> Iterator[Any]:
    """The engine in a process of its own, loaded and warm."""
    written = folder / "prompts.json"
    written.write_text(json.dumps(list(prompts)), encoding="utf-8")
    module = [sys.executable, "-m", "benchmarks.serve_load.offline"]
    command = [*pinned(options.server_core), *module, str(model), str(written), str(options.tokens)]
    settings = {"OMP_NUM_THREADS": str(options.threads)}
    pipe = subprocess.PIPE
    process = psutil.Popen(
        ["env", *(f"{name}={value}" for name, value in settings.items()), *command],
        cwd=ROOT,
        stdin=pipe,
        stdout=pipe,
        text=True,
    )
    try:
        read_line(process)
        yield Offline(process, " ".join([*(f"{n}={v}" for n, v in settings.items()), *command]))
    finally:
        kill_tree(process)
