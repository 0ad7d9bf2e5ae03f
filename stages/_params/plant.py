"""Section `plant`: the window that the default graph compares, in which something is new."""

from typing import Literal

from pydantic import Field

from stages._params.base import Section, Share


class Plant(Section):
    """A planted window: prompts of which a share is changed, answered by the winner."""

    rows: int = Field(400, ge=1)
    """Rows of the window [count]; data other than incidents gives at most its test prompts."""
    scenario: list[Literal["services", "units", "long_records", "style"]] = Field(
        ["services", "units"], min_length=1
    )
    """What changes, of incidents: each in turn. Other data gets made-up values or words."""
    share: Share = 0.3
    """Share of the rows that are changed."""
    gold_share: Share = 0.3
    """Share of the rows that get references, as people would add them."""
