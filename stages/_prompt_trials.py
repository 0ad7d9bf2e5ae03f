"""The variants of a prompt, tried on a model that is not trained: as it is, in memory.

Imports torch and transformers; the teacher stage imports it when it runs.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from serving._prompts import PromptEncoder
from serving._shots import build_shots
from serving._transformers_model import find_device
from serving.completion import Completion, Request
from serving.slots import SlotSchema
from serving.transformers_engine import TransformersPredictor
from stages import _learning as learning
from stages import _pretrained
from stages._on_policy_models import end_tokens
from stages._params import Params, params_hash
from stages._prompting import Example, choose_prompt


def choose_for_model(
    params: Params, task: learning.Task, start: learning.Start
) -> tuple[learning.Start, dict[str, Any]]:
    """The start with the prompt that is best on validation, and the report of the choice.

    Raises:
        StillhouseError: a template that spells a special token or has a place twice.
    """
    settings, pretrained = params.teacher.prompting, params.teacher.pretrained
    assert settings is not None, "the caller looked"
    assert pretrained is not None, "params are validated"
    schema = SlotSchema.from_dict(task.slot_schema) if task.slot_schema else None
    base = _pretrained.resolve(pretrained, params.run.offline)
    shots = build_shots(task.train, schema, 0)
    model = start.make().to(find_device(params.run.device)).eval()
    contract = learning.make_contract(
        start, task, params.teacher.generation, params_hash(params, "teacher")
    )

    def ask(template: str, count: int, asked: Sequence[Example]) -> tuple[list[Completion], float]:
        predictor = TransformersPredictor.around(
            model,
            frozenset(end_tokens(model)),
            PromptEncoder(start.tokenizer, template),
            replace(contract, prompt_template=template, shots=count),
            replace(shots, count=count) if count else None,
        )
        requests = [Request(e["prompt"], e.get("slots"), e.get("context")) for e in asked]
        return predictor.answer(requests), 0.0

    choice = choose_prompt(
        ask,
        settings,
        lambda template: _pretrained.surround(base, template),
        task.validation,
        schema,
        params.seed,
    )
    shown = replace(shots, count=choice.shots) if choice.shots else None
    return replace(start, template=choice.template, shots=shown), choice.to_dict()
