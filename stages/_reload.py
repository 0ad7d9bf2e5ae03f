"""A decoder's folder read again: a teacher that works, or a student that was just written.

By the engine itself and not through serving/predictor.py, which knows all engines: an edit of
another engine must not make every trained model stale. Imports torch and transformers.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.contract import read_contract
from serving.errors import StillhouseError
from serving.transformers_engine import TransformersPredictor


def reload(
    folder: Path, device: str, decoding: Mapping[str, Any] | None = None
) -> TransformersPredictor:
    """The predictor of a folder that holds a decoder.

    Args:
        device: `run.device`: auto, cpu or cuda.
        decoding: settings in place of the contract's.

    Raises:
        StillhouseError: not what its contract says, another engine, or no such device.
    """
    contract = read_contract(folder)
    if contract.engine != "transformers":
        raise StillhouseError(
            f"{folder} was expected to hold a model for engine transformers, found engine "
            f"{contract.engine!r}. Run the stage that makes this model again."
        )
    if decoding is not None:
        contract = replace(contract, decoding=dict(decoding))
    return TransformersPredictor(folder, contract, device)
