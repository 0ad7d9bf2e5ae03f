"""What goes into a model and what comes out, whatever the engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Request:
    """One prompt; `slots` is its record when the caller has parsed it already."""

    prompt: str
    slots: Mapping[str, str] | None = None
    context: str | None = None
    gone: Callable[[], bool] | None = field(default=None, compare=False, repr=False)
    """Asked after every token: whether nobody waits for the answer any more, so that it ends there
    (beams end with their batch)."""
    seed: int | None = field(default=None, compare=False)
    """Of a sample; None: the decoding settings' own. Requests of different seeds go together."""

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer."""
        return self.gone is not None and self.gone()


@dataclass(frozen=True)
class Completion:
    """One answer."""

    text: str
    prompt_tokens: int
    """Length of the prompt in the engine's own tokens (words for the baseline)."""
    completion_tokens: int
    """Length of the answer in the engine's own tokens (words for the baseline)."""
    finish_reason: Literal["stop", "length"]
    confidence: float | None
    """Probability that the answer is good, where the engine has a calibrated one."""
    mean_logprob: float | None = None
    """Mean token log-probability [nats], where the engine generates tokens."""
    min_logprob: float | None = None
    """Smallest token log-probability [nats]."""
