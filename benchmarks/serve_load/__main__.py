"""Our service under load, side by side with its peers, in one run on loopback.

    python -m benchmarks.serve_load --student models/student --winner models/variants/ct2_int8
    python -m benchmarks.serve_load … --write            # also benchmarks/serve_load.json

Contenders, each a process that is started, warmed up, measured in turns and killed:

    stillhouse          our service with the winner
    stillhouse_float32  our service with the student in float32, as (a) and (b) compute
    one_at_a_time       (a) transformers generate() behind the same HTTP layer, a lock around it
    serve               (b) `transformers serve` as it starts
    serve_batching      (b) with --continuous-batching
    plain_batching      (c) BentoML's adaptive batching with our engine and without our batcher
    offline             (d) the engine alone with full batches of rows that end together: the limit

Servers and (d) stay on one core, the load generator on the other; whoever is not measured stands
still (SIGSTOP). Told are tokens/s by client count and ratios with a 95 % interval (a bootstrap over
rounds); of our service latency at 70 % of its peak, what happens at 4 times its peak (latency
counts from when a request was due), time to the first text, start, and memory; and what the
generator itself can do. The load is bounded by --seconds and --most. It is to run on a machine
with nothing else to do.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.serve_load import experiments
from benchmarks.serve_load.offline_limit import Offline, offline
from benchmarks.serve_load.peers import BIN, OURS, make_servers, prepare_models, read_prompts
from benchmarks.serve_load.servers import Running
from benchmarks.serve_load.summary import summarise
from benchmarks.serve_load.turns import Bench, measure_agreement, measure_throughput, taking_turns
from serving.errors import StillhouseError
from stages import _io
from stages._benchmark_machine import describe_processor
from stages._provenance import git_state, installed_versions

ROOT = Path(__file__).parents[2]
HTTP = ("fastapi", "starlette", "uvicorn")  # what serves, on either side
WRITTEN = ROOT / "benchmarks/serve_load.json"


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All measurements, in `folder`."""
    source, prompts = read_prompts(options.prompts, options.prompt_count)
    models = prepare_models(options, folder)
    servers = make_servers(options, models, folder / "bentoml")
    bench = Bench(options, prompts)
    results: dict[str, Any] = {
        "machine": describe_machine(options),
        "settings": {name: _plain(value) for name, value in vars(options).items()},
        "prompts": {"source": source, "count": len(prompts)},
        "servers": {n: {"what": s.what, "command": s.told()} for n, s in servers.items()},
        "generator": experiments.measure_generator(bench, folder),
    }
    if options.starts:
        home = folder / "bentoml"
        results["start"] = experiments.measure_starts(options, servers[OURS], home, folder)
    if options.bento:
        results["bento_mb"] = experiments.folder_mb(options.bento)
    with ExitStack() as stack:
        limit = None
        if "offline" not in options.without:
            limit = stack.enter_context(offline(options, models["winner"], prompts, folder))
            limit.pause()
            told = {"what": "(d) the engine alone, full batches", "command": limit.told}
            results["servers"]["offline"] = told
        started = stack.enter_context(taking_turns(bench, servers, folder))
        results |= measure(bench, started, limit)
    return results


def measure(bench: Bench, started: dict[str, Running], limit: Offline | None) -> dict[str, Any]:
    """All that takes a load, of servers that are warm and stand still."""
    ours, options = started[OURS], bench.options
    agreement = measure_agreement(bench, started)
    throughput = measure_throughput(bench, started, limit)
    peak = experiments.measure_peak(bench, ours, throughput)
    rate = options.share * peak["answers_per_s"]
    return {
        "agreement": agreement,
        "throughput": throughput,
        "peak": peak,
        "latency": experiments.measure_latency(bench, ours, rate),
        "overload": experiments.measure_overload(bench, ours, peak),
        "streams": experiments.measure_streams(bench, started),
        "memory": experiments.measure_memory(started),
    }


def describe_machine(options: argparse.Namespace) -> dict[str, Any]:
    """Processor, what it was busy with, and versions."""
    return {
        **describe_processor(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "threads": options.threads,
        "commit": git_state(ROOT)._asdict(),
        "versions": installed_versions() | {name: metadata.version(name) for name in HTTP},
        "command": " ".join(["python -m benchmarks.serve_load", *sys.argv[1:]]),
    }


def shorten(results: dict[str, Any], folder: str) -> dict[str, Any]:
    """The same without this machine's paths, so that commands can be repeated on another."""
    text = json.dumps(results)
    places = {folder: "WORK", sys.executable: "python", f"{BIN}/": "", f"{ROOT}/": ""}
    for path, shown in places.items():
        text = text.replace(path, shown)
    found: dict[str, Any] = json.loads(text)
    return found


def _plain(value: object) -> object:
    return value.as_posix() if isinstance(value, Path) else value


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve_load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--winner", type=Path, required=True, help="folder that our service serves (ctranslate2)")
    add("--student", type=Path, help="the same model for transformers: peers (a) and (b)")
    add("--prompts", type=Path, help=".jsonl with prompt, or an E2E .csv (E2E_DIR's, or incidents)")
    add("--prompt-count", type=int, default=256, help="different prompts (256)")
    add("--tokens", type=int, default=64, help="longest answer (64)")
    add("--threads", type=int, default=1, help="of every engine (1)")
    add("--server-core", type=int, default=1, help="core of whatever is measured (1)")
    add("--generator-core", type=int, default=0, help="core of the load generator (0)")
    add("--without", nargs="+", default=[], help="contenders that are left out")
    _add_ours(parser)
    _add_load(parser)
    add("--bento", type=Path, help="a built Bento, for its size")
    add("--write", action="store_true", help="write benchmarks/serve_load.json")
    return parser.parse_args(arguments)


def _add_ours(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--baseline", type=Path, default=Path("models/baseline"), help="(models/baseline)")
    add("--ours", default="serving.service:Stillhouse", help="what `bentoml serve` is given")
    add("--ours-dialect", choices=("completions", "native"), default="completions")
    add("--ours-model", default="student", help="name that completions are asked by (student)")
    add(
        "--ours-env",
        nargs="+",
        default=[],
        help="further settings NAME=VALUE; {model} and {tokens} are filled in",
    )
    add("--ours-header", nargs="+", default=[], help='headers "Name: value" of our requests')
    add("--batching-flags", default="", help='of serve_batching, such as "--cb-num-blocks 512"')


def _add_load(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--clients", type=int, nargs="+", default=[1, 8, 32], help="closed loop (1 8 32)")
    add("--peak-clients", type=int, nargs="*", default=[64], help="of ours, for its peak (64)")
    add("--rounds", type=int, default=5, help="turns of each contender (5)")
    add("--ramp", type=float, default=2.0, help="seconds of a load that are not counted (2)")
    add("--seconds", type=float, default=10.0, help="counted seconds of a turn (10)")
    add("--share", type=float, default=0.7, help="of the peak, for latency (0.7)")
    add("--open-seconds", type=float, default=60.0, help="of the latency's load (60)")
    add("--overload", type=float, default=4.0, help="times the peak (4)")
    add("--overload-seconds", type=float, default=20.0, help="of one turn (20)")
    add("--deadline-s", type=float, default=10.0, help="in which every request has a reply (10)")
    add("--timeout-s", type=float, default=60.0, help="after which a client leaves (60)")
    add("--stream-clients", type=int, default=8, help="for the time to the first text (8)")
    add("--agreement", type=int, default=32, help="answers that are compared (32)")
    add("--starts", type=int, default=3, help="starts that are timed (3)")
    add("--start-limit-s", type=float, default=180.0, help="for a server to be ready (180)")
    add("--most", type=int, default=20_000, help="requests of one turn at most (20,000)")
    add("--seed", type=int, default=7, help="of arrivals (7)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write JSON where asked to."""
    options = read_options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # no server outlives this process
    os.sched_setaffinity(0, {options.generator_core})
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    try:
        with tempfile.TemporaryDirectory() as folder:
            results = shorten(run(options, Path(folder)), folder)
    except StillhouseError as error:
        sys.exit(f"error: serve_load: {error}")
    json.dump(results, sys.stdout, indent=2)
    print(f"\n{summarise(results)}")
    if options.write:
        _io.write_json(WRITTEN, results)


if __name__ == "__main__":
    main()
