"""The machine that measures: its processor, and how fast it multiplies right now."""

import re
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

SIDE, PRODUCTS = 768, 9  # of the fixed product: 0.9 GFLOP each
FLAGS = re.compile(r"avx\w*|amx\w*|fma|f16c|asimd\w*|sve\w*|bf16|i8mm")


def measure_machine() -> float:
    """Rate of a product of fixed size [GFLOP/s], the median of a few."""
    matrix = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)
    seconds = []
    for _ in range(PRODUCTS):
        started = time.perf_counter()
        _ = matrix @ matrix
        seconds.append(time.perf_counter() - started)
    return 2 * SIDE**3 / median(seconds) / 1e9


def describe_processor() -> dict[str, Any]:
    """Name of the processor, and what it can compute with."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    pairs = [line.partition(":") for line in lines]
    known = {name.strip(): value.strip() for name, _, value in pairs}
    flags = known.get("flags", known.get("Features", "")).split()
    return {
        "processor": known.get("model name"),
        "cpu_flags": sorted(flag for flag in flags if FLAGS.fullmatch(flag)),
    }
