"""The fresh process that loads one candidate and times it; stages/benchmark.py starts it.

    python -m stages._benchmark_worker job.json result.json

Nothing heavy is imported before the first look at the memory, and the result holds raw samples:
what they say is worked out by the process that started this one. Every measurement has a warm-up
and then a time budget, so that a slow candidate takes about as long as a fast one.
"""

import json
import sys
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from serving.completion import Request
from serving.errors import StillhouseError
from serving.predictor import Predictor, load
from stages._provenance import peak_memory_mb

WARM_UP = 2  # single requests that are not counted
FEWEST = 3  # that are, however long they take; and rounds of batches, unless they are TOO_LONG
ENOUGH = 30  # single requests, unless TOO_LONG: a 95th percentile of fewer is their slowest
TOO_LONG = 10  # a batch that takes so many budgets is the largest that is timed


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Everything about one candidate: seconds, tokens and peaks of memory [MB].

    Args:
        job: `model` (folder), `requests`, `seconds`, `batch_sizes`, `attention`, `caches`,
            `kinds_batch`.
    """
    memory = {"bare": peak_memory_mb()}
    started = time.perf_counter()
    predictor = load(Path(job["model"]))
    result: dict[str, Any] = {"load_s": time.perf_counter() - started}
    memory["loaded"] = peak_memory_mb()
    requests = [Request(*row) for row in job["requests"]]
    result |= time_single(predictor, requests, job["seconds"])
    memory["batch_1"] = peak_memory_mb()
    result |= time_batches(predictor, requests, job["batch_sizes"], job["seconds"])
    memory["peak"] = peak_memory_mb()
    device = str(getattr(predictor, "device", "cpu")).partition(":")[0]
    result |= {"memory_mb": memory, "device": device, "gpu": describe_gpu(device)}
    result["threads"] = getattr(predictor, "threads", 0)  # 0: all that are allowed
    if predictor.contract.engine == "transformers" and (job["attention"] or job["caches"]):
        from stages._benchmark_kinds import time_kinds

        result |= time_kinds(predictor, requests[: job["kinds_batch"]], job)
    if stats := getattr(predictor, "statistics", None):
        result["speculation"] = stats()
    return result


def time_single(
    predictor: Predictor, requests: Sequence[Request], seconds: float
) -> dict[str, Any]:
    """Seconds to the whole answer and to a stream's first piece, in turns, one request at once."""
    pending = cycle(requests)
    whole: list[float] = []
    first: list[float] = []
    pieces: list[int] = []

    def ask() -> None:
        request = next(pending)
        started = time.perf_counter()
        predictor.answer([request])
        answered = time.perf_counter()
        whole.append(answered - started)
        if pieces == [1]:  # the answer comes whole: the same work once more
            first.append(whole[-1])
            return
        stream = predictor.stream(request)
        next(stream, None)
        first.append(time.perf_counter() - answered)
        if not pieces:
            pieces.append(1 + sum(1 for _ in stream))

    for _ in range(WARM_UP):
        ask()
    begun = time.perf_counter()

    def wanted() -> bool:
        count, passed = len(whole) - WARM_UP, time.perf_counter() - begun
        return count < FEWEST or passed < seconds * (TOO_LONG if count < ENOUGH else 1)

    while wanted():
        ask()
    return {
        "latency_s": whole[WARM_UP:],
        "first_piece_s": first[WARM_UP:],
        "streams": pieces[0] > 1,
    }


def time_batches(
    predictor: Predictor, requests: Sequence[Request], sizes: Sequence[int], seconds: float
) -> dict[str, Any]:
    """Seconds, requests and tokens of batches; the sizes take turns, so that all meet the noise.

    The first round warms up, within the budget. At least one more is timed, and `FEWEST` where
    they end within `TOO_LONG` budgets: the median of one round would be no median.
    """
    pending = cycle(requests)
    timed: dict[int, list[tuple[float, int, int]]] = {}
    begun = time.perf_counter()

    def ask(size: int) -> float:
        batch = list(islice(pending, size))
        started = time.perf_counter()
        answers = predictor.answer(batch)
        spent = time.perf_counter() - started
        tokens = sum(answer.completion_tokens for answer in answers)
        timed.setdefault(size, []).append((spent, size, tokens))
        return spent

    rising = iter(sorted(sizes))
    left_out = next((list(rising) for size in rising if ask(size) > TOO_LONG * seconds), [])
    kept = list(timed)
    timed.clear()
    rounds, passed = 0, 0.0
    while not rounds or passed < seconds * (TOO_LONG if rounds < FEWEST else 1):
        for size in kept:
            ask(size)
        rounds, passed = rounds + 1, time.perf_counter() - begun
    return {"batches": timed, "left_out_batch_sizes": left_out}


def describe_gpu(device: str) -> dict[str, Any] | None:
    """Name and most memory in use [MB] of the CUDA device; None on a CPU."""
    if device != "cuda":
        return None
    import torch

    return {
        "name": torch.cuda.get_device_name(),
        "peak_memory_mb": torch.cuda.max_memory_allocated() / 1e6,
        "reserved_memory_mb": torch.cuda.max_memory_reserved() / 1e6,
    }


def main(arguments: Sequence[str]) -> None:
    """Read the job, measure, write the result, or the mistake of a person that stood in the way."""
    job, result = (Path(argument) for argument in arguments)
    try:
        found = measure(json.loads(job.read_text(encoding="utf-8")))
    except StillhouseError as error:
        found = {"error": str(error)}
    result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
