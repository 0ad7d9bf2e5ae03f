"""Section `baseline`: the traditional model."""

from typing import Literal

from pydantic import Field

from stages._params.base import Section


class Baseline(Section):
    """The traditional model: TF-IDF retrieval and a calibrated confidence."""

    candidates: int = Field(10, ge=1)
    """Training answers that compete for one prompt, from the nearest prompts on [count]."""
    max_features: int = Field(50_000, ge=10)
    """Largest TF-IDF vocabulary [count]."""
    index: Literal["float32", "float16", "int8"] = "float32"
    """How the index's weights are stored (benchmarks/baseline.py compares them)."""
    classifier: Literal["auto", "logistic_regression", "random_forest"] = "auto"
    """Model of the confidence; auto takes the better Brier score on validation."""
    good_chrf: float = Field(60.0, ge=0.0, le=100.0)
    """An answer counts as good for the confidence model when it has no slot error and at least
    this chrF against its references [chrF points]."""
    confidence_rows: int = Field(1000, ge=50)
    """Training prompts answered without themselves to train the confidence model [count]."""
    max_prompt_chars: int = Field(20_000, ge=1)
    """Longest prompt that the served baseline accepts [characters]."""
    jobs: int = Field(2, ge=1)
    """Processes that answer chunks of a large batch [count]."""
