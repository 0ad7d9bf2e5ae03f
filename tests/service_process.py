"""A real `bentoml serve` on a free port of loopback: started, waited for, and ended as a tree."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
PATIENCE_S = 120.0  # four processes import their libraries, on a machine that may be busy


@dataclass
class Served:
    """A service that is ready, unless it was started without waiting."""

    url: str
    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        """All that its processes have said so far."""
        return self.log_file.read_text(encoding="utf-8")

    def wait(self) -> None:
        """Until it is ready."""
        ends = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends:
            assert self.process.poll() is None, self.log
            try:
                urllib.request.urlopen(f"{self.url}/readyz", timeout=1)
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError(self.log)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Any:
        """Status and JSON of an answer; `body` goes as it is when it is bytes."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"content-type": "application/json", **(headers or {})}
        return self._open(urllib.request.Request(f"{self.url}{path}", content, sent))

    def get(self, path: str) -> Any:
        """Status and text (JSON where it is) of an answer."""
        return self._open(urllib.request.Request(f"{self.url}{path}"))

    def _open(self, request: urllib.request.Request) -> Any:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                return response.status, _read(response)
        except urllib.error.HTTPError as error:
            return error.code, _read(error)


@contextmanager
def served(
    target: str,
    folder: Path,
    environment: Mapping[str, str],
    wait: bool = True,
    port: int | None = None,
) -> Iterator[Served]:
    """Serve `target`, such as serving.service:Baseline; what it writes goes into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    told = os.environ | {
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_PORT": str(port),
        "STILLHOUSE_DRAIN_NOTICE_S": "0",
        **environment,
    }
    command = [sys.executable, "-m", "bentoml", "serve", target]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=told, stdout=log, stderr=log)
        found = Served(f"http://127.0.0.1:{port}", process, folder / "log")
        try:
            if wait:
                found.wait()
            yield found
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop the supervisor, and whatever of its tree is left: each child is its own session."""
    try:
        tree = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        tree = []
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(60)
    process.kill()
    for child in tree:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.wait(10)


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _read(response: Any) -> Any:
    content = response.read()
    kind = response.headers.get("content-type", "")
    return json.loads(content) if kind.startswith("application/json") else content.decode()
