"""One label: a teacher's answer to one prompt, and what the teacher thought at each of its tokens.

Kept per token are the k most likely tokens with their log-probabilities, the mass of all others
(the tail bucket, which keeps a truncated distribution a distribution) and the log-probability of
the token that was written. All are natural logarithms at temperature 1: any other temperature can
be had from them for the top k, the reverse cannot.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serving.errors import StillhouseError
from stages._labels.manifest import Manifest

Source = Literal["train", "pool", "gold"]
"""Teacher's answer to a training prompt, to a prompt of the pool, or a reference it only judged."""
Integers = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]

# e^-60 = 1e-26 counts as nothing; finite, so that nothing times its logarithm is 0 and not NaN.
LOG_FLOOR = -60.0
# Top k and tail must add up to one. Half precision loses 0.05 % per entry; a distribution that was
# scaled, or normalised over a padded vocabulary, is off by more than this.
MASS_TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class Distribution:
    """What the teacher thought at each of T answer tokens; given in any float, stored as fp16."""

    topk_ids: Integers
    """(T, k) token ids, any order."""
    topk_logprobs: Floats
    """(T, k) their log-probabilities."""
    tail_logmass: Floats
    """(T,) log of the probability of all tokens outside the top k."""
    token_logprobs: Floats
    """(T,) log-probability of the token that was written."""


@dataclass(frozen=True, eq=False)
class Label:
    """One answer to one prompt."""

    example_id: str
    text: str
    token_ids: Integers
    """(T,) ids of the teacher's tokenizer, its end-of-sequence token included; (0,) if unknown."""
    finish_reason: str
    """"stop" for an answer that came to its end, else what cut it ("length" ...)."""
    mean_logprob: float | None
    """Mean log-probability per token under the teacher, None if unknown."""
    rank: int
    """0 for the best answer to a prompt, 1 for the next ..."""
    source: Source
    distribution: Distribution | None = None
    """None in a store without distributions (top_k 0)."""
    counted: int = 0
    """Tokens by a server's own count, where the ids are unknown; not stored."""

    @property
    def tokens(self) -> int:
        """Length in the teacher's tokens, its end-of-sequence token included; 0 if unknown."""
        return len(self.token_ids) or self.counted


@dataclass(frozen=True)
class Rejected:
    """An answer that is not used, and why."""

    example_id: str
    text: str
    tokens: int
    finish_reason: str
    rank: int
    source: Source
    reason: str
    detail: str


def check_label(label: Label, manifest: Manifest) -> None:
    """Refuse a label that could not be stored as it is, or that is no distribution.

    Raises:
        StillhouseError: lengths that differ, ids outside the vocabulary, values that are not
            log-probabilities, or top k and tail that do not add up to one.
    """
    problem = _problem(label, manifest)
    if problem:
        raise StillhouseError(
            f"The label of {label.example_id!r}, rank {label.rank}, can't be stored: {problem}. "
            f'Check the teacher and its tokenizer, then run "dvc repro label" again.'
        )


def clamp(values: Floats) -> NDArray[np.float16]:
    """Log-probabilities as stored: fp16, from `LOG_FLOOR` to 0 (rounding may lift them past 0)."""
    return np.clip(values, LOG_FLOOR, 0.0).astype(np.float16)


def _problem(label: Label, manifest: Manifest) -> str | None:
    if label.mean_logprob is not None and not math.isfinite(label.mean_logprob):
        return f"the mean log-probability is {label.mean_logprob}"
    if label.token_ids.ndim != 1:
        return f"token ids of shape {label.token_ids.shape}, expected one dimension"
    if not _inside(label.token_ids, manifest.vocab_size):
        return f"token ids outside the vocabulary of {manifest.vocab_size}"
    if (label.distribution is None) != (manifest.top_k == 0):
        return f"top_k is {manifest.top_k}, but distributions are {_presence(label)}"
    if label.distribution is None:
        return None
    return _distribution_problem(label.distribution, len(label.token_ids), manifest)


def _presence(label: Label) -> str:
    return "missing" if label.distribution is None else "there"


def _distribution_problem(found: Distribution, tokens: int, manifest: Manifest) -> str | None:
    wide, long = (tokens, manifest.top_k), (tokens,)
    shapes = {name: array.shape for name, array in vars(found).items()}
    expected = dict(zip(shapes, (wide, wide, long, long), strict=True))
    if shapes != expected:
        return f"shapes {shapes}, expected {expected}"
    if not _inside(found.topk_ids, manifest.vocab_size):
        return f"top-k ids outside the vocabulary of {manifest.vocab_size}"
    for values in (found.topk_logprobs, found.tail_logmass, found.token_logprobs):
        # Written so that NaN fails; half precision rounds up to 0.001 past zero.
        if not np.all(values <= 1e-3):
            return "log-probabilities above 0 or not a number"
    mass = np.exp(found.topk_logprobs.astype(np.float32)).sum(axis=1)
    mass += np.exp(found.tail_logmass.astype(np.float32))
    off = np.flatnonzero(np.abs(mass - 1.0) > MASS_TOLERANCE)
    if len(off):
        return f"top k and tail add up to {mass[off[0]]:.3f} instead of 1 at token {off[0]}"
    return None


def _inside(ids: Integers, vocab_size: int) -> bool:
    return ids.size == 0 or bool(ids.min() >= 0 and ids.max() < vocab_size)
