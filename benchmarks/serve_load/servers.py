"""Servers as processes: started, timed until they are ready, paused between their turns, killed.

A server that is not measured is stopped (SIGSTOP), its whole tree: several share one core, and one
that wakes up while another is measured would be told as the other's latency.
"""

import http.client
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import psutil

from benchmarks.serve_load.dialects import Dialect
from benchmarks.serve_load.wire import HOST
from serving._memory_use import memory_of
from serving.errors import StillhouseError

ROOT = Path(__file__).parents[2]
POLL_S = 0.01
MB = 1e6
STOP_S = 30.0  # for a server to end by itself
ENGINES = ("libctranslate2", "libtorch_cpu")  # a process that has one in memory computes


@dataclass(frozen=True)
class Server:
    """How one server is run and asked."""

    name: str
    what: str
    """One line for the report."""
    command: Sequence[str]
    """With `{port}` where the port goes."""
    environment: Mapping[str, str]
    """On top of this process's."""
    ready: str
    """Route that answers 200 from when the server takes requests."""
    dialect: Dialect

    def told(self) -> str:
        """What repeats it in a shell."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        words = (word.replace("{port}", "3000") for word in self.command)
        return " ".join([*settings, *(shlex.quote(word) for word in words)])


class Running:
    """A server's process and all that it started."""

    def __init__(self, server: Server, port: int, process: psutil.Popen, started: float) -> None:
        self.server, self.port, self.process = server, port, process
        self.ready_s = time.perf_counter() - started
        """From its start to its readiness."""

    def tree(self) -> list[psutil.Process]:
        """The process and its descendants."""
        with suppress(psutil.NoSuchProcess):
            return [self.process, *self.process.children(recursive=True)]
        return []

    def pause(self) -> None:
        """Stop all of it until `resume`."""
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def resume(self) -> None:
        """Let it go on."""
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def memory(self) -> dict[str, Any]:
        """Memory of the tree and of the process that computes [MB of 10^6 bytes]."""
        return measure_memory(self.tree())


def measure_memory(tree: Sequence[psutil.Process]) -> dict[str, Any]:
    """Proportional set size of a process tree, and each process's resident memory [MB]."""
    rows: list[dict[str, Any]] = []
    for process in tree:
        with suppress(psutil.Error, OSError):
            found = memory_of(process.pid)
            if found is None:
                continue
            rows.append(
                {
                    "computes": computes(process.pid),
                    "resident_mb": found.resident_bytes / MB,
                    "proportional_mb": found.proportional_bytes / MB,
                    "command": " ".join(process.cmdline())[:160],
                }
            )
    engines = [row["resident_mb"] for row in rows if row["computes"]]
    return {
        "tree_proportional_mb": sum(row["proportional_mb"] for row in rows),
        "engine_resident_mb": max(engines) if engines else None,
        "processes": rows,
    }


def computes(pid: int) -> bool:
    """Whether a process has an engine's library in memory."""
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    return any(engine in maps for engine in ENGINES)


@contextmanager
def running(server: Server, log: Path, limit_s: float) -> Iterator[Running]:
    """Start a server on a free port, wait until it is ready, and kill its tree in the end.

    Raises:
        StillhouseError: it ended, or was not ready in `limit_s` seconds; with its last words.
    """
    port = free_port()
    command = [word.replace("{port}", str(port)) for word in server.command]
    environment = os.environ | dict(server.environment)
    with log.open("w", encoding="utf-8") as stream:
        started = time.perf_counter()
        process = psutil.Popen(
            command, cwd=ROOT, env=environment, stdout=stream, stderr=stream, text=True
        )
        try:
            wait_until(lambda: answers(port, server.ready), process, limit_s, server.name, log)
            yield Running(server, port, process, started)
        finally:
            kill_tree(process)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def answers(port: int, route: str) -> bool:
    """Whether a GET gives 200."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", route)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def wait_until(
    ready: Callable[[], bool], process: psutil.Popen, limit_s: float, name: str, log: Path
) -> None:
    """Wait for `ready`.

    Raises:
        StillhouseError: the process ended or `limit_s` passed.
    """
    end = time.monotonic() + limit_s
    while not ready():
        code = process.poll()
        if code is not None or time.monotonic() > end:
            why = f"was not ready in {limit_s:g} s" if code is None else f"ended with {code}"
            words = " / ".join(log.read_text(encoding="utf-8").splitlines()[-5:])
            raise StillhouseError(
                f"the server {name} {why}; it said: {words[-600:] or 'nothing'}. "
                f"Run its command by hand, or leave it out with --without {name}."
            )
        time.sleep(POLL_S)


def kill_tree(process: psutil.Popen) -> None:
    """End a process and its descendants: asked first, then killed."""
    with suppress(psutil.NoSuchProcess):
        tree = [*process.children(recursive=True), process]
        for each in tree:
            with suppress(psutil.NoSuchProcess):
                each.resume()  # a stopped process takes no wish
        process.terminate()
        with suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
            process.wait(STOP_S)
        for each in tree:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(tree, STOP_S)
