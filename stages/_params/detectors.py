"""Section `detectors`: quality detectors on planted errors."""

from typing import Literal

from pydantic import Field

from stages._params.base import Section, Share


class Detectors(Section):
    """Quality detectors on planted errors."""

    clean: str | None = None
    """JSON file with the ids of texts that were read and found right (configs/clean_references);
    null: one reference of every test prompt, drawn by the seed."""
    max_texts: int = Field(400, ge=20, le=5000)
    """Most clean texts, drawn by the seed where there are more [count]; memory grows with its
    square."""
    kinds: tuple[
        Literal[
            "drop_slot",
            "swap_value",
            "flip_negation",
            "deny_fact",
            "change_digit",
            "add_foreign_name",
        ],
        ...,
    ] = Field(
        (
            "drop_slot",
            "swap_value",
            "flip_negation",
            "deny_fact",
            "change_digit",
            "add_foreign_name",
        ),
        min_length=1,
        strict=False,
    )
    """Errors to plant (stages/_planted_errors)."""
    similarity: bool = False
    """Whether semantic similarity is measured too (evaluate.similarity says by which model); every
    planted text must be encoded, which takes longer than all else here."""
    false_alarm_rate: Share = 0.05
    """Share of clean calibration texts on which a detector without a threshold of its own may
    sound; its threshold follows from it."""
    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples over prompts [count]."""
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of every interval."""
