"""What is asked of our service alone: its peak, latency below it, overload, start and memory."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._ratios import ratio_of_medians
from benchmarks.serve_load.figures import middle
from benchmarks.serve_load.load import poisson_arrivals
from benchmarks.serve_load.peers import OURS, empty_service, null_server
from benchmarks.serve_load.servers import Running, Server, running
from benchmarks.serve_load.turns import Bench, take_turn
from stages._progress import report_progress

MB = 1e6
UNBOUNDED = 10_000_000  # requests: only time ends the load on a server that does nothing


def measure_generator(bench: Bench, folder: Path) -> dict[str, Any]:
    """What the load generator itself can do: the same load on a server that answers at once."""
    clients = max(bench.options.clients)
    server = null_server(bench.options)
    with running(server, folder / "null.log", bench.options.start_limit_s) as null:
        found = bench.closed(null, clients, most=UNBOUNDED)
    return {"clients": clients, "requests_per_s": found["answers_per_s"], **_waits(found)}


def _waits(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("latency_ms", "results")}


def measure_starts(options: Namespace, server: Server, home: Path, folder: Path) -> dict[str, Any]:
    """Seconds from start to ready, ours and the framework's own, in turns."""
    seconds: dict[str, list[float]] = {"empty": [], OURS: []}
    contenders = {"empty": empty_service(options, home), OURS: server}
    progress = report_progress("starts", options.starts)
    for number in range(options.starts):
        for name, contender in contenders.items():
            log = folder / f"start_{name}.log"
            with running(contender, log, options.start_limit_s) as started:
                seconds[name].append(started.ready_s)
        progress(number + 1)
    middles = {name: median(values) for name, values in seconds.items()}
    return {
        "ready_s": middles,
        "apart_from_framework_s": middles[OURS] - middles["empty"],
        "rounds": seconds,
        "commands": {name: contender.told() for name, contender in contenders.items()},
    }


def measure_peak(
    bench: Bench, ours: Running, throughput: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The client count at which our service answers most, and how many answers that is."""
    rounds = {int(n): cell["rounds"][OURS] for n, cell in throughput.items()}
    for clients in bench.options.peak_clients:
        turns = [
            take_turn(ours, lambda n=clients: bench.closed(ours, n))
            for _ in range(bench.options.rounds)
        ]
        rounds[clients] = turns
    best = max(rounds, key=lambda clients: middle(rounds[clients], "tokens_per_s"))
    return {
        "clients": best,
        "tokens_per_s": middle(rounds[best], "tokens_per_s"),
        "answers_per_s": middle(rounds[best], "answers_per_s"),
        "by_clients": {str(n): middle(turns, "tokens_per_s") for n, turns in rounds.items()},
    }


def measure_latency(bench: Bench, ours: Running, rate: float) -> dict[str, Any]:
    """Latency at a share of the peak rate, arrivals at random."""
    options = bench.options
    arrivals = poisson_arrivals(rate, options.open_seconds, options.most, options.seed)
    found = take_turn(ours, lambda: bench.open(ours, arrivals, options.open_seconds))
    waits = found["latency_ms"]
    return {
        "rate_per_s": rate,
        "p99_to_p50": waits["p99"] / waits["p50"] if waits else None,
        **found,
    }


def measure_overload(bench: Bench, ours: Running, peak: Mapping[str, Any]) -> dict[str, Any]:
    """More than the service can do, in turns with its peak: what is answered, refused, and when."""
    options = bench.options
    rate = options.overload * peak["answers_per_s"]
    rounds: dict[str, list[dict[str, Any]]] = {"peak": [], "overload": []}
    for number in range(options.rounds):
        seed = options.seed + number
        arrivals = poisson_arrivals(rate, options.overload_seconds, options.most, seed)
        rounds["peak"].append(take_turn(ours, lambda: bench.closed(ours, peak["clients"])))
        rounds["overload"].append(
            take_turn(ours, lambda a=arrivals: bench.open(ours, a, options.overload_seconds))
        )
    rates = {name: [turn["tokens_per_s"] for turn in turns] for name, turns in rounds.items()}
    return {
        "rate_per_s": rate,
        "deadline_s": options.deadline_s,
        "throughput_to_peak": ratio_of_medians(rates["overload"], rates["peak"]),
        "requests": sum(turn["requests"] for turn in rounds["overload"]),
        "results": _add_up([turn["results"] for turn in rounds["overload"]]),
        "late_answers": sum(turn["late_answers"] for turn in rounds["overload"]),
        "unanswered_in_time": sum(turn["unanswered_in_time"] for turn in rounds["overload"]),
        "rounds": rounds,
    }


def _add_up(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    names = sorted({name for each in counts for name in each})
    return {name: sum(each.get(name, 0) for each in counts) for name in names}


def measure_streams(bench: Bench, servers: Mapping[str, Running]) -> dict[str, Any]:
    """Time to the first text of streams, of every server that speaks the protocol."""
    clients = bench.options.stream_clients
    speaking = {n: s for n, s in servers.items() if s.server.dialect.kind == "completions"}
    found = {}
    for name, server in speaking.items():
        found[name] = take_turn(server, lambda s=server: bench.closed(s, clients, stream=True))
    return {"clients": clients, "servers": found}


def measure_memory(servers: Mapping[str, Running]) -> dict[str, Any]:
    """Memory after all that load [MB], pauses over: a stopped process keeps what it has."""
    return {name: server.memory() for name, server in servers.items()}


def folder_mb(path: Path) -> float:
    """Size of a file or of all files of a folder [MB]."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(file.stat().st_size for file in files) / MB
