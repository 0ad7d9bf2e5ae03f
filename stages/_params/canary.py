"""Section `canary`: when a challenger takes over from the champion, on live traffic."""

from typing import Annotated, Literal

from pydantic import Field

from stages._params.base import Section

Margin = Annotated[float, Field(gt=0.0, lt=1.0)]
Metric = Literal["errors", "refusals", "slow", "slot_errors"]


class Margins(Section):
    """Most that a challenger may be worse by, as a share of requests; null: not looked at."""

    errors: Margin | None = 0.02
    """Requests that failed: 5xx but 503."""
    refusals: Margin | None = 0.02
    """Requests that were refused: 4xx and 503."""
    slow: Margin | None = 0.1
    """Requests slower than the limit that the champion's own latency gives (`slow_share`)."""
    slot_errors: Margin | None = 0.05
    """Answers of the cascade in which the slot check found an error, of those it checked."""

    def chosen(self) -> dict[Metric, float]:
        """Those that are looked at."""
        named: dict[Metric, float | None] = {
            "errors": self.errors,
            "refusals": self.refusals,
            "slow": self.slow,
            "slot_errors": self.slot_errors,
        }
        return {name: margin for name, margin in named.items() if margin is not None}


class Canary(Section):
    """When a challenger takes over from the champion, on live traffic."""

    share: float = Field(0.2, gt=0.0, lt=1.0)
    """Chance that the splitter sends a request to the challenger; it must be what the splitter
    really does."""
    alpha: float = Field(0.05, gt=0.0, le=0.5)
    """Chance to roll back a challenger that is within all margins, over all looks and metrics; and
    the chance to promote one that is outside of one."""
    margins: Margins = Margins()
    """What is looked at, and how much worse the challenger may be."""
    slow_share: float = Field(0.25, gt=0.0, lt=1.0)
    """Share of the champion's requests that shall count as slow: the bucket nearest to it is the
    limit, chosen from the warm-up alone."""
    warm_up_requests: int = Field(100, ge=20)
    """Requests of the champion that limit and centres are chosen from; they count for no test."""
    min_requests: int = Field(200, ge=1)
    """Fewest requests of the challenger before it is promoted [count]."""
    minutes: float = Field(10.0, gt=0.0)
    """Longest time; what is undecided then is held [minutes]."""
    look_s: float = Field(5.0, gt=0.0)
    """Between two looks at the services' series [s]."""
