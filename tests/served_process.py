"""A service under `bentoml serve`, with its supervisor and processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from socket import socket

ROOT = Path(__file__).parent.parent


class Served:
    """Serves `Entry` of a module with this source on a free port, from a folder of its own."""

    def __init__(self, folder, source, **environment):
        (folder / "tried_service.py").write_text(source)
        self.log = folder / "log"
        with socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        environment = os.environ | {
            "BENTOML_HOME": str(folder / "home"),
            "BENTOML_PORT": str(self.port),
            "PYTHONPATH": str(ROOT),
            **environment,
        }
        command = [sys.executable, "-m", "bentoml", "serve", "tried_service:Entry"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self.until(lambda: self.ask("/readyz")[0] == 200)

    def until(self, true):
        """Ask until it is true; fails with the log where the service ends or never does it."""
        for _ in range(600):
            assert self.process.poll() is None, self.log.read_text()
            if true():
                return
            threading.Event().wait(0.1)
        raise AssertionError(self.log.read_text())

    def ask(self, path, body=None):
        """Status and body; status 0 where there is no connection."""
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError as error:
            return 0, str(error).encode()

    def stop(self):
        """With all its processes, however they are."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
