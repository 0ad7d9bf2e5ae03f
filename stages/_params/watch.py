"""Section `watch`: when drift leads to retraining."""

from pydantic import Field, model_validator

from stages._params.base import Section


class Watch(Section):
    """When drift leads to retraining: alarms in time, and the brakes."""

    windows: int = Field(3, ge=1)
    """Last windows that are looked at [count]; those with too few rows are passed over."""
    alarms: int = Field(2, ge=1)
    """How many of them must be in drift, the newest among them [count]."""
    cool_down_hours: float = Field(24.0, ge=0.0)
    """Least time from the start of one retraining to the next [hours]; one that failed may be
    tried again at once."""
    retrainings_per_week: int = Field(2, ge=0)
    """Most retrainings that may start within seven days, failed ones included [count]."""
    min_prompts: int = Field(30, ge=0)
    """Fewest prompts of the window, with text, that the present models did not learn from
    [count]."""
    min_gold: int = Field(60, ge=0)
    """Fewest of its rows with references (gold.jsonl) [count]; what was learned is measured on a
    third of them or more. 0: retrain without, and select cannot say what the window gained."""

    @model_validator(mode="after")
    def _can_be_reached(self) -> "Watch":
        if self.alarms > self.windows:
            raise ValueError(f"{self.alarms} alarms of {self.windows} windows can never be")
        return self
