"""How faithful a student is to its teacher, and how honest its probabilities are.

Fidelity is measured on the teacher's answers to validation prompts, against its stored
distributions: how often the likeliest token is the same, and the divergence by position. Stanton et
al. 2021 ("Does Knowledge Distillation Really Work?", arXiv:2106.05945) show why accuracy alone does
not tell. Calibration is measured on references, token by token (Guo et al. 2017,
arXiv:1706.04599). Imports torch; stages import it when they run.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from serving._decoding import cut_batches
from stages._losses import answer_positions, fidelity, shift, token_fidelity
from stages._sequences import Batch, TrainingSequence, collate
from stages._training import head_of

BATCH_TOKENS = 8192
BINS = 15  # of equal width, as in Guo et al.


@torch.inference_mode()
def measure_fidelity(
    model: Any, sequences: Sequence[TrainingSequence], vocabulary: int
) -> dict[str, Any]:
    """Top-1 agreement (share) and KL(teacher || student) [nats per token], also by position."""
    agrees, nats, positions = [], [], []
    for batch, log_probs, _ in _log_probs(model, sequences, vocabulary):
        assert batch.teacher is not None, "labels have distributions"
        same, divergence = token_fidelity(log_probs, batch.teacher)
        agrees.append(same)
        nats.append(divergence)
        positions.append(answer_positions(batch.labels))
    same, divergence, places = (torch.cat(part) for part in (agrees, nats, positions))
    return {
        "top1_agreement": float(same.double().mean()),
        "mean_kl": float(divergence.double().mean()),
        "tokens": len(same),
        "by_position": fidelity(same, divergence, places),
    }


@torch.inference_mode()
def measure_calibration(
    model: Any, sequences: Sequence[TrainingSequence], vocabulary: int
) -> dict[str, Any]:
    """Expected calibration error of the likeliest token (share) and loss [nats per token]."""
    confidences, hits, total = [], [], 0.0
    for _, log_probs, targets in _log_probs(model, sequences, vocabulary):
        best, token = log_probs.max(-1)
        confidences.append(best.exp())
        hits.append(token == targets)
        total -= float(log_probs.gather(1, targets[:, None]).sum())
    confidence, hit = torch.cat(confidences).double(), torch.cat(hits).double()
    return {
        "ece": calibration_error(confidence, hit),
        "nats_per_token": total / len(hit),
        "tokens": len(hit),
    }


def calibration_error(confidence: Tensor, hit: Tensor) -> float:
    """Mean distance of confidence and hit rate over bins, weighted by their tokens; both [N]."""
    bins = (confidence * BINS).long().clamp(max=BINS - 1)
    error = 0.0
    for number in sorted(set(bins.tolist())):
        inside = bins == number
        gap = (confidence[inside].mean() - hit[inside].mean()).abs()
        error += float(gap * inside.double().mean())
    return error


def _log_probs(
    model: Any, sequences: Sequence[TrainingSequence], vocabulary: int
) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """Batches with the student's log-probabilities [N, vocabulary] and the labels [N]."""
    body, head = getattr(model, model.base_model_prefix), head_of(model)
    for indices in cut_batches([len(s) for s in sequences], BATCH_TOKENS, 0):
        batch = collate([sequences[i] for i in indices], 1).to(model.device)
        hidden = body(input_ids=batch.ids, use_cache=False).last_hidden_state
        rows, targets = shift(hidden, batch.labels)
        yield batch, torch.log_softmax(head.logits(rows, vocabulary), dim=-1), targets
