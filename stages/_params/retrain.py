"""Section `retrain`: what of a drifted window goes where, and when the teacher must learn too."""

from typing import Literal

from pydantic import Field

from stages._params.base import Section


class Retrain(Section):
    """What of a drifted window goes where, and when the teacher must learn too."""

    prompts: int = Field(2000, ge=0)
    """Most prompts of the window without gold that the teacher answers for the student [count]."""
    gold: Literal["auto", "held_out", "train"] = "auto"
    """Where rows with references go: held_out, to calibration and test, so that the teacher stays;
    train, to all four splits, so that it learns them; auto: train if the teacher is measured to be
    worse on the window than it was."""
    teacher_prompts: int = Field(200, ge=0)
    """Prompts of the window, those with gold first, that the teacher is measured on [count]; an
    endpoint is not asked, since it costs money."""
    teacher_slot_error_rate_rise: float = Field(0.02, ge=0.0)
    """Slot errors per slot above its calibration level that call for another teacher: the lower
    bound of the difference."""
    teacher_chrf_fall: float = Field(5.0, ge=0.0)
    """The same for data without records: chrF points below its calibration level, on gold."""
    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples over prompts [count]."""
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of the interval."""
