"""Section `label`: what the teacher writes."""

from pydantic import Field, model_validator

from stages._params.base import Section, Share
from stages._params.models import Generation


class Label(Section):
    """What the teacher writes for the student to learn from."""

    train_prompts: int | None = Field(None, ge=1)
    """Training prompts that are labelled, the first ones [count]; null: all."""
    pool_prompts: int = Field(2000, ge=0)
    """Prompts without references that are labelled too [count]: recombined training records, or
    the first ones of `pool_file`."""
    pool_file: str | None = None
    """JSON lines with a prompt each, in place of recombined records."""
    pool_value_noise: Share = 0.0
    """Share of the slot values of recombined records that are made up."""
    window_prompts: int = Field(1000, ge=0)
    """Records that are recombined from those of frozen windows, beside the windows' own prompts and
    the pool [count]; nothing where prepare.windows names none."""
    answers: int = Field(1, ge=1)
    """Answers kept per training prompt, the best ones that pass the filters [count]."""
    pool_answers: int = Field(1, ge=1)
    """The same per prompt of the pool."""
    gold: bool = False
    """Whether references get the teacher's distribution too (word-level distillation)."""
    generation: Generation = Generation()
    """How the answers are made; `answers` in it is the number that compete, 1 under greedy."""
    top_k: int = Field(16, ge=0)
    """Log-probabilities stored per token [count]; 0 for texts alone."""
    max_slot_errors: int | None = Field(0, ge=0)
    """Slot errors that an answer may have; null: not checked."""
    max_answer_tokens: int | None = Field(None, ge=1)
    """Longest answer to learn from [tokens]; null: any."""
    max_usd: float | None = Field(None, ge=0.0)
    """Most that an endpoint's labels may cost, earlier runs included [USD]: nothing is asked if
    more is expected, nor anything that could pass it; null: no limit."""
    shard_prompts: int = Field(500, ge=1)
    """Prompts per shard: what a kill loses at most [count]."""

    @model_validator(mode="after")
    def _several_answers_are_drawn(self) -> "Label":
        if self.generation.method == "greedy" and self.generation.answers > 1:
            raise ValueError(
                f"generation.answers {self.generation.answers} does not go with method greedy, "
                f"which has one answer to filter; expected method beam or sample, or answers 1"
            )
        return self
