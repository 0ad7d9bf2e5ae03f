"""One run of the canary on real services: splitter, load, and the judge as the program it is."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks._canary_load import Load
from benchmarks._canary_models import Served
from serving.errors import StillhouseError
from stages import _io
from stages._served import free_port, served

ROOT = Path(__file__).parent.parent
TARGET = "serving.service:Stillhouse"
REPORT = Path("reports/canary/canary.json")
START_S, SPLIT_START_S = 180.0, 20.0
VERDICTS = {0: "promote", 3: "hold", 4: "roll_back"}
Found = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """Both services, as they run."""

    champion: str
    challenger: str
    models: tuple[str, str]
    """Digests of champion and challenger."""


@dataclass(frozen=True)
class Traffic:
    """What is sent through the splitter, and the section `canary` that it is judged by."""

    prompts: list[str]
    per_s: float
    rules: Found


@contextmanager
def both_served(
    project: Path, champion: Served, challenger: Served, folder: Path
) -> Iterator[Pair]:
    """Two services of the project's code, each with a home of its own."""
    with ExitStack() as stack:
        urls = []
        for name, model in (("champion", champion), ("challenger", challenger)):
            home = folder / name
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            environment = {
                **os.environ,
                "PYTHONPATH": str(project),
                "BENTOML_HOME": str(home / "bentoml"),
                "STILLHOUSE_STUDENT": str(model.folder),
                "STILLHOUSE_BASELINE": str(project / "models/baseline"),
                "STILLHOUSE_ROUTE": str(model.route),
                "STILLHOUSE_BATCHING": "direct",
                "STILLHOUSE_CACHE": "off",
                "STILLHOUSE_DRAIN_NOTICE_S": "0",
            }
            running = stack.enter_context(served(TARGET, home, environment, START_S))
            urls.append(running.url)
        yield Pair(urls[0], urls[1], (champion.model_sha256, challenger.model_sha256))


@contextmanager
def splitting(pair: Pair, share: float, seed: int) -> Iterator[str]:
    """The splitter's address."""
    port = free_port()
    addresses = ["--champion", pair.champion, "--challenger", pair.challenger]
    settings = ["--port", str(port), "--share", str(share), "--seed", str(seed)]
    command = [sys.executable, "-m", "benchmarks._canary_split", *settings, *addresses]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + SPLIT_START_S
    while process.poll() is None and time.monotonic() < until:
        with suppress(httpx.TransportError):
            httpx.get(url, trust_env=False)
            return
        time.sleep(0.05)
    raise StillhouseError(f"the splitter does not answer (exit code {process.poll()}).")


def run_canary(pair: Pair, traffic: Traffic, folder: Path, seed: int) -> Found:
    """One canary from its start to its verdict.

    Raises:
        StillhouseError: the judge ended with a mistake.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _io.write_json(folder / "params.yaml", {"canary": traffic.rules})  # JSON is YAML
    command = [sys.executable, "-m", "stages.canary"]
    command += ["--champion", pair.champion, "--champion-model", pair.models[0]]
    command += ["--challenger", pair.challenger, "--challenger-model", pair.models[1]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with splitting(pair, traffic.rules["share"], seed) as url:
        load = Load(url, traffic.prompts, traffic.per_s, seed)
        with load.sent(), (folder / "canary.log").open("a", encoding="utf-8") as log:
            ended = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log)
    if ended.returncode not in VERDICTS:
        words = (folder / "canary.log").read_text(encoding="utf-8").splitlines()[-1]
        raise StillhouseError(f"the canary ended with {ended.returncode}: {words}")
    report = _io.read_json(folder / REPORT)
    if VERDICTS[ended.returncode] != report["verdict"]:
        raise StillhouseError(f"exit code {ended.returncode}, but the report: {report['verdict']}")
    return _row(report) | {"statuses": dict(load.results)}


def _row(report: Found) -> Found:
    """What is kept of a run's report."""
    last = report["looks"][-1]
    return {
        "verdict": report["verdict"],
        "reason": report["reason"],
        "seconds": last["seconds"],
        "looks": len(report["looks"]),
        "requests": {side: last[f"{side}_requests"] for side in ("champion", "challenger")},
        "restarts": {side: report[side]["restarts"] for side in ("champion", "challenger")},
        "slow_limit_s": report["slow_limit_s"],
        "worse": [test["name"] for test in report["tests"] if test["verdict"] == "worse"],
        "tests": {test["name"]: _test(test) for test in report["tests"]},
    }


def _test(test: Found) -> Found:
    shares = {s: test[s]["bad"] / max(test[s]["total"], 1) for s in ("champion", "challenger")}
    return {**shares, "low": test["low"], "high": test["high"], "margin": test["margin"]}
