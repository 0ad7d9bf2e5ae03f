"""An image does what it must: small, without a compiler, shut without a key, and right.

It is looked into, then started as it is in production (no way to write but /tmp, a user that is not
root), asked the golden requests with a key, and told to end.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from serving._keys import LINES_VARIABLE
from serving._service_settings import LONGEST_DEADLINE_S
from serving.errors import StillhouseError
from serving.keys import add_key
from stages import _golden
from stages._container.image import Engine, Image, Running
from stages._golden import Golden, Said
from stages._served import free_port
from stages._stage import print_line

MOST_BYTES = 900_000_000  # of an image without torch
STOP_LIMIT_S = 30.0  # Kubernetes' grace; the service needs 24 s at most (docs/operating.md)
POLL_S = 0.1
FAILED = "Application startup failed"  # uvicorn's words; BentoML would start it again and again
TENANT = "container-check"


@dataclass(frozen=True)
class Expected:
    """What the image must answer, and how long that may take."""

    golden: Sequence[Golden]
    said: Sequence[Said]
    """Of the predictor, loaded from the folder that was measured."""
    start_limit_s: float
    request_limit_s: float
    torch: bool
    """Whether the model's engine needs torch."""


def look_into(engine: Engine, image: Image) -> dict[str, Any]:
    """What is in an image (stages/_container/inside.py).

    Raises:
        StillhouseError: its Python does not start.
    """
    script = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")
    ended = engine.run(image, ["python", "-c", script], {})
    line = next((line for line in ended.said.splitlines() if line.startswith("{")), None)
    if ended.code != 0 or line is None:
        raise StillhouseError(f"{image.name} could not be looked into: {ended.said.strip()[-300:]}")
    found: dict[str, Any] = json.loads(line)
    return found


def objections(image: Image, found: Mapping[str, Any], torch: bool) -> list[str]:
    """What speaks against an image by what is in it.

    Args:
        torch: whether its model's engine needs torch, whose room nobody can help.
    """
    wrong = []
    if found["bytes"] > MOST_BYTES and not torch:
        size_mb, most_mb = found["bytes"] / 1e6, MOST_BYTES / 1e6
        wrong.append(f"it has {size_mb:.1f} MB, expected {most_mb:.0f} MB at most")
    if found["builders"]:
        wrong.append(f"it has {', '.join(found['builders'])}, expected no compiler and no git")
    if found["torch"] and not torch:
        wrong.append("torch is in it, which this model does not need")
    if found["uid"] == 0 or image.user.partition(":")[0] in ("", "0", "root"):
        wrong.append("it runs as root")
    if found["writable"] != ["/tmp"]:  # noqa: S108
        wrong.append(f"expected /tmp alone to be writable, found {', '.join(found['writable'])}")
    return wrong


def check_refusal(engine: Engine, image: Image) -> None:
    """Without keys the image must not start, and nothing in it is healthy then.

    Raises:
        StillhouseError: it does.
    """
    ended = engine.run(image, image.entrypoint, {})
    if ended.code != 1 or "expected keys" not in ended.said:
        raise StillhouseError(
            f"started without keys, {image.name} ended with {ended.code}, expected 1 and one "
            f"line. It said: {ended.said.strip()[-300:]}"
        )
    if engine.run(image, image.health, {}).code == 0:
        raise StillhouseError(f"{image.name} calls itself healthy where no service runs.")


def check_service(engine: Engine, image: Image, expected: Expected, place: Path) -> dict[str, Any]:
    """Start the image, ask it, and end it; how long that took [s], and the parity.

    Args:
        place: where its log and its key go.

    Raises:
        StillhouseError: it is not ready in time, unhealthy, open to all, answers otherwise than
            the model's folder, or does not end well.
    """
    key, variables = _settings(place / "keys.jsonl", expected)
    port = free_port()
    started = time.monotonic()
    with engine.start(image, port, variables, place / "serve.log") as running:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, started + expected.start_limit_s, place / "serve.log")
        start_s = time.monotonic() - started
        _check_health(running, image)
        _check_door(url, expected)
        parity = _ask(url, key, expected)
        _golden.check(parity, image.name)
        asked = time.monotonic()
        code = running.stop(STOP_LIMIT_S)
        if code != 0:
            raise StillhouseError(f"after SIGTERM {image.name} ended with {code}, expected 0.")
        stop_s = time.monotonic() - asked
    return {"start_s": start_s, "stop_s": stop_s, "golden_parity": parity.to_dict()}


def _settings(file: Path, expected: Expected) -> tuple[str, dict[str, str]]:
    """A new key, and the environment of a service that knows it."""
    file.unlink(missing_ok=True)
    key, _ = add_key(file, TENANT, {})
    return key, {
        LINES_VARIABLE: file.read_text(encoding="utf-8").strip(),
        "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"],  # as many as the predictor here had
        "STILLHOUSE_DEADLINE_S": str(min(expected.request_limit_s, LONGEST_DEADLINE_S)),
    }


def _wait_until_ready(url: str, until: float, log: Path) -> None:
    with httpx.Client(trust_env=False, timeout=5.0) as client:
        while time.monotonic() < until:
            try:
                if client.get(f"{url}/readyz").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:  # it does not listen yet
                pass
            # docker's and podman's log is written at the end
            said = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
            if FAILED in said:
                raise StillhouseError(f"a service of the image failed: {_fault(said)}. See {log}.")
            time.sleep(POLL_S)
    raise StillhouseError(f"the image was not ready in time. See {log}.")


def _fault(said: str) -> str:
    """The first error of a service's log, by its message and type."""
    for line in said.splitlines():
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and found.get("level") == "error":
                return f"{found.get('message')} {found.get('exception', '')}".strip()
    return FAILED


def _check_health(running: Running, image: Image) -> None:
    if code := running.ask(image.health):
        raise StillhouseError(f"{image.name} is ready, and its health check ended with {code}.")


def _check_door(url: str, expected: Expected) -> None:
    body = {"prompt": expected.golden[0].request.prompt}
    with httpx.Client(trust_env=False, timeout=expected.request_limit_s) as client:
        status = client.post(f"{url}/generate", json=body).status_code
    if status != httpx.codes.UNAUTHORIZED:
        raise StillhouseError(f"expected 401 for a request without a key, found {status}.")


def _ask(url: str, key: str, expected: Expected) -> _golden.Parity:
    print_line(f"  {len(expected.golden)} golden requests are asked")
    found = _golden.ask_singly(
        f"{url}/generate",
        expected.golden,
        expected.request_limit_s,
        {"authorization": f"Bearer {key}"},
    )
    return _golden.compare(expected.golden, expected.said, found)
