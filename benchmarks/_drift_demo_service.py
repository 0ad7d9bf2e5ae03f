"""The demo's traffic: prompts of the generator, and the real service that they are sent to."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import httpx

from benchmarks._drift_demo_project import Demo
from serving._live.files import live_files
from serving.errors import StillhouseError
from stages._incidents.drift import Scenario
from stages._served import served
from stages._windows.planting import plant_incidents

Row = dict[str, Any]
TARGET = "serving.service:Stillhouse"
CLIENTS = 8
START_S, REQUEST_S, ROLL_S, PATIENCE_S = 180.0, 120.0, 2.0, 180.0
SCENARIOS: Final[tuple[Scenario, ...]] = ("services", "units")


def draw_prompts(seed: int, rows: int, share: float) -> list[Row]:
    """Incidents with five references, `share` of them with new services and new units in turn."""
    drawn = plant_incidents(seed, rows, SCENARIOS, share)
    once = {row["prompt"]: row for row in drawn}
    return list(once.values())


@contextmanager
def serving(demo: Demo, log: str) -> Iterator[str]:
    """The copy's service, its winner with records in clear texts; gives its address."""
    environment = demo.environment | {
        "STILLHOUSE_LIVE_FOLDER": "data/live",
        "STILLHOUSE_LIVE_TEXTS": "clear",
        "STILLHOUSE_LIVE_ROLL_S": str(ROLL_S),
    }
    said = demo.project / "serve.log"
    try:
        with served(TARGET, demo.project, environment, START_S) as running:
            yield running.url
    finally:
        if said.is_file():  # Git must not see it
            (demo.folder / "logs").mkdir(exist_ok=True)
            shutil.move(said, demo.folder / "logs" / f"{log}.log")


def ask(url: str, path: str, rows: Sequence[Row]) -> list[Row]:
    """The service's answers in the rows' order, several asked at a time."""
    with httpx.Client(trust_env=False, timeout=REQUEST_S) as client:

        def one(row: Row) -> Row:
            response = client.post(f"{url}{path}", json={"prompt": row["prompt"]})
            response.raise_for_status()
            found: Row = response.json()
            return found

        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(one, rows))


def wait_for_records(demo: Demo, rows: int) -> None:
    """Until so many records are Parquet: the service closes a spool every two seconds.

    Raises:
        StillhouseError: they are not there in time.
    """
    live, until, found = demo.project / "data/live", time.monotonic() + PATIENCE_S, 0
    while time.monotonic() < until:
        command = [sys.executable, "-m", "serving.live_files", "data/live"]
        subprocess.run(
            command, cwd=demo.project, env=demo.environment, check=True, capture_output=True
        )
        found = count_records(demo)
        if found >= rows:
            return
        time.sleep(ROLL_S / 2)
    raise StillhouseError(
        f"{live} has {found} records, expected {rows}. See logs/ beside the copy, then run the "
        f"demo again: it goes on here."
    )


def count_records(demo: Demo) -> int:
    """Records that are Parquet."""
    import pyarrow.parquet as pq

    paths = live_files(demo.project / "data/live")
    return sum(pq.read_metadata(path).num_rows for path in paths)
