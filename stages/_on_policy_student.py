"""The on-policy part of a student's training, after a start by logits: run, noted, validated.

Imports torch, transformers and trl; the distill stage imports it when it runs.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from serving._prompts import PromptEncoder
from serving.completion import Request
from serving.errors import StillhouseError
from stages import _io
from stages import _learning as learning
from stages._checkpoint import is_main
from stages._label_plan import POOL
from stages._on_policy import OnPolicy, distill_on_policy
from stages._optimizers import has_bf16
from stages._params import Params, Recipe
from stages._reload import reload
from stages._run import log_step
from stages._student import budget, read_tokenizer
from stages._training import Trained, Validate

BETA = {"forward_kl": 0.0, "reverse_kl": 1.0}  # jsd has the recipe's mix


def check_processes() -> None:
    """Refuse a launcher before the first step: TRL's trainer is driven by one process here.

    Raises:
        StillhouseError: there are several.
    """
    if (found := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise StillhouseError(
            f"method on_policy needs one process, found {found}. Run the recipe without a "
            f"launcher: python -m stages.distill <recipe>"
        )


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

    All weights learn, in float32, those of a merged adapter's base too; they end in the dtype they
    had. The model is validated after them like after any step, and the better one stays: where that
    is the one before, `best_step` says so.
    """
    prompts = on_policy_prompts(inputs["labels"], task.train, start.prompts)
    settings = make_settings(params, recipe, prompts, trained.model.device)
    predictor = reload(inputs["teacher"], params.run.device)
    training, dtype = params.distill.training, trained.model.dtype
    steps = budget(training, recipe).steps
    weights = {name: w.detach().cpu().clone() for name, w in trained.model.named_parameters()}

    def note(step: int, found: dict[str, float]) -> None:
        _note(trained, steps + step, {"on_policy_loss": found["loss"]}, label)
        trained.tokens += round(found["answer_tokens"] * settings.prompts_per_step)
        trained.seconds += found["step_s"]

    distill_on_policy(
        trained.model.float().requires_grad_(True),
        predictor.model,
        read_tokenizer(start.tokenizer),
        prompts,
        settings,
        scratch / "on_policy",
        teacher_tokenizer=read_tokenizer(inputs["teacher"]),
        device=trained.model.device,
        report=note,
        save_every_s=training.checkpoint_every_s,
    )
    trained.model.to(dtype).eval()
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


def make_settings(
    params: Params, recipe: Recipe, prompts: Sequence[Sequence[int]], device: torch.device
) -> OnPolicy:
    """The recipe in the on-policy part's terms.

    As many prompts a step as make half a batch; their answers are the other half.
    """
    tokens = params.distill.training.batch_tokens
    rows = max(1, tokens * len(prompts) // max(1, 2 * sum(map(len, prompts))))
    return OnPolicy(
        steps=recipe.on_policy_steps,
        prompts_per_step=rows,
        learning_rate=recipe.on_policy_learning_rate,
        beta=BETA.get(recipe.divergence, recipe.mix),
        max_new_tokens=params.distill.generation.max_new_tokens,
        loss_temperature=recipe.temperature,
        bf16=_wants_bf16(params.distill.training.precision, device),
        warmup_steps=recipe.on_policy_steps // 10,
        seed=params.seed + recipe.seed_offset,
    )


def _wants_bf16(precision: str, device: torch.device) -> bool:
    """As in training, but that auto is always float32 on a CPU."""
    if precision == "auto":
        return device.type == "cuda" and has_bf16(cpu=False)
    return precision == "bf16"


def _note(trained: Trained, step: int, row: dict[str, float], label: str) -> None:
    trained.curve.append({"step": step, **row})
    if is_main():
        log_step({label.replace(" ", "_"): row}, step)
