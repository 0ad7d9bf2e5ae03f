"""Stages that do not wait for one another run side by side, by `dvc repro --single-item`.

`dvc repro` runs one stage after the other; DVC's locks let several of its processes work on
different stages of one project, and its manual says to start them by hand
(https://dvc.org/doc/command-reference/repro, "Parallel stage execution"). This starts them: `lanes`
processes, each with one stage at a time, in the graph's order. A stage whose `meta` in dvc.yaml has
`alone: true` measures time, so nothing runs beside it.

What is valid is not looked at twice: the stages that `dvc status` calls changed, and those that
come after them, are given to DVC; it still decides for each of them whether to run it.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, NamedTuple

END = "\x1e"  # of stages/_lane.py, which imports DVC
# DVC's advice after each stage, and what the line's beginning says already.
LEFT_OUT = (
    "Running stage '",
    "Generating lock file",
    "Updating lock file",
    "To track the changes with git",
    "\tgit add ",
    "To enable auto staging",
    "\tdvc config core.autostage",
    "Use `dvc push`",
    "Data and pipelines are up to date",
    "WARNING: 'data/prepared/windows.jsonl' is empty",  # as it is meant to be without windows
)

Write = Callable[[str], object]


@dataclass(frozen=True)
class Plan:
    """What is to be brought up to date, and what must be finished before what."""

    needs: Mapping[str, frozenset[str]]
    """Of each stage to do, in the graph's order: the stages to do that it waits for."""
    alone: frozenset[str]
    """Stages that nothing may run beside."""

    @staticmethod
    def of(
        edges: Iterable[tuple[str, str]],
        names: Sequence[str],
        stale: Iterable[str],
        alone: Iterable[str],
    ) -> "Plan":
        """The stale stages and all that come after them.

        Args:
            edges: (earlier, later) stages.
            names: all stages.
        """
        pairs = list(edges)
        todo = set(stale)
        while more := {later for earlier, later in pairs if earlier in todo} - todo:
            todo |= more
        needs = {
            name: frozenset(earlier for earlier, later in pairs if later == name) & todo
            for name in names
            if name in todo
        }
        return Plan(needs, frozenset(alone) & todo)

    def next(self, done: frozenset[str], running: frozenset[str]) -> str | None:
        """The stage to start now, or None: the one that most others wait for.

        What must be alone waits until nothing else is left to start.
        """
        if running & self.alone:
            return None
        ready = [
            name
            for name, needed in self.needs.items()
            if name not in done and name not in running and needed <= done
        ]
        shared = [name for name in ready if name not in self.alone]
        if shared:
            return max(shared, key=self._waiting)
        return ready[0] if ready and not running else None

    def _waiting(self, name: str) -> int:
        """How many stages come after one."""
        after: set[str] = set()
        found = {name}
        while found:
            found = {other for other, needed in self.needs.items() if needed & found} - after
            after |= found
        return len(after)


@dataclass(frozen=True)
class Interrupts:
    """Signals that came, and the processes that a handler passes them on to."""

    received: list[int] = field(default_factory=list)
    processes: list["subprocess.Popen[Any]"] = field(default_factory=list)


class _Said(NamedTuple):
    """One line of a lane; None when its process has ended."""

    lane: "_Lane"
    line: str | None


class _Lane:
    """A process of stages/_lane.py and the stage that it is at."""

    def __init__(
        self, environment: Mapping[str, str], root: Path, heard: "SimpleQueue[_Said]"
    ) -> None:
        reading, writing = os.pipe()
        self.process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "stages._lane", str(reading)],
            cwd=root,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            pass_fds=[reading],
            process_group=0,
        )
        os.close(reading)
        self._names = os.fdopen(writing, "w", encoding="utf-8", buffering=1)
        self.stage = ""
        stream = self.process.stdout
        assert stream is not None  # for the types: PIPE was asked for
        threading.Thread(target=self._listen, args=(stream, heard), daemon=True).start()

    def start(self, stage: str) -> None:
        self.stage = stage
        with suppress(BrokenPipeError):  # it has just died, which `heard` will tell
            self._names.write(f"{stage}\n")

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._names.close()
        self.process.wait()

    def _listen(self, stream: IO[str], heard: "SimpleQueue[_Said]") -> None:
        for line in stream:
            heard.put(_Said(self, line.rstrip("\n")))
        heard.put(_Said(self, None))


def count(settings: Mapping[str, Any]) -> int:
    """`pipeline.lanes` of params.yaml; 1 where it is no number, which the stages then refuse."""
    section = settings.get("pipeline")
    found = section.get("lanes") if isinstance(section, Mapping) else None
    return found if isinstance(found, int) else 1


def plan(
    root: Path, names: Sequence[str], stages: Mapping[str, Mapping[str, object]]
) -> Plan | None:
    """What `dvc status` and `dvc dag` say is to be done; None where they fail.

    Args:
        names: all stages, unfolded.
        stages: the section of that name of dvc.yaml.
    """
    asked = [
        subprocess.Popen(  # noqa: S603 - our own words
            [sys.executable, "-m", "dvc", "--wait-for-lock", *words],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for words in (["status", "--json"], ["dag", "--dot"])
    ]
    status, dag = (process.communicate()[0] for process in asked)
    if any(process.returncode for process in asked):
        return None
    edges = re.findall(r'^"(.+)" -> "(.+)";$', dag, re.MULTILINE)
    nodes = list(dict.fromkeys([*names, *(end for edge in edges for end in edge)]))
    alone = [name for name in nodes if _is_alone(stages.get(name.partition("@")[0], {}))]
    return Plan.of(edges, nodes, json.loads(status), alone)


def _is_alone(stage: Mapping[str, object]) -> bool:
    body = stage.get("do", stage)
    meta = body.get("meta") if isinstance(body, Mapping) else None
    return isinstance(meta, Mapping) and bool(meta.get("alone"))


def run(
    what: Plan,
    lanes: int,
    environment: Mapping[str, str],
    root: Path,
    interrupts: Interrupts,
    write: Write,
) -> int:
    """Do it; DVC's exit code of the first stage that failed, else 0.

    After a failure or an interrupt nothing more is started; what finishes is kept.

    Args:
        lanes: most stages at a time.
        environment: of DVC and its stages.
        write: gets what the stages say, in whole lines that begin with the stage's name.
    """
    heard: SimpleQueue[_Said] = SimpleQueue()
    idle: list[_Lane] = []
    every: list[_Lane] = []
    running: dict[str, _Lane] = {}
    done: set[str] = set()
    code = 0
    try:
        while True:
            while code == 0 and not interrupts.received and len(running) < lanes:
                name = what.next(frozenset(done), frozenset(running))
                if name is None:
                    break
                if not idle:
                    every.append(_Lane(environment, root, heard))
                    interrupts.processes.append(every[-1].process)
                    if interrupts.received:  # while it was started, so it has not heard of it
                        break
                    idle.append(every[-1])
                running[name] = idle.pop()
                running[name].start(name)
            if not running:
                return code
            lane, line = heard.get()
            text, end, told = (line or "").partition(END)
            if text.strip() and not text.startswith(LEFT_OUT):
                write(f"{lane.stage} | {text}\n")
            if line is None and lane in idle:  # interrupted while it waited
                idle.remove(lane)
            elif (end or line is None) and lane.stage in running:
                del running[lane.stage]
                code = code or (int(told) if end else lane.process.wait() or 1)
                done.add(lane.stage)
                if end:
                    idle.append(lane)
    finally:
        for lane in every:
            lane.close()
