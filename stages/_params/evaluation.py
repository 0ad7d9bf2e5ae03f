"""Sections `answer`, `evaluate` and `ladder`: how candidates are compared."""

from typing import Literal

from pydantic import Field

from stages._params.base import Section


class Answer(Section):
    """How every candidate answers the calibration and test prompts."""

    candidates: tuple[str, ...] = Field(
        ("baseline", "teacher", "student", "control"), min_length=1, strict=False
    )
    """Models that answer and are evaluated: folders of models/."""

    batch_size: int = Field(256, ge=1)
    """Prompts handed to the predictor at once [count]."""


class Evaluate(Section):
    """Scores of every candidate on the test split."""

    metrics: tuple[
        Literal["bleu", "chrf", "slot_error_rate", "exact_match"],
        ...,
    ] = Field(("bleu", "chrf", "slot_error_rate", "exact_match"), strict=False)
    """Metrics to compute; slot_error_rate is left out where the data has no slot schema."""
    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples over prompts [count]."""
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of every interval."""
    reference: str = "baseline"
    """Candidate that all others are compared with, on the same prompts."""


class Ladder(Section):
    """Did distilling win?"""

    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples over seeds and prompts [count]."""
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of every interval."""
