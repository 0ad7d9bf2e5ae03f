"""Benchmark: how fast, large and expensive one candidate is, measured in a fresh process.

Reads   the candidate's model folder, data/prepared/calibration.jsonl
Writes  reports/benchmark/<candidate>.json
Run     python -m stages.benchmark <candidate>

A new process (stages/_benchmark_worker.py) loads the folder with the predictor that production
ships and answers calibration prompts, never those of the test split, as long as the model makes its
answers. `latency_ms` and `ttft_ms` (a stream's first piece; the whole answer, where `streams` is
false) are of one request at once; `throughput_tokens_per_s` of as many as its keys say;
`peak_memory_mb` is the process's largest resident set (VmHWM), Python and libraries included, and
`memory_mb` how it grew; `load_s` includes the import of the engine's libraries. 1,000 requests cost
hourly price / 3600 * 1000 / (requests per second at the best batch size): a machine always busy.

A product of fixed size is timed before and after, here and not in the worker, so that a machine
which was busy for a part of the time shows: then `machine.noisy` is true. One that was busy all the
time shows in the rate itself and in `machine.load_before` (runnable processes, one-minute mean).

A model behind an endpoint is measured only where `benchmark.paid_endpoint` allows it; else its
report says `not_measured`, and select goes on without its figures.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving._threads import allowed_threads
from serving.contract import Contract, digest, read_contract
from serving.errors import StillhouseError
from stages import _benchmark_figures as figures
from stages import _benchmark_worker as worker
from stages import _io
from stages._benchmark_machine import describe_processor, measure_machine
from stages._params import Params
from stages._stage import print_line, run_stage

PREPARED = Path("data/prepared")
REPORTS = Path("reports/benchmark")
ROOT = Path(__file__).parent.parent
TORCH_ENGINES = ("transformers", "speculative")


def benchmark(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Measure on every device that counts; returns the report, which is the first device's.

    Raises:
        StillhouseError: CUDA asked for where there is none, or a folder that nothing can load.
    """
    contract = read_contract(inputs["model"], check_files=False)  # the worker checks them
    if contract.engine == "endpoint" and not params.benchmark.paid_endpoint:
        return _leave_out(contract, inputs["model"], outputs["report"])
    examples = _io.read_jsonl(inputs["calibration"])
    requests = draw_requests(examples, params.benchmark.prompts, params.seed)
    by_device: dict[str, dict[str, Any]] = {}
    for device in choose_devices(contract.engine, params.run.device):
        found = _measure(params, inputs["model"], requests, device)
        if params.run.device == "cuda" and found["device"] != device:
            raise StillhouseError(
                "run.device is cuda, but torch finds no CUDA device here. "
                "Set run.device to auto, or run on a machine with one."
            )
        by_device.setdefault(found["device"], found)
    report = {
        **next(iter(by_device.values())),
        "engine": contract.engine,
        "scheme": (contract.quantization or {}).get("scheme"),
        "model_sha256": digest(inputs["model"]),
        "disk_mb": sum(f.stat().st_size for f in inputs["model"].rglob("*") if f.is_file()) / 1e6,
        "by_device": by_device,
    }
    _io.write_json(outputs["report"], report)
    return {name: value for name, value in report.items() if name != "by_device"}


def _leave_out(contract: Contract, model: Path, path: Path) -> dict[str, Any]:
    """The report of a candidate that every request to costs money: no device, no figures."""
    reason = "every request to an endpoint costs money; benchmark.paid_endpoint: true allows it"
    report = {"not_measured": reason, "engine": contract.engine, "model_sha256": digest(model)}
    _io.write_json(path, report)
    print_line(f"not measured: {reason}")
    return {}


def draw_requests(examples: Sequence[dict[str, Any]], count: int, seed: int) -> list[list[Any]]:
    """Prompt, slots and context of up to `count` examples, the same for every candidate."""
    drawn = random.Random(seed).sample(list(examples), min(count, len(examples)))  # noqa: S311
    if not drawn:
        raise StillhouseError(
            'the calibration split has no prompts to measure with. Run "dvc repro prepare".'
        )
    return [[e["prompt"], e.get("slots"), e.get("context")] for e in drawn]


def choose_devices(engine: str, wanted: str) -> list[str]:
    """Devices to measure on: the CPU always, unless CUDA alone is asked for."""
    if engine not in TORCH_ENGINES or wanted == "cpu":
        return ["cpu"]
    if wanted == "cuda":
        return ["cuda"]
    return ["cpu", "cuda"] if Path("/dev/nvidiactl").exists() else ["cpu"]


def _measure(params: Params, model: Path, requests: list[list[Any]], device: str) -> dict[str, Any]:
    """One worker's samples, summarised, between two looks at the machine."""
    settings = params.benchmark
    names = {"seconds", "batch_sizes", "attention", "caches", "kinds_batch"}
    job = {"model": str(model), "requests": requests, **settings.model_dump(include=names)}
    load, before = os.getloadavg()[0], measure_machine()
    found = figures.summarise(run_worker(job, device))
    price = getattr(settings.hourly_price_usd, found["device"])
    return {
        **found,
        **figures.summarise_cost(found["requests_per_s"], price),
        **describe_processor(),
        "threads": found.get("threads") or allowed_threads(unset=params.run.threads),
        "prompts": len(requests),
        "machine": {
            **figures.describe_machine(before, measure_machine(), settings.max_machine_change),
            "load_before": load,
        },
    }


def run_worker(job: dict[str, Any], device: str) -> dict[str, Any]:
    """What the fresh process found; `device` cpu hides every CUDA device from it.

    Raises:
        StillhouseError: the worker's own, or that it was killed.
    """
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **hidden, "PYTHONPATH": os.pathsep.join(places)}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("job.json", "result.json")]
        _io.write_json(files[0], job)
        command = [sys.executable, "-m", worker.__name__, *map(str, files)]
        done = subprocess.run(command, env=environment)  # noqa: S603 - our own module
        if done.returncode < 0:
            raise StillhouseError(
                f"the measuring process was killed (signal {-done.returncode}), as a machine does "
                f"that runs out of memory. Free some, or lower benchmark.batch_sizes."
            )
        done.check_returncode()
        found: dict[str, Any] = json.loads(files[1].read_text(encoding="utf-8"))
    if "error" in found:
        raise StillhouseError(found["error"])
    return found


def main() -> None:
    """Run the stage on the project's own files, for the candidate on the command line."""

    def inputs(candidate: str, params: Params) -> dict[str, Path]:
        calibration = PREPARED / "calibration.jsonl"
        return {"model": params.answer.folder(candidate), "calibration": calibration}

    def outputs(candidate: str) -> dict[str, Path]:
        return {"report": REPORTS / f"{candidate}.json"}

    run_stage(benchmark, __doc__, inputs, outputs)


if __name__ == "__main__":
    main()
