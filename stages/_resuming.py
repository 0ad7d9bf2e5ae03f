"""What a training run leaves behind after a step, and how the next one takes it up.

step-<n> holds all that a step changes: trained weights, the optimizers' state, the curve, sums
that are not on the curve yet. best-<n> holds the weights that validated best. Nothing else is
needed: the order of batches, the learning rate and dropout are functions of seed and step.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from stages import _checkpoint
from stages._checkpoint import Tensors
from stages._optimizers import allocate_state


def trained_weights(model: nn.Module) -> Tensors:
    """The weights that training changes, by name."""
    named = model.named_parameters()
    return {f"weight.{name}": weight.detach() for name, weight in named if weight.requires_grad}


def changing_tensors(model: nn.Module, optimizers: Sequence[Any]) -> Tensors:
    """All tensors that a step changes, by name; an optimizer without a step yet gets zeros."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    tensors = trained_weights(model)
    for optimizer in optimizers:
        for weight in (w for group in optimizer.param_groups for w in group["params"]):
            state = allocate_state(optimizer, weight)
            tensors |= {f"{key}.{names[id(weight)]}": value for key, value in state.items()}
    return tensors


def save_best(folder: Path, step: int, model: nn.Module) -> None:
    """Write best-<step>; the one before it goes with the next `save_step`."""
    _checkpoint.save(folder, f"best-{step}", trained_weights(model), {"step": step})


def take_best(folder: Path, step: int, model: nn.Module) -> None:
    """Load best-<step> into the model."""
    _checkpoint.load(folder / f"best-{step}", trained_weights(model))


def save_step(folder: Path, step: int, tensors: Tensors, facts: Mapping[str, Any]) -> None:
    """Write step-<step>; then only it and best-<facts["best_step"]> stay."""
    name = f"step-{step}"
    _checkpoint.save(folder, name, tensors, {**facts, "step": step})
    _checkpoint.keep_only(folder, [name, f"best-{facts['best_step']}"])


def load_step(folder: Path, tensors: Tensors) -> dict[str, Any] | None:
    """Load the newest step of a run with these inputs; returns its facts, None without one."""
    steps = [int(p.name[5:]) for p in folder.glob("step-*") if p.suffix != ".tmp"]
    if not steps:
        return None
    name = f"step-{max(steps)}"
    _checkpoint.load(folder / name, tensors)
    return _checkpoint.read_facts(folder, name)
