"""How likely a model finds human references: perplexity, and bits per character.

The perplexity of a token (Jelinek et al. 1977) depends on what a token is, so it carries the
tokenizer's hash, and two models with different tokenizers cannot be compared by it. Bits per
character can be: they spread the same log-probability over the letters of the text.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stages._scores import Rows, Statistics, ratio_statistics


def likelihood_statistics(
    logprobs: Sequence[float], tokens: Sequence[int], references: Sequence[str], tokenizer: str
) -> dict[str, Statistics]:
    """Statistics of `perplexity` and `bits_per_character`, lower is better.

    Args:
        logprobs: log-probability [nats] of each prompt's first reference, end token included.
        tokens: its tokens, end token included [count].
        references: the texts.
        tokenizer: SHA-256 of tokenizer.json.
    """
    rows = np.stack([np.asarray(logprobs, np.float64), np.asarray(tokens, np.float64)], axis=1)
    name = f"tokenizer:{tokenizer[:12]}|first reference|end token:counted"
    bits = [-logprob / math.log(2) for logprob in logprobs]
    characters = [float(max(len(text), 1)) for text in references]
    return {
        "perplexity": Statistics(rows, _perplexity, f"perplexity|{name}"),
        "bits_per_character": ratio_statistics(
            bits, characters, "bits_per_character|first reference|end token:counted"
        ),
    }


def _perplexity(sums: Rows) -> NDArray[np.float64]:
    return np.asarray(np.exp(-sums[..., 0] / np.maximum(sums[..., 1], 1.0)))
