"""What a teacher thinks at each token of an answer: top k, the tail's mass, the token's own part.

One forward pass over prompt and answer, no generation: the answer may be anybody's. Imports torch;
the label stage imports it when it runs.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from serving._decoding import cut_batches
from stages._divergences import top_k
from stages._labels import Distribution
from stages._losses import shift
from stages._sequences import TrainingSequence, collate
from stages._training import head_of

BATCH_TOKENS = 8192
CHUNK = 4096  # positions whose logits exist at once


def judge(
    model: Any,
    sequences: Sequence[TrainingSequence],
    k: int,
    vocabulary: int,
    each: Callable[..., Iterable[list[Distribution]]] = map,
) -> list[Distribution]:
    """The teacher's distributions over the answers, in the order of `sequences`.

    Args:
        k: log-probabilities kept per token, at most `vocabulary`.
        vocabulary: the tokenizer's true size; padding rows of the head count for nothing.
        each: calls a function with every batch; a predictor's does some of them at once.
    """
    lengths = [len(sequence) for sequence in sequences]
    batches = cut_batches(lengths, BATCH_TOKENS, 0)

    def work(batch: list[int]) -> list[Distribution]:
        return _judge_batch(model, [sequences[i] for i in batch], k, vocabulary)

    found: dict[int, Distribution] = {}
    for batch, parts in zip(batches, each(work, batches), strict=True):
        found |= dict(zip(batch, parts, strict=True))
    return [found[number] for number in range(len(sequences))]


@torch.inference_mode()
def _judge_batch(
    model: Any, sequences: Sequence[TrainingSequence], k: int, vocabulary: int
) -> list[Distribution]:
    batch = collate(sequences, 1).to(model.device)
    body = getattr(model, model.base_model_prefix)
    hidden = body(input_ids=batch.ids, use_cache=False).last_hidden_state
    rows, targets = shift(hidden, batch.labels)
    head = head_of(model)
    ids, kept, tails, own = [], [], [], []
    for start in range(0, len(rows), CHUNK):
        logits = head.logits(rows[start : start + CHUNK], vocabulary)
        stored = top_k(logits, min(k, vocabulary))
        chosen = logits.gather(1, targets[start : start + CHUNK, None])[:, 0]
        ids.append(stored.ids)
        kept.append(stored.log_probs)
        tails.append(stored.log_tail)
        own.append(chosen - logits.logsumexp(-1))
    arrays = [torch.cat(part).cpu().numpy() for part in (ids, kept, tails, own)]
    ends = np.cumsum([len(sequence.answer) for sequence in sequences])
    parts = zip(*(np.split(array, ends[:-1]) for array in arrays), strict=True)
    return [Distribution(*part) for part in parts]
