"""Runs commands of the documents in a project, as a person would: a shell per block, real servers.

A `cd`, an `export` and a setting hold for the rest of their block. A server is left running until
its document ends or another one starts. Ports are free ones, in place of 3000.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from documented import Command
from documented_classes import HEX, SERVICE, Run
from service_process import end, free_port

PATIENCE_S = 300.0
"""For a server to be ready and for any other command to end, on a machine that may be busy."""
SERVE = Command("README.md", 0, "make serve", "shell")


@dataclass
class Walk:
    """A reader's way through the documents."""

    project: Path
    place: Path
    """For keys, stores and backups: outside of the project."""
    first: str = ""
    """What `make repro` said when it made the project."""
    port: int = field(default_factory=free_port)
    server: "subprocess.Popen[bytes] | None" = None
    document: str = ""

    def problem(self, command: Command, row: Run) -> str:
        """Run a command; what is wrong with it, "" where nothing is."""
        if command.file != self.document:
            self.stop()
            self.document = command.file
        if row.asks and self.server is None:
            wrong = self._serve(SERVE, SERVICE)
            if wrong:
                return wrong
        if row.serves:
            return self._serve(command, row)
        made = command.text == "make repro" and row.first  # it has made the project
        code, output = (0, "") if made else self._run(command, row)
        if code:
            return f"exit code {code}\n{output[-1500:]}"
        said = f"{self.first}\n{output}" if row.first else output
        if not re.search(row.says, said):
            return f"does not say {row.says!r}\n{said[-1500:]}"
        return unlike(command.output, said, row.varies)

    def shell(self, text: str, patience_s: float = PATIENCE_S) -> tuple[int, str]:
        """Exit code and output of a line of our own, in the project."""
        return self._run(Command("", 0, text, "shell"), Run("", ""), patience_s)

    def stop(self) -> None:
        """End the server with all its processes."""
        if self.server is not None:
            end(self.server)
        self.server = None

    def _filled(self, command: Command, row: Run) -> str:
        known = {"project": self.project, "kept": self.place / "kept", "port": self.port}
        known |= {"venv": self.project / ".venv", "place": self.place}
        text = command.text
        for old, new in row.fill:
            for name, value in known.items():
                new = new.replace(f"{{{name}}}", str(value))
            text = text.replace(old, new)
        text = re.sub(r"(localhost:|127\.0\.0\.1:|--port )3000", rf"\g<1>{self.port}", text)
        return text.replace("sha256:…", f"sha256:{HEX}")

    def _shell(self, command: Command) -> Path:
        """The folder of a block's shell: its variables and where it is."""
        name = command.file.replace("/", "_")
        folder = self.place / f"{name}-{command.block or command.line}"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            (folder / "at").write_text(str(self.project))
            (folder / "variables").touch()
        return folder

    def _script(self, command: Command, row: Run) -> list[str]:
        if command.kind == "python":
            return [sys.executable, "-c", self._filled(command, row)]
        folder = shlex.quote(str(self._shell(command)))
        typed = self._filled(command, row)
        begun = f'set -a; . {folder}/variables; cd "$(cat {folder}/at)"; BENTOML_PORT={self.port}'
        if row.serves:
            return ["bash", "-c", f"{begun}\nexec {typed}"]
        kept = f"pwd > {folder}/at; export -p > {folder}/variables"
        return ["bash", "-c", f"{begun}\n{typed}\ncode=$?; {kept}; exit $code"]

    def _environment(self, command: Command) -> dict[str, str]:
        """What an activated shell has; settings of this test's own process are left out."""
        left_out = ("MAKE", "MFLAGS", "PYTEST", "STILLHOUSE_", "BENTOML_", "MLFLOW_", "HF_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
        settings = (self.project / "settings.env").read_text(encoding="utf-8")
        kept |= dict(re.findall(r"^(\w+)=(.*)$", settings, re.M))
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "BENTOML_HOME": str(self._shell(command) / "bentoml"),
            "BENTOML_PORT": str(self.port),
            "STILLHOUSE_DRAIN_NOTICE_S": "0",
            "STILLHOUSE_LIVE_FOLDER": str(self.project / "data/live"),
            "STILLHOUSE_LIVE_TEXTS": "clear",
            "GIT_AUTHOR_NAME": "Reader",
            "GIT_AUTHOR_EMAIL": "reader@example.com",
            "GIT_COMMITTER_NAME": "Reader",
            "GIT_COMMITTER_EMAIL": "reader@example.com",
        }

    def _run(self, command: Command, row: Run, patience_s: float = PATIENCE_S) -> tuple[int, str]:
        with (self._shell(command) / "said").open("w+", encoding="utf-8") as told:
            try:
                code = subprocess.run(
                    self._script(command, row),
                    cwd=self.project,
                    env=self._environment(command),
                    stdin=subprocess.DEVNULL,
                    stdout=told,
                    stderr=told,
                    timeout=patience_s,
                ).returncode
            except subprocess.TimeoutExpired:
                code = 124
            told.seek(0)
            return code, told.read()

    def _serve(self, command: Command, row: Run) -> str:
        """Start a server and wait until it answers."""
        self.stop()
        self.port = free_port()
        log = self._shell(command) / "log"
        with log.open("wb") as told:
            self.server = subprocess.Popen(
                self._script(command, row),
                cwd=self.project,
                env=self._environment(command),
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
            )
        ends = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends and self.server.poll() is None:
            with suppress(OSError):
                self._answer(row.serves)
                said = self._answer(row.shows or row.serves) + log.read_text(encoding="utf-8")
                return "" if re.search(row.says, said) else f"does not say {row.says!r}: {said}"
            time.sleep(0.2)
        self.stop()
        return f"does not serve {row.serves}\n{log.read_text(encoding='utf-8')[-1500:]}"

    def _answer(self, path: str) -> str:
        """What the server answers to a GET."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
            return str(response.read().decode())


def unlike(shown: tuple[str, ...], said: str, varies: str = "") -> str:
    """Where the output that a document shows is not of the shape of what was said, "" if it is.

    Numbers and digests are masked. JSON must have the keys that are shown, the others their lines,
    in their order; `…` stands for anything. `varies` may differ.
    """
    if shown and shown[0].startswith("{"):
        told = keys(json.loads(said[said.index("{") :]), varies)
        sample = keys(json.loads("".join(shown)), varies)
        return "" if sample == told else f"other keys than shown: {sorted(sample ^ told)}"
    rest = [masked(line, varies) for line in said.splitlines()]
    for line in shown:
        pattern = ".*".join(re.escape(part) for part in masked(line, varies).split("…"))
        if line.strip() in ("", "…"):
            continue
        places = [n for n, told_line in enumerate(rest) if re.fullmatch(pattern, told_line)]
        if not places:
            return f"shows a line that does not come: {line!r}\n{said[-1500:]}"
        rest = rest[places[0] + 1 :]
    return ""


def masked(line: str, varies: str) -> str:
    """A line with `#` for numbers and digests, and one space between words."""
    plain = re.sub(varies, "#", line) if varies else line
    plain = re.sub(r"\b[0-9a-f]{8,}\b|\d[\d.,]*(e[+-]?\d+)?", "#", plain)
    return " ".join(plain.split())


def keys(value: Any, varies: str, at: str = "") -> set[str]:
    """Paths of all keys of a JSON value; of a list those of its first."""
    if isinstance(value, list):
        return keys(value[0], varies, f"{at}[]") if value else set()
    if not isinstance(value, dict):
        return set()
    found = {f"{at}.{key}" for key in value}
    for key, below in value.items():
        if not re.fullmatch(varies or "-", key):
            found |= keys(below, varies, f"{at}.{key}")
    return found
