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


COPY_TOKENS = 1024
"""Padded tokens of a training step that are worth a copy of the model and its thread."""
AT_ONCE = 4
"""Batches that a small model answers side by side, at most: each has keys and values of its own."""


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


def training_copies(weight_bytes: int, allowed: int, batch_tokens: int) -> int:
    """Copies of a model that each compute a part of a step's rows with a thread of their own."""
    small = TRAINED_SHARED_FROM_BYTES <= weight_bytes < SHARED_FROM_BYTES
    return max(1, min(allowed, batch_tokens // COPY_TOKENS)) if small else 1


def batches_at_once(weight_bytes: int, allowed: int) -> int:
    """Batches that are answered side by side, by a thread each.

    Below a few megabytes Python's own work between two products is most of a step, which threads
    of one process do in turns; a model whose products are shared has no thread left.
    """
    shared = TRAINED_SHARED_FROM_BYTES <= weight_bytes < SHARED_FROM_BYTES
    return max(1, min(AT_ONCE, allowed)) if shared else 1
