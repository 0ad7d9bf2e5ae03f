"""One way to ask any model: `load(folder)` gives a predictor, whatever engine is inside.

Evaluation answers through this module and production serves through it, so what is measured is
what is shipped. Engines are imported when a folder names them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
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


def load(
    folder: Path, decoding: Mapping[str, Any] | None = None, device: str | None = None
) -> Predictor:
    """Check a model folder against its contract and load it with the engine it names.

    Args:
        decoding: settings in place of the contract's, such as those of a labelling run.
        device: cpu or cuda, of an engine that can take either; None: CUDA where there is one.

    Raises:
        StillhouseError: the folder is not what its contract says, the engine is unknown, or it
            cannot run here.
    """
    contract = read_contract(folder)
    if decoding is not None:
        contract = replace(contract, decoding=dict(decoding))
    match contract.engine:
        case "baseline":
            from serving.baseline import BaselinePredictor

            return BaselinePredictor(folder, contract)
        case "transformers":
            check_torch(folder, contract)
            from serving.transformers_engine import TransformersPredictor

            return TransformersPredictor(folder, contract, device)
        case "ctranslate2":
            from serving.ctranslate2_engine import CTranslate2Predictor

            return CTranslate2Predictor(folder, contract, device)
        case "speculative":
            check_torch(folder, contract)
            from serving.speculative_engine import SpeculativePredictor

            return SpeculativePredictor(folder, contract, device)
        case "endpoint":
            from serving.endpoint_engine import EndpointPredictor

            return EndpointPredictor(folder, contract)
        case unknown:
            raise StillhouseError(
                f"{folder} asks for engine {unknown!r}; this program has: baseline, transformers, "
                f"ctranslate2, speculative, endpoint. Update Stillhouse, or make the model again "
                f"with this version."
            )


def check_torch(folder: Path, contract: Contract) -> None:
    """Refuse a model of torch where its libraries are not there.

    Raises:
        StillhouseError: what is missing; the model itself may well be whole.
    """
    needed = ["torch", "transformers"]
    if (contract.quantization or {}).get("scheme") in ("int8", "nf4", "fp4"):
        needed += ["accelerate", "bitsandbytes"]
    if absent := [name for name in needed if find_spec(name) is None]:
        raise StillhouseError(
            f"{folder} needs the engine {contract.engine}, and these are not installed here: "
            f'{", ".join(absent)}. Run "pip install {" ".join(absent)}", or choose a model of '
            f"another engine."
        )
