"""The edge service as a real process on one core, in 512 MB, without a network.

    python -m benchmarks.edge                                         # as root, two minutes
    python -m benchmarks.edge --student models/variants/ct2_int8      # another than the winner
    python -m benchmarks.edge --write                                 # also benchmarks/edge.json

`python -m serving.edge` is pinned to one core and asked from another, over loopback: one caller
that waits for each answer, then several at once. A control group bounds its memory, and it stands
in a network namespace that has loopback alone. Prompts are the calibration split's. Start is the
time until /readyz is 200; peak resident memory is VmHWM (proc(5)), and the group's peak has page
cache in it, which gives way. --unbounded leaves group and namespace out, and says so.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks._edge_bounds import MemoryGroup, interfaces, leave_network, memory_group
from benchmarks.serve_load.dialects import Dialect
from benchmarks.serve_load.figures import spread_ms
from benchmarks.serve_load.servers import Running, Server, running
from benchmarks.serve_load.wire import HOST
from serving._memory_use import memory_of
from serving._service_settings import ServiceSettings
from serving.contract import digest, read_contract
from serving.errors import StillhouseError
from stages import _io
from stages._benchmark_machine import describe_processor
from stages._provenance import git_state, installed_versions

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/edge.json"
LIMIT_MIB = 512
START_S = 120.0
WARM, TOGETHER = 20, 4
"""Requests before any that counts, and callers at once [count]."""
JSON = {"content-type": "application/json"}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    prompts = [row["prompt"] for row in _io.read_jsonl(options.prompts)][: options.count]
    load_before = os.getloadavg()[0]
    with TemporaryDirectory() as folder, bounds(options.unbounded) as group:
        server = edge_server(options, group)
        with running(server, Path(folder) / "log", START_S) as edge:
            latency = {"first": ask_all(edge.port, "/generate", prompts[:1])}
            ask_all(edge.port, "/generate", prompts[:WARM])
            for path in paths(edge.port):
                latency[path.strip("/")] = ask_all(edge.port, path, prompts)
            together = ask_together(edge.port, prompts)
            memory = read_memory(edge, group)
            facts = {"processes": len(edge.tree()), "threads": edge.process.num_threads()}
    return {
        "machine": describe_machine() | {"load_before": load_before},
        "bounds": facts | describe_bounds(options.core, group),
        "student": describe_model(options.student),
        "baseline": describe_model(options.baseline),
        "start_s": edge.ready_s,
        "memory": memory,
        "latency_ms": latency,
        "callers_at_once": together,
        "command": f"python -m benchmarks.edge {' '.join(sys.argv[1:])}".strip(),
    }


@contextmanager
def bounds(unbounded: bool) -> Iterator[MemoryGroup | None]:
    """The memory's bound, unless there is to be none."""
    if unbounded:
        yield None
        return
    with memory_group(LIMIT_MIB << 20) as group:
        yield group


def edge_server(options: argparse.Namespace, group: MemoryGroup | None) -> Server:
    """The service on its one core, with the models that are named."""
    words = ["taskset", "-c", str(options.core), sys.executable, "-m", "serving.edge"]
    words += ["--port", "{port}"]
    environment = {
        "STILLHOUSE_STUDENT": str(options.student.resolve()),
        "STILLHOUSE_BASELINE": str(options.baseline.resolve()),
        "STILLHOUSE_ROUTE": str(options.route.resolve()),
    }
    command = words if group is None else group.command(words)
    return Server(
        "edge", "one process", command, environment, "/readyz", Dialect("bare", "/generate")
    )


def paths(port: int) -> list[str]:
    """What is asked: the cascade where there is one."""
    connection = HTTPConnection(HOST, port, timeout=60)
    connection.request("GET", "/v1/models")
    names = [model["id"] for model in json.loads(connection.getresponse().read())["data"]]
    connection.close()
    return ["/generate", "/baseline", *(["/cascade"] if "cascade" in names else [])]


def ask_all(port: int, path: str, prompts: Sequence[str]) -> dict[str, Any]:
    """Percentiles of one caller on one connection [ms], and what it got.

    Raises:
        StillhouseError: an answer that is none.
    """
    seconds, ask = [], caller(port, path)
    for prompt in prompts:
        started = time.perf_counter()
        ask(prompt)
        seconds.append(time.perf_counter() - started)
    return {"requests": len(prompts), **(spread_ms(seconds) or {})}


def ask_together(port: int, prompts: Sequence[str]) -> dict[str, Any]:
    """The same of several callers, each with its share of the prompts."""
    shares = [prompts[number::TOGETHER] for number in range(TOGETHER)]

    def ask_share(share: Sequence[str]) -> list[float]:
        ask, seconds = caller(port, "/generate"), []
        for prompt in share:
            started = time.perf_counter()
            ask(prompt)
            seconds.append(time.perf_counter() - started)
        return seconds

    started = time.perf_counter()
    with ThreadPoolExecutor(TOGETHER) as pool:
        seconds = [one for share in pool.map(ask_share, shares) for one in share]
    rate = len(seconds) / (time.perf_counter() - started)
    return {"callers": TOGETHER, "answers_per_s": rate, "latency_ms": spread_ms(seconds)}


def caller(port: int, path: str) -> Callable[[str], None]:
    """Asks one prompt after another on a connection that lasts."""
    connection = HTTPConnection(HOST, port, timeout=60)

    def ask(prompt: str) -> None:
        connection.request("POST", path, json.dumps({"prompt": prompt}), JSON)
        response = connection.getresponse()
        told = response.read()
        if response.status != 200:
            raise StillhouseError(f"{path} answered with {response.status}: {told[:200]!r}")

    return ask


def read_memory(edge: Running, group: MemoryGroup | None) -> dict[str, Any]:
    """Of the one process [MB of 10^6 bytes]."""
    found = memory_of(edge.process.pid)
    status = Path(f"/proc/{edge.process.pid}/status").read_text(encoding="utf-8")
    peak_kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    told = {"peak_resident_mb": int(peak_kib) * 1024 / 1e6}
    if found is not None:
        told |= {"proportional_mb": found.proportional_bytes / 1e6}
    if group is not None:
        told |= {"group_peak_mb": group.peak_mb(), "limit_hits": group.limit_hits()}
    return told


def describe_machine() -> dict[str, Any]:
    """Processor, versions, and how busy it was in the end."""
    return {
        **describe_processor(),
        "cores": psutil.cpu_count(),
        "load_after": os.getloadavg()[0],
        "commit": git_state(ROOT)._asdict(),
        "versions": installed_versions(),
    }


def describe_bounds(core: int, group: MemoryGroup | None) -> dict[str, Any]:
    """What was really in force."""
    return {
        "core": core,
        "memory_mib": LIMIT_MIB if group else None,
        "memory_by": f"cgroup v{group.version}" if group else "nothing",
        "interfaces": interfaces(),
    }


def describe_model(folder: Path) -> dict[str, Any]:
    """Which model it was, and its size."""
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    contract = read_contract(folder, check_files=False)
    return {
        "folder": folder.as_posix(),
        "engine": contract.engine,
        "quantization": (contract.quantization or {}).get("dtype"),
        "sha256": digest(folder),
        "disk_mb": size / 1e6,
    }


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.edge")
    parser.add_argument("--student", type=Path, help="a model's folder; without, the CPU's winner")
    parser.add_argument("--baseline", type=Path, default=Path("models/baseline"))
    parser.add_argument("--route", type=Path, default=Path("models/route.json"))
    parser.add_argument("--prompts", type=Path, default=Path("data/prepared/calibration.jsonl"))
    parser.add_argument("--count", type=int, default=500, help="most prompts of each measurement")
    parser.add_argument("--core", type=int, default=(psutil.cpu_count() or 1) - 1)
    parser.add_argument("--unbounded", action="store_true", help="no group, no namespace")
    parser.add_argument("--write", action="store_true", help=f"also {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args(arguments)
    options.student = options.student or ServiceSettings().student_folder()
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write where that is asked for."""
    options = read_options(arguments)
    if not options.unbounded:
        leave_network("benchmarks.edge", sys.argv[1:])
    if others := os.sched_getaffinity(0) - {options.core}:
        os.sched_setaffinity(0, others)  # so that asking takes nothing from answering
    results = measure(options)
    print(json.dumps(results, indent=2))
    if options.write:
        _io.write_json(RESULTS, results)


if __name__ == "__main__":
    try:
        main()
    except StillhouseError as error:
        raise SystemExit(str(error)) from None
