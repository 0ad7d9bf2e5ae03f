"""A teacher behind an OpenAI-compatible server: its model folder holds a description, no weights.

With a choice of prompts (stages/_prompting.py) the folder also says which won, and holds the
training examples that its prompts show. What the choice was paid for stays in scratch: neither a
kill nor another run of the stage asks for it again.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from serving._shots import Shots, build_shots, prompt_digest, save_shots
from serving.completion import Completion, Request
from serving.contract import Contract, read_contract, write_contract
from serving.endpoint_engine import EndpointPredictor
from serving.endpoint_settings import EndpointSettings, identity, write_settings
from serving.slots import SlotSchema
from stages import _io
from stages._labels import PaidAnswers
from stages._params import Params, params_hash
from stages._prompting import Choice, Example, choose_prompt

PAID = Path("scratch/teacher/prompts")


def describe_endpoint(params: Params, inputs: Mapping[str, Path], model: Path) -> dict[str, Any]:
    """Choose the prompt, if params ask for it, write the model folder, and ask for the model.

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
    choice, shots = None, None
    if params.teacher.prompting is not None:
        choice, shots = _choose(params, inputs, endpoint, contract)
        contract = replace(contract, prompt_template=choice.template, shots=choice.shots)
    with _io.writing_folder(model) as folder:
        write_settings(folder, endpoint)
        if contract.shots and shots is not None:
            save_shots(folder, shots)
        write_contract(folder, contract)
    with closing(EndpointPredictor(model, read_contract(model))) as predictor:
        server = predictor.check()
    prompting = choice.to_dict() if choice else None
    facts = {"parameters": None, "training_tokens": 0, "seconds": 0.0}
    return {**facts, "server": server, "prompting": prompting}


def _choose(
    params: Params, inputs: Mapping[str, Path], endpoint: EndpointSettings, contract: Contract
) -> tuple[Choice, Shots]:
    """The best prompt on validation, and the examples that it may show."""
    settings = params.teacher.prompting
    assert settings is not None, "the caller looked"
    schema = SlotSchema.from_dict(contract.slot_schema) if contract.slot_schema else None
    shots = build_shots(_io.read_jsonl(inputs["train.jsonl"]), schema, 0)
    with TemporaryDirectory() as place:
        folder = Path(place)
        write_settings(folder, endpoint)
        save_shots(folder, shots)

        def ask(
            template: str, count: int, asked: Sequence[Example]
        ) -> tuple[list[Completion], float]:
            return _ask(folder, replace(contract, prompt_template=template, shots=count), asked)

        choice = choose_prompt(
            ask,
            settings,
            lambda template: contract.prompt_template.replace("{prompt}", template),
            _io.read_jsonl(inputs["validation.jsonl"]),
            schema,
            params.seed,
        )
    return choice, shots


def _ask(
    folder: Path, contract: Contract, asked: Sequence[Example]
) -> tuple[list[Completion], float]:
    """Answers by this contract, those that were never paid for from the server; their whole cost.

    Raises:
        StillhouseError: a request failed for good; what was answered until then is kept.
    """
    with closing(EndpointPredictor(folder, contract)) as predictor:
        paid = PaidAnswers(PAID, _asked_by(predictor.settings, contract))
        waiting = [example for example in asked if paid.get(example) is None]

        def keep(number: int, answers: list[Completion]) -> None:
            paid.add(waiting[number], answers, lambda: predictor.usage)

        try:
            count = predictor.decoding.answers
            for _ in predictor.answer_many_each(_requests(waiting), count, keep):
                pass
        finally:
            paid.close_bill(lambda: predictor.usage)
        pairs = zip(_requests(asked), map(paid.get, asked), strict=True)
        return [predictor.best(r, answers or []) for r, answers in pairs], paid.bill.cost_usd


def _asked_by(endpoint: EndpointSettings, contract: Contract) -> str:
    """Hash of all that decides an answer but the prompt; of the training data if it is shown."""
    shown = [contract.data_hash, contract.slot_schema] if contract.shots else None
    prompt = prompt_digest(contract.prompt_template, contract.shots)
    parts = [identity(endpoint), prompt, contract.decoding, contract.limits, shown]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _requests(examples: Sequence[Example]) -> list[Request]:
    return [Request(e["prompt"], e.get("slots"), e.get("context")) for e in examples]
