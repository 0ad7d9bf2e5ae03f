"""Muon: momentum whose matrix updates are orthogonalised, beside AdamW for everything else.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale of an
update follows Liu et al. 2025 (arXiv:2502.16982): its root mean square is that of an AdamW step,
so one learning rate serves both. A small decoder learns to copy unseen values in about half the
steps that AdamW takes (docs/log.md).

torch.optim.Muon iterates in bfloat16, which CPUs without such instructions do five times slower
than float32, and one matrix at a time. Here matrices of one shape are iterated together, in the
dtype that products have elsewhere in training.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# Quintic whose slope at zero is large: five rounds bring singular values to about 0.7 to 1.2.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
RMS_OF_ADAMW = 0.2  # root mean square of an AdamW update, as measured by Liu et al.


class Muon(Optimizer):
    """For matrices of hidden layers; embeddings, norms and biases belong to AdamW."""

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
        each: Callable[..., Iterable[None]] = map,
    ) -> None:
        """Iterates in `dtype`; ValueError where a parameter is no matrix.

        `each` calls the update of every shape; a pool's `map` does several at once.
        """
        self.dtype, self.each = dtype, each
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        shapes = [tuple(p.shape) for group in self.param_groups for p in group["params"]]
        if wrong := [shape for shape in shapes if len(shape) != 2]:
            raise ValueError(f"Muon is for matrices, found shapes {wrong[:3]}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        assert closure is None, "Muon takes no closure"
        for group in self.param_groups:
            by_shape: dict[tuple[torch.Size, torch.device], list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault((matrix.shape, matrix.device), []).append(matrix)
            update = partial(self._update, group=group)
            for _ in self.each(update, by_shape.values()):
                pass

    @torch.no_grad()
    def _update(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        momentum = group["momentum"]
        directions = []
        for matrix in matrices:
            assert matrix.grad is not None, "only those with a gradient come here"
            state = self.state[matrix]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(matrix)
            buffer = state["momentum_buffer"].lerp_(matrix.grad, 1.0 - momentum)
            directions.append(matrix.grad.lerp(buffer, momentum))  # Nesterov
        updates = orthogonalise(torch.stack(directions).to(self.dtype))
        rate = group["lr"] * RMS_OF_ADAMW * max(matrices[0].shape) ** 0.5
        for matrix, update in zip(matrices, updates, strict=True):
            matrix.mul_(1.0 - group["lr"] * group["weight_decay"])
            matrix.add_(update.to(matrix.dtype), alpha=-rate)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Each of [n, rows, columns] with its singular values near one (Newton-Schulz iteration)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value above one
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
