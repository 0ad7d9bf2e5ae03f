"""How many threads compute one model on a CPU.

A product of a small model is done before a second thread is awake. Measured on two cores
(docs/log.md), for weights of 1.5 to 80 MB: two threads that sleep while they wait take 1.0 to 13
times as long as one for a single request, and 1.0 to 4.7 times for a batch. The number follows from
the model and from what is allowed, so sums stay the same from run to run.
"""

import os

SHARED_FROM_BYTES = 64_000_000
"""Weights of a model, as they are kept, whose answers are computed by all threads allowed."""
TRAINED_SHARED_FROM_BYTES = 4_000_000
"""The same for training, where a product is of a batch's tokens and not of one token a row."""


def allowed_threads(unset: int) -> int:
    """OMP_NUM_THREADS, or `unset` where it is not set."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() else unset


def answering_threads(weight_bytes: int, allowed: int) -> int:
    """Threads of one batch of answers: `allowed` as it is (0: the library's choice), or one."""
    return allowed if weight_bytes >= SHARED_FROM_BYTES else 1


def training_threads(weight_bytes: int, allowed: int) -> int:
    """Threads of a training step: `allowed`, or one."""
    return allowed if weight_bytes >= TRAINED_SHARED_FROM_BYTES else 1
