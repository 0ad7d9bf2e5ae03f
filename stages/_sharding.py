"""Weights in parts: each process holds its share of every matrix (FSDP2, Zhao et al. 2023).

`accelerate launch --use_fsdp --fsdp_version 2` asks for it, and torch's fully_shard does it, on
GPUs and on CPUs alike (Accelerate's own wrapping leaves CPUs out, silently). Of Accelerate's FSDP
options only the wish counts: every decoder layer is a group, gathered when its turn comes, in the
precision of its weights.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed, nn

from serving.errors import StillhouseError
from stages._checkpoint import is_main
from stages._params import Training


def wants_shards() -> bool:
    """Whether the launcher of this process asked for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and (
        distributed.is_initialized()
    )


def shard(learner: nn.Module, model: Any, device: torch.device, settings: Training) -> None:
    """Cut the weights of `learner` into one part per process, in place, on `device`.

    Raises:
        StillhouseError: an optimizer that needs whole matrices, or weights in four bits.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if settings.optimizer == "muon":
        raise StillhouseError(
            "optimizer: muon needs whole matrices, and FSDP cuts them. Set optimizer: adamw, or "
            "launch without --use_fsdp."
        )
    if not all(parameter.is_floating_point() for parameter in model.parameters()):
        raise StillhouseError(
            "tuning: qlora holds weights in 4 bits, which FSDP does not cut. Set tuning: lora, or "
            "launch without --use_fsdp."
        )
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    names = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    for module in [*layers, learner]:
        fully_shard(module, mesh=mesh)


def is_sharded(model: nn.Module) -> bool:
    """Whether the model's weights are in parts."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that may be in parts, whole on every process; all of them call it."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(model: Any, make: Callable[[], Any], device: torch.device) -> Any:
    """A whole copy on the main process, None on the others; all of them call it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    if not is_main():
        return None
    copy = make()
    copy.load_state_dict(state)
    return copy.to(device)
