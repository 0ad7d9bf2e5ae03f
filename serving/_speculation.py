"""Draft and verify: a small model proposes tokens, a large one checks them all in one pass.

Speculative decoding (Leviathan et al. 2023, arXiv:2211.17192) in its greedy form: a proposal is
taken where it is the large model's own likeliest token, and after the first that is not, the large
model's token follows. So every token is the one that greedy decoding of the large model gives, but
for ties that sums in another order may flip; the small one only decides how many come per pass.

The library has the same as `generate(assistant_model=…)`. This loop is here because it gives tokens
as they come, their log-probabilities without another pass, and counts of what was accepted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

Scored = tuple[int, float]
"""A token and its log-probability [nats] by the model that verifies."""


@dataclass
class Counts:
    """What speculation came to."""

    steps: int = 0
    """Passes of the model that verifies."""
    drafted: int = 0
    """Tokens proposed to it."""
    accepted: int = 0
    """Of these, its own likeliest ones."""
    tokens: int = 0
    """Tokens of answers."""


class _Reader:
    """A model with the cache of one growing text."""

    def __init__(self, model: Any) -> None:
        self.model, self.cache, self.read = model, DynamicCache(config=model.config), 0

    def logits(self, ids: Sequence[int], keep: int) -> Tensor:
        """Read what is new of `ids`; float32 logits [keep, vocabulary] of the last positions."""
        new = torch.tensor([ids[self.read :]], device=self.model.device)
        output = self.model(new, past_key_values=self.cache, use_cache=True, logits_to_keep=keep)
        self.read = len(ids)
        found: Tensor = output.logits[0].float()
        return found

    def forget_after(self, length: int) -> None:
        """Keep at most the first `length` tokens."""
        self.cache.crop(min(0, length - self.read))
        self.read = min(length, self.read)


@torch.inference_mode()
def draft_and_verify(
    verifier: Any,
    drafter: Any,
    ends: frozenset[int],
    prompt: Sequence[int],
    limits: tuple[int, int],
    counts: Counts,
) -> Iterator[list[Scored]]:
    """Greedy tokens of `verifier` after `prompt`, as many at once as it accepted, and one more.

    Args:
        limits: longest answer and longest draft [tokens].
        counts: grows with every pass.
    """
    longest, proposed = limits
    large, small = _Reader(verifier), _Reader(drafter)
    ids, end = list(prompt), len(prompt) + longest
    rows = min(model.config.vocab_size for model in (verifier, drafter))
    while len(ids) < end:
        draft = _draft(small, ids, min(proposed, end - len(ids) - 1), ends, rows)
        logits = large.logits(ids + draft, len(draft) + 1)
        best = logits.argmax(-1)
        scores = logits.gather(1, best[:, None])[:, 0] - logits.logsumexp(-1)
        chosen = best.tolist()
        accepted = next((n for n, t in enumerate(draft) if t != chosen[n]), len(draft))
        new = list(zip(chosen[: accepted + 1], scores.tolist(), strict=False))
        stop = next((n + 1 for n, (token, _) in enumerate(new) if token in ends), None)
        new = new[:stop]
        counts.steps += 1
        counts.drafted += len(draft)
        counts.accepted += accepted
        counts.tokens += len(new)
        yield new
        if stop:
            return
        ids += [token for token, _ in new]
        for reader in (large, small):
            reader.forget_after(len(ids) - 1)


def _draft(
    small: _Reader, ids: Sequence[int], count: int, ends: frozenset[int], rows: int
) -> list[int]:
    """Up to `count` likeliest tokens, one after the other; none follows an end token.

    They are of the first `rows` alone: one vocabulary may be padded further than the other.
    """
    draft: list[int] = []
    while len(draft) < count and not (draft and draft[-1] in ends):
        draft.append(int(small.logits([*ids, *draft], 1)[-1, :rows].argmax()))
    return draft
