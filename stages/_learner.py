"""Model and loss in one forward pass, for any causal model whose head is a matrix.

The body gives hidden states and the loss runs the head on chunks of them (stages/_losses.py), so
the logits of a batch never exist at once; what a model does to its logits beyond the matrix has to
be known here, and is checked before training.
"""

from typing import Any

import torch
from torch import Tensor, nn

from serving.errors import StillhouseError
from stages._losses import Head, Objective, distillation_loss
from stages._sequences import Batch

PLAIN = Objective(alpha=0.0)


class Learner(nn.Module):
    """Model and loss as one module, so that DDP and FSDP see both in one forward pass."""

    def __init__(self, model: Any, objective: Objective, vocabulary: int) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.vocabulary = vocabulary

    def forward(self, batch: Batch, processes: int) -> tuple[Tensor, Tensor]:
        """The batch's part of the step's loss, and [3]: CE sum, KD sum, tokens (detached)."""
        causal, hidden = hidden_states(self.model, batch.ids)
        loss = distillation_loss(
            hidden,
            head_of(causal),
            batch.labels,
            batch.teacher,
            self.objective if batch.teacher is not None else PLAIN,
            tokens=batch.tokens,
            true_vocab=self.vocabulary,
            chunk=max(512, 1_000_000 // self.vocabulary),
        )
        total = loss.total * processes  # gradients are averaged over them
        return total, torch.stack([loss.ce_sum, loss.kd_sum, loss.count.to(loss.ce_sum)])


def hidden_states(model: Any, ids: Tensor) -> tuple[Any, Tensor]:
    """The causal model inside an adapter, and its states before the head: [B, L] -> [B, L, D]."""
    causal = model.get_base_model() if hasattr(model, "peft_config") else model
    body = getattr(causal, causal.base_model_prefix)
    return causal, body(input_ids=ids, use_cache=False).last_hidden_state


def head_of(causal: Any) -> Head:
    """A causal model's head, with scale (Cohere, Granite) and soft cap (Gemma) of its logits."""
    layer, config = causal.get_output_embeddings(), causal.config
    scale = getattr(config, "logit_scale", None) or 1.0 / getattr(config, "logits_scaling", 1.0)
    return Head(layer.weight, layer.bias, scale, getattr(config, "final_logit_softcapping", None))


@torch.no_grad()
def check_head(model: Any) -> None:
    """Refuse a model whose logits are not what `head_of` makes of its hidden states."""
    ids = torch.zeros(1, 2, dtype=torch.int64, device=model.device)
    causal, hidden = hidden_states(model.eval(), ids)
    real = causal(input_ids=ids, use_cache=False).logits.float()
    ours = head_of(causal).logits(hidden, real.shape[-1])
    if not torch.allclose(ours, real, rtol=0.0, atol=0.02 * float(real.abs().max())):
        raise StillhouseError(
            f"{type(causal).__name__} does more to its logits than scale and soft cap, so its loss "
            f"would be wrong. Choose a model of another family."
        )
