"""A teacher behind an OpenAI-compatible server: a description is all its model folder holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.contract import Contract, write_contract
from serving.endpoint_settings import EndpointSettings, write_settings
from serving.predictor import load
from stages import _io
from stages._params import Params, params_hash


def describe_endpoint(params: Params, inputs: Mapping[str, Path], model: Path) -> dict[str, Any]:
    """Write the model folder and ask the server whether it knows the model.

    Raises:
        StillhouseError: settings that do not work, a missing key, or a server that does not answer.
    """
    settings = params.teacher.endpoint
    assert settings is not None, "params are validated"
    fields = settings.model_dump(mode="json", exclude={"template", "max_prompt_chars"})
    endpoint = EndpointSettings.from_dict(fields)
    contract = Contract(
        engine="endpoint",
        prompt_template=settings.template,
        slot_schema=_io.read_json(inputs["slots.json"]),
        limits={"max_prompt_chars": settings.max_prompt_chars},
        decoding=params.teacher.generation.model_dump(mode="json"),
        params_hash=params_hash(params, "teacher"),
        data_hash=_io.sha256_file(inputs["train.jsonl"]),
        base_model=settings.model,
        base_revision=settings.revision,
    )
    with _io.writing_folder(model) as folder:
        write_settings(folder, endpoint)
        write_contract(folder, contract)
    predictor: Any = load(model)
    return {"parameters": None, "training_tokens": 0, "seconds": 0.0, "server": predictor.check()}
