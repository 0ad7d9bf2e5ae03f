"""Predictors of a server on loopback, and the contract that they have."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from endpoint_server import SETTINGS

from serving.contract import Contract, read_contract, write_contract
from serving.endpoint_engine import EndpointPredictor
from serving.endpoint_settings import write_settings

CONTRACT = Contract(
    engine="endpoint",
    prompt_template="Say: {prompt}",
    slot_schema=None,
    limits={"max_prompt_chars": 200},
    decoding={"max_new_tokens": 24},
    params_hash="0" * 64,
    data_hash="0" * 64,
)
SAMPLE = {"max_new_tokens": 24, "method": "sample", "temperature": 0.7, "top_p": 0.9, "seed": 3}


@contextmanager
def predictors(place: Path) -> Iterator[Callable[..., Any]]:
    """Gives a function that makes a predictor of a server from a folder below `place`.

    The predictor notes its pauses in `pauses` and takes none.
    """
    made: list[EndpointPredictor] = []

    def make(server: Any, contract: Contract = CONTRACT, **changes: Any) -> Any:
        folder = place / f"model{len(made)}"
        folder.mkdir()
        write_settings(folder, replace(SETTINGS, base_url=server.url, **changes))
        write_contract(folder, contract)
        pauses: list[float] = []
        predictor: Any = EndpointPredictor(
            folder, read_contract(folder), wait=lambda stop, seconds: pauses.append(seconds)
        )
        predictor.pauses = pauses
        made.append(predictor)
        return predictor

    yield make
    for predictor in made:
        predictor.close()
