"""The service is a real process on loopback: it answers, refuses bad input, and stops."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from socket import socket

import pytest
from toy import example, write_prepared

from stages._params import check_params
from stages.baseline import baseline

ROOT = Path(__file__).parent.parent
PARAMS = check_params({"baseline": {"confidence_rows": 50, "jobs": 1}}, Path("params.yaml"))


def free_port():
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    root = tmp_path_factory.mktemp("service")
    write_prepared(root)
    inputs = {n: root / n for n in ("train.jsonl", "validation.jsonl", "slots.json")}
    baseline(PARAMS, inputs, {"model": root / "model", "reports": root / "reports"})
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Baseline"]
    environment = os.environ | {
        "STILLHOUSE_BASELINE": str(root / "model"),
        "BENTOML_HOME": str(root / "bentoml"),
        "BENTOML_PORT": url.rsplit(":", 1)[1],
    }
    with (root / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            wait_until_ready(url, process, root / "log")
            yield url
        finally:
            process.terminate()
            process.wait(30)


def wait_until_ready(url, process, log):
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=1)
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


def post(url, body):
    request = urllib.request.Request(
        f"{url}/baseline", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.slow
def test_it_answers_with_a_confidence(service):
    pub = example("Zizzi", "pies", "no")
    status, body = post(service, {"prompt": pub["prompt"]})
    assert status == 200
    assert body["text"] in pub["references"]
    assert 0 <= body["confidence"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"prompt": ""},
        {"prompt": 5},
        {"prompt": "no record"},
        {"prompt": "x" * 20_001},
        {"prompt": "colour[red]"},
    ],
    ids=["absent", "empty", "number", "no record", "too long", "unknown slot"],
)
def test_bad_input_is_a_4xx(service, body):
    status, answer = post(service, body)
    assert 400 <= status < 500, answer
