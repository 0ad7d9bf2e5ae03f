"""One way to ask any model: `load(folder)` gives a predictor, whatever engine is inside.

Evaluation answers through this module and production serves through it, so what is measured is
what is shipped. Engines are imported when a folder names them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from serving.completion import Completion, Request
from serving.contract import Contract, read_contract
from serving.errors import StillhouseError


class Predictor(Protocol):
    """What every engine offers."""

    contract: Contract

    def answer(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer a batch; the result keeps the order of `requests`."""
        ...

    def stream(self, request: Request) -> Iterator[str]:
        """Yield the pieces of one answer as they come; joined they are `answer`'s text."""
        ...


def load(folder: Path, decoding: Mapping[str, Any] | None = None) -> Predictor:
    """Check a model folder against its contract and load it with the engine it names.

    Args:
        decoding: settings in place of the contract's, such as those of a labelling run.

    Raises:
        StillhouseError: the folder is not what its contract says, or the engine is unknown.
    """
    contract = read_contract(folder)
    if decoding is not None:
        contract = replace(contract, decoding=dict(decoding))
    match contract.engine:
        case "baseline":
            from serving.baseline import BaselinePredictor

            return BaselinePredictor(folder, contract)
        case "transformers":
            from serving.transformers_engine import TransformersPredictor

            return TransformersPredictor(folder, contract)
        case "endpoint":
            from serving.endpoint_engine import EndpointPredictor

            return EndpointPredictor(folder, contract)
        case unknown:
            raise StillhouseError(
                f"{folder} asks for engine {unknown!r}; this program has: baseline, transformers, "
                f"endpoint. Update Stillhouse, or make the model again with this version."
            )
