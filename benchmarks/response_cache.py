"""How long an exact hit takes inside the service, per tier, and a miss while Redis is away.

    taskset -c 1 python -m benchmarks.response_cache                     # about a minute
    taskset -c 1 python -m benchmarks.response_cache --out benchmarks/response_cache.json

As many tasks as `--clients` in one event loop, as in the entry process, each of which asks again as
soon as it has its answer, for a request drawn at random (uniformly, with its seed) out of
`--requests`. Timed is all that a request pays for the cache: its key, the look-up, the answer read
from JSON. The answers are short texts with the fields of a native response.

    memory       hits in the process
    redis        hits in a Redis of this benchmark's own on loopback, no memory above it
    both         memory above Redis, in which a tenth of the answers fits
    redis_away   misses after that Redis was killed: none of them an error; the work takes no time
    no_cache     the same loop without a cache: what the measuring itself takes

A hit in memory never waits, so its time is its own work. Tasks that ask Redis without a pause wait
for each other, as they share one core: their time is about `clients` times what one look-up costs.
`alone` are the times of one task, and `cpu_us_per_call` what this process computes for one call,
which other programs on the machine change least. The target is a median hit under 2 ms with 32
clients.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from serving._responses.cache import ResponseCache
from serving._responses.keys import response_key
from serving._responses.opening import open_tiers
from serving.errors import StillhouseError
from stages._provenance import git_state

ROOT = Path(__file__).parent.parent
SEED = 20
TARGET_MS = 2.0  # median of a hit at 32 clients
HITS = ("memory", "redis", "both")
PRINTED = ("together", "alone", "cpu_us_per_call")
TEXT = "The Blue Spice is a coffee shop in the city centre that serves Italian food. "
Ask = Callable[[int], Awaitable[Any]]


class Redis:
    """A redis-server of our own, in a folder that goes with it."""

    def __init__(self) -> None:
        """Start it on a free port."""
        if not (program := shutil.which("redis-server")):
            raise StillhouseError("redis-server is not installed. Install Debian's redis-server.")
        self._folder = tempfile.TemporaryDirectory()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [program, *options, "--dir", self._folder.name], stdout=subprocess.DEVNULL
        )
        os.sched_setaffinity(self._process.pid, range(os.cpu_count() or 1))  # another core
        self._wait()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it, and remove its folder."""
        self.kill()
        self._folder.cleanup()

    def _wait(self) -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise StillhouseError("redis-server does not listen after 20 s. Is the machine overloaded?")


def key_of(number: int) -> str:
    """The key of a request, computed as the entry does."""
    return response_key(
        models="0" * 64,
        template="{prompt}",
        decoding={"max_new_tokens": 96, "method": "greedy", "seed": 0},
        tenant="benchmark",
        prompt=f"name[Blue Spice {number}], eatType[coffee shop], area[city centre], food[Italian]",
    )


async def make(number: int) -> dict[str, Any]:
    """An answer; the work itself takes no time."""
    choice = {"text": TEXT, "finish_reason": "stop", "completion_tokens": 17, "confidence": 0.93}
    return {"number": number, "choices": [choice], "prompt_tokens": 31, "usage": {"usd": 0.0}}


async def measure(ask: Ask, clients: int, requests: int, seconds: float) -> list[float]:
    """Times of all calls of so many tasks without pauses [s]."""
    times: list[float] = []
    until = time.perf_counter() + seconds

    async def client(seed: int) -> None:
        draw = random.Random(seed)
        while (begun := time.perf_counter()) < until:
            await ask(draw.randrange(requests))
            times.append(time.perf_counter() - begun)
            await asyncio.sleep(0)  # a hit in memory lets nobody else run

    await asyncio.gather(*(client(SEED + number) for number in range(clients)))
    return times


async def tier_times(
    options: argparse.Namespace, settings: dict[str, Any], away: Redis | None = None
) -> dict[str, Any]:
    """Times with 32 clients and alone, and what happened; `away` is killed before."""
    events: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    tiers = open_tiers(
        lambda tier, event: events.update([f"{tier} {event}"]),
        redis_timeout_s=options.timeout_s,
        **settings,
    )
    cache = ResponseCache(tiers, lambda tier, event: events.update([f"{tier} {event}"]))

    async def ask(number: int) -> None:
        body, outcome = await cache.fetch(key_of(number), partial(make, number))
        if body is None or body["number"] != number:
            raise StillhouseError(f"request {number} got another's answer. The cache is broken.")
        outcomes[outcome] += 1

    if away:
        away.kill()
    else:
        for number in range(options.requests):
            await ask(number)
            if number % 64 == 0:
                await tiers.settle()  # writes beyond the bound would be dropped
        await tiers.settle()
    result = await _both(ask, options, (events, outcomes))
    result |= {"outcomes": dict(outcomes), "events": dict(events)}
    await cache.close()
    return result


async def _both(
    ask: Ask, options: argparse.Namespace, counts: tuple[Counter[str], ...] = ()
) -> dict[str, Any]:
    alone = await measure(ask, 1, options.requests, options.seconds / 4)
    for counter in counts:
        counter.clear()
    begun = time.process_time()
    together = await measure(ask, options.clients, options.requests, options.seconds)
    cpu_us = (time.process_time() - begun) / len(together) * 1e6
    summaries = {"together": _summary(together), "alone": _summary(alone)}
    return summaries | {"cpu_us_per_call": round(cpu_us, 1)}


def _summary(times: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(np.array(times) * 1000, [50, 99])
    return {"calls": len(times), "p50_ms": round(float(p50), 4), "p99_ms": round(float(p99), 4)}


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """All rows, in the order of the docstring."""
    server = Redis()
    url = f"redis://127.0.0.1:{server.port}"
    shared: dict[str, Any] = {"redis_url": url, "memory_entries": 0}
    try:
        return {
            "memory": await tier_times(options, {"memory_entries": options.requests}),
            "redis": await tier_times(options, shared | {"prefix": "redis"}),
            "both": await tier_times(
                options, {"redis_url": url, "memory_entries": options.requests // 10}
            ),
            "redis_away": await tier_times(options, shared, away=server),
            "no_cache": await _both(make, options),
        }
    finally:
        server.close()


def describe_machine() -> dict[str, Any]:
    """Processor, cores, what they were busy with, and versions."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "pinned_to": sorted(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "commit": git_state(ROOT)._asdict(),
        "versions": {"python": platform.python_version(), "redis": version("redis")},
        "command": shlex.join(["python", "-m", "benchmarks.response_cache", *sys.argv[1:]]),
    }


def main() -> None:
    """Measure, print a table, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=5.0, help="per row")
    parser.add_argument("--timeout-s", type=float, default=0.05, help="of a call of Redis")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    machine = describe_machine()  # before, for the load
    rows = asyncio.run(run(options))
    for name, row in rows.items():
        print(
            name.ljust(12),
            json.dumps({k: row[k] for k in ("together", "alone", "cpu_us_per_call")}),
        )
    met = {name: rows[name]["together"]["p50_ms"] < TARGET_MS for name in HITS}
    if options.out:
        settings = {k: v for k, v in vars(options).items() if k != "out"}
        result = {"machine": machine, "settings": settings, "rows": rows}
        result["target"] = {"p50_ms": TARGET_MS, "met": met}
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"median of a hit under {TARGET_MS} ms with {options.clients} clients: {met}")


if __name__ == "__main__":
    try:
        main()
    except StillhouseError as error:
        sys.exit(str(error))
