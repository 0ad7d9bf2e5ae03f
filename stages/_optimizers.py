"""Optimizers, their schedule and the processes they run on: what the training loop is driven by."""

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from serving._threads import allowed_threads, training_threads
from serving._transformers_model import find_device, weight_bytes
from stages._muon import Muon
from stages._params import Training

LAST_SHARE = 0.02  # of the learning rate, at the end of the schedule
VALIDATION_TAKES = timedelta(hours=6)  # at most; meanwhile the other processes wait


def make_optimizers(
    model: Any, settings: Training, bf16: bool = False, each: Callable[..., Any] = map
) -> list[Any]:
    """AdamW (Loshchilov and Hutter 2019), or Muon for the hidden layers' matrices and AdamW else.

    Decay is on matrices of hidden layers only. With `bf16` Muon's products are in bfloat16; `each`
    calls its update of every shape.
    """
    ends = {id(layer.weight) for layer in _embeddings(model)}
    trained = [p for p in model.parameters() if p.requires_grad]
    hidden = [p for p in trained if p.dim() == 2 and id(p) not in ends]
    others = [p for p in trained if p.dim() != 2 or id(p) in ends]
    rate, decay = settings.learning_rates[0], settings.weight_decay
    if settings.optimizer == "muon" and hidden:
        dtype = torch.bfloat16 if bf16 else torch.float32
        found: list[Any] = [Muon(hidden, rate, weight_decay=decay, dtype=dtype, each=each)]
        if others:
            found.append(torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0))
        return found
    groups = [
        {"params": hidden, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=(0.9, 0.98))]


def _embeddings(model: Any) -> list[Any]:
    return [e for e in (model.get_input_embeddings(), model.get_output_embeddings()) if e]


def allocate_state(optimizer: Any, parameter: Tensor) -> dict[str, Tensor]:
    """The optimizer's state of one parameter, as zeros where there was no step yet."""
    state: dict[str, Tensor] = optimizer.state[parameter]
    if not state:
        if isinstance(optimizer, Muon):
            state["momentum_buffer"] = torch.zeros_like(parameter)
        else:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
    return state


def learning_rate(step: int, steps: int, peak: float, warmup_share: float) -> float:
    """Linear warm-up, then a cosine (Loshchilov and Hutter 2017); steps count from 1."""
    warmup = max(1, round(steps * warmup_share))
    if step <= warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (LAST_SHARE + (1.0 - LAST_SHARE) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def validation_steps(steps: int, validations: int) -> set[int]:
    """Steps after which a model is validated, the last one always; later ones are closer.

    Square-root spacing: early models are too weak to win.
    """
    count = max(1, validations)
    return {max(1, round(steps * math.sqrt(n / count))) for n in range(1, count + 1)}


def make_accelerator(device: str, precision: str) -> Any:
    """Accelerate on one process or, under a launcher, on several.

    Raises:
        StillhouseError: CUDA is asked for and not there.
    """
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    cpu = find_device(device).type == "cpu"
    if precision == "auto":
        precision = "bf16" if has_bf16(cpu) else "fp32"
    mixed = "bf16" if precision == "bf16" else "no"
    patient = InitProcessGroupKwargs(timeout=VALIDATION_TAKES)
    return Accelerator(cpu=cpu, mixed_precision=mixed, kwargs_handlers=[patient])


def limit_threads(model: Any, device: torch.device) -> None:
    """On a CPU, compute from here on with as many threads as the model's size asks for."""
    if device.type == "cpu":
        allowed = allowed_threads(unset=torch.get_num_threads())
        torch.set_num_threads(training_threads(weight_bytes(model), allowed))


def has_bf16(cpu: bool) -> bool:
    """Whether bfloat16 products are done in hardware; emulated they are slower than float32."""
    if not cpu:
        return bool(torch.cuda.is_bf16_supported())
    found: Any = torch.cpu
    return bool(found._is_avx512_bf16_supported() or found._is_amx_tile_supported())
