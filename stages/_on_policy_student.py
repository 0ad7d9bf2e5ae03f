"""The on-policy part of a student's training, after a start by logits: run, noted, validated.

Imports torch, transformers and trl; the distill stage imports it when it runs.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from serving._prompts import PromptEncoder
from serving.completion import Request
from serving.predictor import load
from stages import _io
from stages import _learning as learning
from stages._checkpoint import is_main
from stages._label_plan import POOL
from stages._on_policy import OnPolicy, distill_on_policy
from stages._params import Params, Recipe
from stages._run import log_step
from stages._student import budget, read_tokenizer
from stages._training import Trained, Validate


def go_on_policy(
    trained: Trained,
    params: Params,
    recipe: Recipe,
    start: learning.Start,
    task: learning.Task,
    inputs: Mapping[str, Path],
    *,
    validate: Validate,
    scratch: Path,
    label: str,
) -> None:
    """The rest of the steps on the student's own texts, judged by the teacher in memory.

    The model is validated after them like after any step, and the better one stays: where that is
    the one before, `best_step` says so.
    """
    prompts = on_policy_prompts(inputs["labels"], task.train, start.prompts)
    settings = _settings(params, recipe, prompts)
    predictor: Any = load(inputs["teacher"])
    steps = budget(params.distill.training, recipe).steps
    weights = {name: w.detach().cpu().clone() for name, w in trained.model.named_parameters()}

    def note(step: int, found: dict[str, float]) -> None:
        _note(trained, steps + step, {"on_policy_loss": found["loss"]}, label)
        trained.tokens += round(found["answer_tokens"] * settings.prompts_per_step)
        trained.seconds += found["step_s"]

    distill_on_policy(
        trained.model,
        predictor.model,
        read_tokenizer(start.tokenizer),
        prompts,
        settings,
        scratch / "on_policy",
        teacher_tokenizer=read_tokenizer(inputs["teacher"]),
        device=trained.model.device,
        report=note,
    )
    trained.model.eval()
    choose_better(trained, weights, steps + settings.steps, validate, label)


def choose_better(
    trained: Trained,
    before: Mapping[str, torch.Tensor],
    step: int,
    validate: Validate,
    label: str,
) -> None:
    """Validate the model after its last `step`; put back the weights `before` if they did better.

    The curve holds validations already, the best of which is that of `before`.
    """
    best = max(row["selection"] for row in trained.curve if "selection" in row)
    found = validate(trained.model)
    _note(trained, step, found, label)
    if found["selection"] >= best:
        trained.best_step = step
        return
    with torch.no_grad():
        for name, weight in trained.model.named_parameters():
            weight.copy_(before[name])
    sys.stderr.write(
        f"{label}: on-policy training lowered the validation score from {best:.2f} to "
        f"{found['selection']:.2f}; the weights of step {trained.best_step} stay\n"
    )


def on_policy_prompts(
    folder: Path, train: Sequence[Any], prompts: PromptEncoder
) -> list[list[int]]:
    """Prompts for the student's own texts: those of training and of the pool."""
    pool = _io.read_jsonl(folder / POOL)
    asked = (Request(e["prompt"], e.get("slots"), e.get("context")) for e in [*train, *pool])
    return [prompts.encode(request) for request in asked]


def _settings(params: Params, recipe: Recipe, prompts: Sequence[Sequence[int]]) -> OnPolicy:
    """As many prompts a step as make half a batch; their answers are the other half."""
    tokens = params.distill.training.batch_tokens
    rows = max(1, tokens * len(prompts) // max(1, 2 * sum(map(len, prompts))))
    return OnPolicy(
        steps=recipe.on_policy_steps,
        prompts_per_step=rows,
        learning_rate=recipe.on_policy_learning_rate,
        beta=recipe.mix,
        max_new_tokens=params.distill.generation.max_new_tokens,
        warmup_steps=recipe.on_policy_steps // 10,
        seed=params.seed + recipe.seed_offset,
    )


def _note(trained: Trained, step: int, row: dict[str, float], label: str) -> None:
    trained.curve.append({"step": step, **row})
    if is_main():
        log_step({label.replace(" ", "_"): row}, step)
