"""A training step on a CPU by copies of the model, each with a part of the rows and its own thread.

Data parallelism as DDP does it (Li et al. 2020, arXiv:2006.15704), within one process. A product of
a small model is done before a second thread is awake, so two threads within each product are hardly
faster than one; two copies that each compute half of the rows with one thread take about 0.7 of the
time (`python -m benchmarks.threads`). torch lets go of Python's lock in every operation.

The sum of gradients is taken in the order of the copies, so the same inputs, seed and thread count
give the same weights.
"""

import copy
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from serving._threads import allowed_threads, training_copies
from serving._transformers_model import weight_bytes
from stages._sharding import wants_shards

Work = Callable[[Any, list[list[int]]], Tensor]
"""Forward and backward of one copy's parts; returns what is to be added up."""


def make_replicas(learner: Any, device: torch.device, batch_tokens: int) -> "Replicas | None":
    """Copies of a learner that share the rows of a step; None where one alone is to train."""
    count = count_replicas(learner.model, device, batch_tokens)
    return Replicas(learner, count) if count > 1 else None


def count_replicas(model: Any, device: torch.device, batch_tokens: int) -> int:
    """How many copies train `model` at once: 1 where that does not help or is not the same.

    Not the same: dropout draws from a generator that all threads of a process share. Several
    processes (`accelerate launch`) share the rows already; quantized layers are not copied.
    """
    alone = os.environ.get("WORLD_SIZE", "1") == "1" and not wants_shards()
    quantized = getattr(getattr(model, "config", None), "quantization_config", None) is not None
    if device.type != "cpu" or not alone or quantized or _draws(model):
        return 1
    allowed = allowed_threads(unset=torch.get_num_threads())
    return training_copies(weight_bytes(model), allowed, batch_tokens)


def _draws(model: nn.Module) -> bool:
    """Whether a pass in training mode needs random numbers."""
    layers = (
        layer for layer in model.modules() if isinstance(layer, nn.modules.dropout._DropoutNd)
    )
    named = vars(getattr(model, "config", None) or object)
    rates = [value for name, value in named.items() if "drop" in name]
    return any(layer.p > 0 for layer in layers) or any(
        isinstance(rate, float) and rate > 0 for rate in rates
    )


class Replicas:
    """Copies of a learner that lives on a CPU."""

    def __init__(self, learner: nn.Module, count: int) -> None:
        """Copy `learner`; from here on each copy computes with its part of torch's threads."""
        self.learners = [learner, *(copy.deepcopy(learner) for _ in range(count - 1))]
        self.threads = max(1, torch.get_num_threads() // count)
        torch.set_num_threads(self.threads)
        self.pool = ThreadPoolExecutor(count, initializer=self._limit)
        self.parameters = [
            [p for p in each.parameters() if p.requires_grad] for each in self.learners
        ]

    def _limit(self) -> None:
        torch.set_num_threads(self.threads)

    def __len__(self) -> int:
        return len(self.learners)

    def run(self, work: Work, shares: Sequence[list[list[int]]]) -> Tensor:
        """`work` of every copy on its share at once; gradients and results are added up.

        Args:
            shares: of each copy its parts, and of each part its rows.
        """
        with torch.no_grad():
            for copied in self.parameters[1:]:
                for own, theirs in zip(self.parameters[0], copied, strict=True):
                    theirs.copy_(own)
        pairs = list(zip(self.learners, shares, strict=True))
        others = [self.pool.submit(work, *pair) for pair in pairs[1:]]
        total = work(*pairs[0])
        for parameters, other in zip(self.parameters[1:], others, strict=True):
            total = total + other.result()
            self._add(parameters)
        return total

    def _add(self, parameters: list[nn.Parameter]) -> None:
        """Move a copy's gradients to the learner's own."""
        for own, copied in zip(self.parameters[0], parameters, strict=True):
            if own.grad is None:
                own.grad = copied.grad
            elif copied.grad is not None:
                own.grad += copied.grad
            copied.grad = None

    def close(self) -> None:
        """End the threads."""
        self.pool.shutdown()
