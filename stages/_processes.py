"""What the processes of one run agree on: the main one's findings, and when to stop.

Every function works alone too, and then asks nobody.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import distributed

T = TypeVar("T")


def share(value: T) -> T:
    """The main process's value, on every process; all of them call it."""
    if not distributed.is_initialized():
        return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]


def add_up(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place; all of them call it."""
    if distributed.is_initialized():
        distributed.all_reduce(values)
    return values


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether any process says so; all of them call it."""
    if not distributed.is_initialized():
        return flag
    said = torch.tensor([float(flag)], device=device)
    distributed.all_reduce(said, distributed.ReduceOp.MAX)
    return bool(said.item())


def meet(learner: Any, last: bool) -> AbstractContextManager[Any]:
    """Around backward of one part of a step: gradients of all processes meet in the `last` one."""
    if hasattr(learner, "set_requires_gradient_sync"):  # FSDP
        learner.set_requires_gradient_sync(last)
    alone = last or not hasattr(learner, "no_sync")  # DDP has it
    return nullcontext() if alone else learner.no_sync()


class Stop:
    """Whether this process was asked to end."""

    asked = False


@contextmanager
def stop_asked() -> Iterator[Stop]:
    """Take SIGTERM (a spot machine's notice) as a wish: who reads it saves, then leaves.

    Python takes signals in the main thread only; elsewhere nobody asks.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(_number: int, _frame: Any) -> None:
        stop.asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
