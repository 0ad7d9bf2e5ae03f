"""A Bento as a served process on loopback: started, waited for, stopped with all its children."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from serving.errors import StillhouseError

HOST = "127.0.0.1"
POLL_S = 0.05
STOP_LIMIT_S = 30.0  # then it is killed


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    start_s: float
    """From the start of its process until it was ready [s]."""


@contextmanager
def served(
    target: str, folder: Path, environment: Mapping[str, str], limit_s: float
) -> Iterator[Served]:
    """Serve `target`, a tag or an import path, for the length of the block.

    Args:
        folder: where the process runs and its output goes (`serve.log`).
        environment: all of the process's environment.
        limit_s: longest time until it is ready [s].

    Raises:
        StillhouseError: it ended, or was not ready in time.
    """
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", target, "--host", HOST]
    log = folder / "serve.log"
    with log.open("w", encoding="utf-8") as stream:
        started = time.monotonic()
        process = subprocess.Popen(  # noqa: S603 - our own words
            [*command, "--port", str(port)],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, so that it can be stopped whole
        )
        try:
            url = f"http://{HOST}:{port}"
            _wait_until_ready(process, url, log, started + limit_s)
            yield Served(url, time.monotonic() - started)
        finally:
            _stop(process)


def free_port() -> int:
    """A port of loopback on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _wait_until_ready(
    process: "subprocess.Popen[bytes]", url: str, log: Path, until: float
) -> None:
    with httpx.Client(trust_env=False, timeout=5.0) as client:
        while process.poll() is None:
            with suppress(httpx.TransportError):  # it does not listen yet
                if client.get(f"{url}/readyz").status_code == httpx.codes.OK:
                    return
            if time.monotonic() > until:
                raise StillhouseError(
                    f"the served Bento was not ready in time. Its last words: {_last_line(log)}. "
                    f"Raise package.start_limit_s, or mend what it says."
                )
            time.sleep(POLL_S)
    raise StillhouseError(
        f"the served Bento ended with {process.returncode} before it was ready. Its last words: "
        f"{_last_line(log)}. Mend what it says, then run the stage again."
    )


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "none")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the process and whatever it started: a supervisor that died may leave its workers."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_LIMIT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
