"""How near a variant's distributions are to those of the student that it was made from.

Both read the student's own answers, and every next token is compared. The student's side keeps its
likeliest tokens and the rest, as labels do (stages/_divergences.py), so that a large vocabulary
fits too. Imports torch; the stage imports it when it runs.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from serving._decoding import cut_batches
from stages._divergences import TopK, top_k
from stages._losses import shift, token_fidelity
from stages._sequences import TrainingSequence, collate

BATCH_TOKENS = 4096
KEPT = 64  # likeliest tokens; the rest is one bucket


def read_student(model: Any, sequences: Sequence[TrainingSequence], vocabulary: int) -> list[TopK]:
    """The student's distributions over the answers, a batch each."""
    count = min(KEPT, vocabulary - 1)
    return [top_k(logits, count) for logits in _logits(model, sequences, vocabulary)]


def agreement(
    variant: Any, student: Sequence[TopK], sequences: Sequence[TrainingSequence], vocabulary: int
) -> dict[str, Any]:
    """Top-1 agreement (share) and KL(student || variant) [nats per token]."""
    found = []
    for logits, stored in zip(_logits(variant, sequences, vocabulary), student, strict=True):
        found.append(token_fidelity(logits.log_softmax(-1), stored))
    same, nats = (torch.cat([pair[side] for pair in found]).double() for side in (0, 1))
    return {
        "top1_agreement": float(same.mean()),
        "mean_kl_nats": float(nats.mean()),
        "tokens": len(same),
    }


@torch.no_grad()
def _logits(model: Any, sequences: Sequence[TrainingSequence], vocabulary: int) -> Iterator[Tensor]:
    """Logits [N, vocabulary] of each batch's answer tokens, in fp32."""
    for indices in cut_batches([len(s) for s in sequences], BATCH_TOKENS, 0):
        batch = collate([sequences[i] for i in indices], 1).to(model.device)
        rows, _ = shift(model(input_ids=batch.ids, use_cache=False).logits, batch.labels)
        yield rows[:, :vocabulary].float()
