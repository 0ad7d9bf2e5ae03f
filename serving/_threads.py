"""How many threads compute one model on a CPU.

A product of a small model is done before a second thread is awake, and threads that wait awake take
the time of whatever else runs there. Measured on two cores (docs/log.md): one thread answers single
requests 1.0 to 13 times as fast as two, batches 0.9 to 4 times, for models of 1.5 to 80 MB. The
number follows from the model and from nothing else, so sums stay the same from run to run.
"""

SHARED_FROM_BYTES = 64_000_000
"""Weights of a model whose answers are computed by as many threads as are allowed."""
TRAINED_SHARED_FROM_BYTES = 4_000_000
"""The same for training, where a product is of a batch's tokens and not of one token a row."""


def answering_threads(weight_bytes: int, allowed: int) -> int:
    """Threads of one batch of answers; `allowed` as it is (0: the library's choice), or one."""
    return allowed if weight_bytes >= SHARED_FROM_BYTES else 1


def training_threads(weight_bytes: int, allowed: int) -> int:
    """Threads of a training step; `allowed`, or one."""
    return allowed if weight_bytes >= TRAINED_SHARED_FROM_BYTES else 1
