"""A service that cannot listen says so in one line, before any process is started."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from serving._starting import check_port
from serving.errors import StillhouseError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def taken():
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_taken_port_is_named_with_the_way_out(taken):
    with pytest.raises(StillhouseError, match="choose another port") as told:
        check_port(["serve", "x:Y", "--port", str(taken)], {})
    assert str(told.value).startswith(f"127.0.0.1:{taken} is taken. ")


def test_the_command_line_goes_before_the_environment(taken, free):
    check_port([f"--port={free}"], {"BENTOML_PORT": str(taken)})
    check_port(["-p", str(free), "--reload"], {})
    with pytest.raises(StillhouseError, match=str(taken)):
        check_port([], {"BENTOML_PORT": str(taken), "BENTOML_HOST": "127.0.0.1"})


def test_what_is_no_port_or_no_address_of_ours_is_left_to_bentoml(taken):
    check_port(["--port", "http"], {})
    check_port(["--port", "70000"], {})
    check_port(["--host", "192.0.2.1", "--port", str(taken)], {})  # nobody's (RFC 5737)
    check_port(["--port", str(taken)], {"BENTOML_CONFIG": "a file that names another"})


@pytest.mark.slow
def test_bentoml_serve_ends_in_that_line(taken, tmp_path):
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Stillhouse"]
    environment = os.environ | {"BENTOML_HOME": str(tmp_path), "BENTOML_PORT": str(taken)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"127.0.0.1:{taken} is taken.")
