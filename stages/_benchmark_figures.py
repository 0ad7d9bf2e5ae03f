"""What raw measurements say: percentiles, rates, spread, cost, and whether the machine held."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple


class Batch(NamedTuple):
    """One timed batch."""

    seconds: float
    requests: int
    tokens: int
    """Of the answers, in the engine's own tokens (words for the baseline)."""


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of `values` do not exceed, between neighbours on a straight line.

    Type 7 of Hyndman and Fan 1996 (The American Statistician 50:4), numpy's default.
    """
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def summarise_latency(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 [ms]."""
    return {f"p{n}": 1e3 * percentile(seconds, n / 100) for n in (50, 95, 99)}


def spread(values: Sequence[float]) -> float:
    """Distance of the quartiles over the median: 0 where nothing moved."""
    middle = percentile(values, 0.5)
    return (percentile(values, 0.75) - percentile(values, 0.25)) / middle if middle else 0.0


def summarise_throughput(batches: Mapping[int, Sequence[Batch]]) -> dict[str, Any]:
    """By batch size: median tokens/s and requests/s, their spread, and batches timed [count]."""
    tokens = {size: [b.tokens / b.seconds for b in timed] for size, timed in batches.items()}
    requests = {size: [b.requests / b.seconds for b in timed] for size, timed in batches.items()}
    return {
        "throughput_tokens_per_s": {str(size): median(v) for size, v in tokens.items()},
        "throughput_spread": {str(size): spread(v) for size, v in tokens.items()},
        "requests_per_s": {str(size): median(v) for size, v in requests.items()},
        "throughput_batches": {str(size): len(timed) for size, timed in batches.items()},
    }


def cost_per_1k_requests(requests_per_s: float, hourly_price_usd: float) -> float:
    """USD of 1,000 requests on a machine that is busy all the time.

    price per hour / 3600 = price per second; 1,000 requests take 1,000 / (requests/s) seconds.
    """
    return hourly_price_usd / 3600.0 * 1000.0 / requests_per_s


def summarise_cost(requests_per_s: Mapping[str, float], hourly_price_usd: float) -> dict[str, Any]:
    """Cost at the batch size that answers the most requests per second, and which one it is."""
    size = max(requests_per_s, key=lambda name: requests_per_s[name])
    return {
        "cost_per_1k_requests_usd": cost_per_1k_requests(requests_per_s[size], hourly_price_usd),
        "hourly_price_usd": hourly_price_usd,
        "cost_batch_size": int(size),
    }


def describe_machine(before: float, after: float, allowed: float) -> dict[str, Any]:
    """Rates of the same product before and after a run [GFLOP/s]; noisy: they differ by more."""
    change = after / before - 1.0
    return {
        "matmul_gflops": {"before": before, "after": after},
        "change": change,
        "noisy": abs(change) > allowed,
    }


def summarise_kind(samples: Mapping[str, Any]) -> dict[str, Any]:
    """Median prefill and decode step [ms] of one kind of attention or cache, or why it has none."""
    rest = {name: v for name, v in samples.items() if name not in ("prefill_s", "decode_s")}
    if "unavailable" in rest:
        return rest
    decode = samples["decode_s"]
    return {
        "prefill_ms": 1e3 * median(samples["prefill_s"]),
        "decode_ms_per_step": 1e3 * median(decode) if decode else None,
        "samples": len(samples["prefill_s"]),
        **rest,
    }


def summarise(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's result without its raw samples."""
    batches = {int(size): [Batch(*row) for row in rows] for size, rows in raw["batches"].items()}
    all_batches = [batch for timed in batches.values() for batch in timed]
    memory = raw["memory_mb"]
    kinds = {
        group: {kind: summarise_kind(samples) for kind, samples in raw[group].items()}
        for group in ("attention", "caches")
        if group in raw
    }
    return {
        "device": raw["device"],
        "latency_ms": summarise_latency(raw["latency_s"]),
        "latency_samples": len(raw["latency_s"]),
        "latency_spread": spread(raw["latency_s"]),
        "ttft_ms": 1e3 * median(raw["first_piece_s"]),
        "streams": raw["streams"],
        **summarise_throughput(batches),
        "left_out_batch_sizes": raw["left_out_batch_sizes"],
        "tokens_per_answer": sum(b.tokens for b in all_batches)
        / sum(b.requests for b in all_batches),
        "load_s": raw["load_s"],
        "peak_memory_mb": memory["peak"],
        "memory_mb": {**memory, "above_bare": memory["peak"] - memory["bare"]},
        "gpu": raw["gpu"],
        **kinds,
        **{name: raw[name] for name in ("speculation", "threads") if name in raw},
    }
