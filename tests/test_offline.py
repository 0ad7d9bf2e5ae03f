"""The default pipeline needs no network: its stages run with every outgoing connection refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages._params import read_yaml
from stages._profile import render

ROOT = Path(__file__).parent.parent
# Loaded by every Python process before its program: any connection that is not to a file ends it.
BLOCK = """
import os, socket

def refuse(self, address, *rest):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
        with open(os.environ["BLOCKED_LOG"], "a") as log:
            log.write(f"{address}\\n")
        raise OSError(f"network is blocked in this test: {address}")
    return connect(self, address, *rest)

connect = socket.socket.connect
socket.socket.connect = refuse
socket.socket.connect_ex = refuse
"""


COMMANDS = [["prepare"], ["baseline"], ["teacher"], ["label"]]
COMMANDS += [["distill", recipe] for recipe in ("student", "control")]
CANDIDATES = ("baseline", "teacher", "student", "control", "ct2")
COMMANDS += [["quantize", "ct2"]]
COMMANDS += [["answer", name] for name in CANDIDATES]
COMMANDS += [["detectors"], ["evaluate"], ["ladder"]]
COMMANDS += [["benchmark", name] for name in CANDIDATES]
COMMANDS += [["select"], ["package"], ["report"]]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project on a small version of the tiny profile."""
    root = tmp_path_factory.mktemp("offline")
    for name in ("stages", "serving", "configs", "releases", "requirements"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "settings.env", root)
    overlay = read_yaml(ROOT / "configs/tiny.yaml")
    committed = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (root / "params.yaml").write_text(render(committed, overlay, "tiny"), encoding="utf-8")
    (root / "block").mkdir()
    (root / "block/sitecustomize.py").write_text(BLOCK, encoding="utf-8")
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    COMMANDS,
    ids=" ".join,
)
def test_stages_run_with_the_network_blocked(project, command):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MLFLOW"))}
    environment |= {
        "PYTHONPATH": str(project / "block"),
        "BLOCKED_LOG": str(project / "blocked.log"),
        "HF_HOME": str(project / "hf"),
    }
    done = subprocess.run(
        [sys.executable, "-m", f"stages.{command[0]}", *command[1:]],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not (project / "blocked.log").exists(), "a stage tried to reach the network"
    assert list((project / "reports" / command[0]).rglob("run.json"))
