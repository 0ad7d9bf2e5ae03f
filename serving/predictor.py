"""One way to ask any model: `load(folder)` gives a predictor, whatever engine is inside.

Evaluation answers through this module and production serves through it, so what is measured is
what is shipped. Engines are imported when a folder names them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from serving.contract import Contract, read_contract
from serving.errors import StillhouseError


@dataclass(frozen=True)
class Request:
    """One prompt; `slots` is its record when the caller has parsed it already."""

    prompt: str
    slots: Mapping[str, str] | None = None
    context: str | None = None


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


class Predictor(Protocol):
    """What every engine offers."""

    contract: Contract

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer a batch; the result keeps the order of `requests`."""
        ...

    def stream(self, request: Request) -> Iterator[str]:
        """Yield the pieces of one answer as they come; joined they are `answer`'s text."""
        ...


def load(folder: Path) -> Predictor:
    """Check a model folder against its contract and load it with the engine it names.

    Raises:
        StillhouseError: the folder is not what its contract says, or the engine is unknown.
    """
    contract = read_contract(folder)
    match contract.engine:
        case "baseline":
            from serving.baseline import BaselinePredictor

            return BaselinePredictor(folder, contract)
        case unknown:
            raise StillhouseError(
                f"{folder} asks for engine {unknown!r}; this program has: baseline. "
                f"Update Stillhouse, or make the model again with this version."
            )
