"""What the scheduler counts, and what follows from it: how long new work would have to wait.

Plain numbers; the metrics read them and nothing here knows of a metrics library.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple


@dataclass(frozen=True)
class BatchObservation:
    """One micro-batch; with no rows, items that were dropped while none could run."""

    rows: int
    """Items in it [count]."""
    real_tokens: int
    """Tokens of prompts and answers."""
    padded_tokens: int
    """The same with every prompt as long as the longest; a row leaves when its answer ends, so
    answers are not padded."""
    made_tokens: int
    """Tokens of the answers alone."""
    seconds: float
    queue_s: tuple[float, ...]
    """Per item, from arrival to the start of the batch."""
    cancelled: int
    """Items whose callers left before they were begun, since the last observation [count]."""
    expired: int
    """Items whose deadline passed before they were begun, since the last observation [count]."""
    wasted_tokens: int
    """Tokens made for callers who left."""
    left: int = 0
    """Items of this batch whose callers left while it ran [count]."""

    @property
    def padded_share(self) -> float:
        """Share of padding in the tokens computed."""
        return 1.0 - self.real_tokens / self.padded_tokens if self.padded_tokens else 0.0


@dataclass(frozen=True)
class StreamObservation:
    """One stream that came to its end, whoever ended it."""

    first_token_s: float | None
    """From arrival to the first token; None where there was none."""
    gaps_s: tuple[float, ...]
    """Between a token and the one before."""
    tokens: int
    prompt_tokens: int
    """0 where the prompt was refused."""
    queue_s: float
    """From arrival until it was begun."""
    compute_s: float
    """In its own steps; not what it waited for others between them."""
    wasted_tokens: int
    """Tokens made for a caller who left."""
    left: bool = False
    """Whether its caller left before the end."""


@dataclass
class Counts:
    """Sums since the start, and what is there at the moment."""

    waiting_items: int = 0
    waiting_tokens: int = 0
    """Prompts and room for the answers of what waits."""
    under_way: int = 0
    """Items accepted and not answered yet, streams included [count]."""
    live_streams: int = 0
    batches: int = 0
    rows: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0
    made_tokens: int = 0
    """Tokens of answers, streams included."""
    busy_s: float = 0.0
    """Time in micro-batches."""
    answered: int = 0
    refused: int = 0
    """Wrong requests and faults of ours [count]."""
    overloaded: int = 0
    cancelled: int = 0
    expired: int = 0
    drained: int = 0
    """Items refused or ended because the service goes down [count]."""
    wasted_tokens: int = 0


class Fit(NamedTuple):
    """seconds = per_batch_s + per_token_s * padded tokens."""

    per_batch_s: float
    per_token_s: float


class CostModel:
    """Seconds of a batch from its padded tokens, fitted on recent batches of every size.

    Serial traffic must not teach it wrong: batches of one size say nothing of how the cost is
    shared between batch and token, and a fit that halves it (the minimum-norm one does) predicts
    many times the true wait for a burst. So batches are kept by size, the last few of each power
    of two, and one size's traffic never drives another's out; and with one size alone the whole
    cost counts as the batch's, which can only tell too short a wait.
    """

    def __init__(self, kept: int = 8) -> None:
        """`kept`: batches remembered of each size."""
        self._kept = kept
        self._seen: dict[int, deque[tuple[int, float]]] = {}
        self.fit = Fit(0.0, 0.0)

    def add(self, padded_tokens: int, seconds: float) -> None:
        """Learn from one batch."""
        size = padded_tokens.bit_length()
        seen = self._seen.setdefault(size, deque(maxlen=self._kept))
        seen.append((padded_tokens, seconds))
        self.fit = fit_costs([_middle(batches) for batches in self._seen.values()])

    def seconds(self, batches: int, padded_tokens: int) -> float:
        """Time for so many batches with so many tokens in all."""
        return batches * self.fit.per_batch_s + padded_tokens * self.fit.per_token_s

    def tokens_per_s(self, padded_tokens: int) -> float:
        """Padded tokens a second in batches of this size; 0 as long as nothing is known."""
        seconds = self.seconds(1, padded_tokens)
        return padded_tokens / seconds if seconds > 0 else 0.0


def fit_costs(points: Sequence[tuple[float, float]]) -> Fit:
    """Least squares of (tokens, seconds) with relative errors and no negative cost."""
    if not points:
        return Fit(0.0, 0.0)
    # Relative errors: a hundredth of a long batch must not weigh as much as a short one.
    weights = [1.0 / max(seconds, 1e-9) ** 2 for _, seconds in points]
    whole = math.fsum(weights)
    x = math.fsum(w * tokens for w, (tokens, _) in zip(weights, points, strict=True)) / whole
    y = math.fsum(w * seconds for w, (_, seconds) in zip(weights, points, strict=True)) / whole
    pairs = [(w, tokens - x, s - y) for w, (tokens, s) in zip(weights, points, strict=True)]
    spread = math.fsum(w * dx * dx for w, dx, _ in pairs)
    if len(points) == 1 or spread <= 1e-9 * whole * x * x:
        return Fit(y, 0.0)  # one size alone: all of it may be the batch's
    per_token = max(0.0, math.fsum(w * dx * dy for w, dx, dy in pairs) / spread)
    if y - per_token * x >= 0:
        return Fit(y - per_token * x, per_token)
    squares = math.fsum(w * tokens**2 for w, (tokens, _) in zip(weights, points, strict=True))
    products = math.fsum(w * t * s for w, (t, s) in zip(weights, points, strict=True))
    return Fit(0.0, products / squares)


def _middle(batches: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Median tokens and seconds: one batch that the machine was slow at counts for nothing."""
    return median(tokens for tokens, _ in batches), median(seconds for _, seconds in batches)
