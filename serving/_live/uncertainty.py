"""How likely an answer is not to be trusted, 0 to 1, from what is at hand; its parts are told.

The model's own part is, the first that is known:

- `confidence`: 1 - confidence. The confidence is a calibrated probability (Platt), so this is one;
- `tokens`: 1 - exp(mean_logprob), one minus the geometric mean of the tokens' probabilities. It
  grows as the answer grows less likely and is no probability of an error.

What was found besides: `slots` = wrong, missing and added slots per asked slot, `grounding` =
unsupported claims per claim, both at most 1; `baseline` = 1 - chrF between the answer and the
baseline's, known only where a shadow was asked, and after the answer has gone out. The score joins
them as if each could be wrong by itself: 1 - (1 - p1)(1 - p2)..., with `baseline` at a quarter
of its weight, since two right answers differ in words. So the score is at least the largest of
its other parts, and a calibrated probability only where `confidence` is its one part above 0;
`basis` says which of the two the model's part is. The least likely token is told beside
(`weakest_token` = 1 - exp(min_logprob)) and not joined: it grows with the length of an answer.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from serving._live.checks import Checked

Basis = Literal["confidence", "tokens", "none"]
BASELINE_WEIGHT = 0.25
WEIGHTS = {
    "confidence": 1.0,
    "tokens": 1.0,
    "slots": 1.0,
    "grounding": 1.0,
    "baseline": BASELINE_WEIGHT,
}
"""Parts of the score and their weights; other parts are told only."""
DIGITS = 4


@dataclass(frozen=True)
class Uncertainty:
    """The score and what it was made of."""

    score: float
    basis: Basis
    parts: dict[str, float] = field(default_factory=dict)

    def as_field(self) -> dict[str, Any]:
        """The response's field: {"score": ..., "basis": ..., "parts": {...}}."""
        parts = {name: round(value, DIGITS) for name, value in self.parts.items()}
        return {"score": round(self.score, DIGITS), "basis": self.basis, "parts": parts}


class Scored(Protocol):
    """What a model says of its answer."""

    @property
    def confidence(self) -> float | None:
        """A calibrated probability that it is good."""

    @property
    def mean_logprob(self) -> float | None:
        """Of its tokens [nats]."""

    @property
    def min_logprob(self) -> float | None:
        """Of its least likely token [nats]."""


def uncertainty_of(
    choice: Scored, checked: Checked, baseline_similarity: float | None = None
) -> Uncertainty | None:
    """The uncertainty of one text; None where nothing is known of it.

    `baseline_similarity`: chrF with the baseline's answer, 0 to 1 (serving/_text_similarity.py).
    """
    basis, parts = _of_model(choice)
    if checked.slots != "not_run":
        parts["slots"] = min(checked.count("slots") / max(checked.slots_asked, 1), 1.0)
    if checked.grounding != "not_run":
        parts["grounding"] = min(checked.count("grounding") / max(checked.claims, 1), 1.0)
    if baseline_similarity is not None:
        parts["baseline"] = 1.0 - baseline_similarity
    weighed = [WEIGHTS.get(name, 0.0) * part for name, part in parts.items()]
    if not parts:
        return None
    return Uncertainty(1.0 - math.prod(1.0 - part for part in weighed), basis, parts)


def _of_model(choice: Scored) -> tuple[Basis, dict[str, float]]:
    """What the model says of itself."""
    basis: Basis = "none"
    parts: dict[str, float] = {}
    if choice.confidence is not None:
        basis, parts["confidence"] = "confidence", _within(1.0 - choice.confidence)
    elif choice.mean_logprob is not None:
        basis, parts["tokens"] = "tokens", _within(-math.expm1(choice.mean_logprob))
    if choice.min_logprob is not None:
        parts["weakest_token"] = _within(-math.expm1(choice.min_logprob))
    return basis, parts


def _within(share: float) -> float:
    """0 to 1; what is no number is taken for the worst, which a broken model gives."""
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else 1.0
