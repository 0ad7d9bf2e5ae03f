"""The demo's project: a copy of this one with a Git of its own, in which commands are run."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages import _io

IDENTITY = {
    "GIT_AUTHOR_NAME": "drift demo",
    "GIT_AUTHOR_EMAIL": "demo@localhost",
    "GIT_COMMITTER_NAME": "drift demo",
    "GIT_COMMITTER_EMAIL": "demo@localhost",
}
LEFT_OUT = ("dvc.lock", "releases/")
"""What belongs to this project's own models."""
SHOWN = 15  # lines of a log in an error


@dataclass(frozen=True)
class Demo:
    """A folder with the copy, the steps that are done, and their logs."""

    source: Path
    """The project that is copied."""
    folder: Path
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))

    @property
    def project(self) -> Path:
        """The copy."""
        return self.folder / "project"

    @property
    def environment(self) -> dict[str, str]:
        """Of every command: the copy's code, a Git identity, and no other service's metrics."""
        told = {
            "PYTHONPATH": str(self.project),
            "BENTOML_HOME": str(self.folder / "bentoml"),
            "PYTHONUNBUFFERED": "1",
        }
        return os.environ | IDENTITY | told

    def step(self, name: str, do: Callable[["Demo"], Mapping[str, Any]]) -> dict[str, Any]:
        """What a step found; it is done once, and its mark says so."""
        mark = self.folder / "marks" / f"{name}.json"
        if mark.is_file():
            print(f"{name}: done before", flush=True)
            found: dict[str, Any] = _io.read_json(mark)
            return found
        print(f"{name} ...", flush=True)
        started = time.perf_counter()
        found = dict(do(self))
        found["seconds"] = round(time.perf_counter() - started, 1)
        _io.write_json(mark, found)
        print(f"{name}: {found['seconds']} s", flush=True)
        return found

    def run(self, log: str, *command: str, codes: tuple[int, ...] = (0,)) -> int:
        """Run a Python module in the copy; what it says goes to logs/<log>.log.

        Raises:
            StillhouseError: it ended with another code than `codes`.
        """
        path = self.folder / "logs" / f"{log}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as stream:
            code = subprocess.call(
                [sys.executable, "-m", *command],
                cwd=self.project,
                env=self.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        if code not in codes:
            last = path.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN:]
            print("\n".join(last), flush=True)
            raise StillhouseError(
                f"{' '.join(command)} ended with {code}; {path} has all it said. Mend that and run "
                f"the demo again: it goes on here."
            )
        return code

    def git(self, *arguments: str) -> str:
        """Git in the copy; returns what it prints."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.project,
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    def commit(self, message: str) -> None:
        """All that changed, as a commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)


def copy_project(demo: Demo) -> dict[str, Any]:
    """Copy what Git tracks, or would track if it were added, and begin a history of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=demo.source,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    shutil.rmtree(demo.project, ignore_errors=True)
    names = [name for name in listed.split("\0") if name and not name.startswith(LEFT_OUT)]
    files = [name for name in names if (demo.source / name).is_file()]
    for name in files:
        target = demo.project / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(demo.source / name, target)
    _io.write_text(demo.project / "releases/current.json", "{}\n")
    demo.git("init", "--quiet")
    demo.commit("The project")
    return {"files": len(files)}
