"""Where a student starts and what it learns from, by recipe.

Imports torch and transformers; the distill stage imports it when it runs.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving._prompts import PromptEncoder
from serving.completion import Request
from serving.contract import read_contract
from serving.errors import StillhouseError
from stages import _io
from stages import _learning as learning
from stages._decoder import build_decoder
from stages._label_plan import POOL, LabelPlan, plan_labels, plan_validation
from stages._labels import iterate_labels, read_labels
from stages._params import Params, Recipe, Training
from stages._sequences import TrainingSequence, check_lengths, encode_examples
from stages._training import Trained
from stages._validation import Validator
from stages._value_noise import invent_values

MEASURED = 256  # training sequences that say which parts of a teacher matter


def start_of_student(
    params: Params, recipe: Recipe, task: learning.Task, inputs: Mapping[str, Path]
) -> learning.Start:
    """The student before training: random, cut out of the teacher, or pretrained."""
    seed = params.seed + recipe.seed_offset
    if recipe.init == "pretrained":
        assert params.distill.pretrained is not None, "params are validated"
        return learning.start_from_pretrained(
            params.distill.pretrained, params, params.distill.training
        )
    teacher = inputs["teacher"]
    contract = read_contract(teacher)
    if contract.engine != "transformers":
        raise StillhouseError(
            f"init {recipe.init} needs a teacher with weights and a tokenizer, found engine "
            f"{contract.engine!r}. Choose init: pretrained."
        )
    prompts = PromptEncoder(teacher, contract.prompt_template)
    shape, attention = params.distill.shape, params.distill.training.attention
    tokenizer = _tokenizer(teacher)

    def make() -> Any:
        if recipe.init == "scratch":
            return build_decoder(shape, tokenizer, seed, attention)
        return _cut(params, task, teacher, prompts, tokenizer.eos_token_id)

    return learning.Start(
        make=make,
        tokenizer=teacher,
        template=contract.prompt_template,
        end=tokenizer.eos_token_id,
        positions=params.distill.shape.positions,
    )


def _tokenizer(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)


def _cut(
    params: Params, task: learning.Task, teacher: Path, prompts: PromptEncoder, end: int
) -> Any:
    """The teacher's most important parts, as many as the student's shape holds."""
    import torch

    from serving.predictor import load
    from stages._prune import Shape, measure_importance, prune
    from stages._sequences import collate

    predictor: Any = load(teacher)
    sequences = encode_examples(task.train[:MEASURED], prompts, end, params.distill.shape.positions)
    batches = []
    for start in range(0, len(sequences), 32):
        part = sequences[start : start + 32]
        ids = collate(part, 1).ids
        lengths = torch.tensor([[len(sequence)] for sequence in part])
        mask = (torch.arange(ids.shape[1])[None] < lengths).long()
        batches.append({"input_ids": ids, "attention_mask": mask})
    shape = params.distill.shape
    asked = Shape(shape.layers, shape.width, shape.heads, shape.kv_heads, shape.feed_forward)
    importance = measure_importance(predictor.model, batches)
    return prune(predictor.model, asked, importance).float()


def training_sequences(
    params: Params,
    recipe: Recipe,
    start: learning.Start,
    task: learning.Task,
    inputs: Mapping[str, Path],
) -> list[TrainingSequence]:
    """References for sft; the teacher's labels, as the recipe names them, for all others.

    Raises:
        StillhouseError: labels that something else made, or none of the sources asked for.
    """
    if recipe.method == "sft":
        noise = params.distill.training.value_noise
        examples = invent_values(task.train, noise, params.seed + recipe.seed_offset)
        return encode_examples(examples, start.prompts, start.end, start.positions)
    plan = plan_labels(params, inputs)
    found = label_sequences(inputs["labels"], plan, start, recipe)
    if not found:
        raise StillhouseError(
            f"{inputs['labels']} has no labels of {', '.join(recipe.sources)}. Name other sources "
            f'in the recipe, or label more (section label) and run "dvc repro label".'
        )
    return found


def validation_sequences(
    params: Params, recipe: Recipe, start: learning.Start, inputs: Mapping[str, Path]
) -> list[TrainingSequence]:
    """The teacher's answers to validation prompts with their distributions; may be none."""
    plan = plan_validation(params, inputs)
    if plan.manifest.top_k == 0 or not _same_tokenizer(plan, start):
        return []
    everything = recipe.model_copy(update={"method": "logits", "sources": ("train",)})
    return label_sequences(inputs["labels"] / "validation", plan, start, everything)


def label_sequences(
    folder: Path, plan: LabelPlan, start: learning.Start, recipe: Recipe
) -> list[TrainingSequence]:
    """A store's labels as sequences, with distributions where the recipe learns from them."""
    with_logits = recipe.method in ("logits", "on_policy")
    same = _same_tokenizer(plan, start)
    if with_logits and (plan.manifest.top_k == 0 or not same):
        found = "there are none" if plan.manifest.top_k == 0 else "their tokenizers differ"
        raise StillhouseError(
            f"method {recipe.method} needs the teacher's distributions over the student's tokens, "
            f"and {found} ({folder}). Choose method: seqkd, or init: prune or scratch."
        )
    store = read_labels(folder, plan.manifest)
    prompts = start.prompts
    encoded = {e["id"]: prompts.encode(_request(e)) for e in plan.examples}
    sequences = [
        TrainingSequence(
            encoded[label.example_id],
            label.token_ids.tolist() if same else [*prompts.encode_answer(label.text), start.end],
            label.distribution if with_logits else None,
        )
        for label in iterate_labels(store)
        if label.source in recipe.sources
    ]
    store.close()
    check_lengths(sequences, start.positions)
    return sequences


def _same_tokenizer(plan: LabelPlan, start: learning.Start) -> bool:
    found = _io.sha256_file(start.tokenizer / "tokenizer.json")
    return found == plan.manifest.tokenizer_sha256


def _request(example: Mapping[str, Any]) -> Request:
    return Request(example["prompt"], example.get("slots"), example.get("context"))


def on_policy_prompts(
    folder: Path, train: Sequence[Any], prompts: PromptEncoder
) -> list[list[int]]:
    """Prompts for the student's own texts: those of training and of the pool."""
    pool = _io.read_jsonl(folder / POOL)
    return [prompts.encode(_request(example)) for example in [*train, *pool]]


def find_recipe(params: Params, name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        StillhouseError: there is none.
    """
    if name not in params.distill.recipes:
        known = ", ".join(params.distill.recipes)
        raise StillhouseError(
            f"distill.recipes has no {name!r} (there are: {known}). Add it to params.yaml."
        )
    return params.distill.recipes[name]


def budget(training: Training, recipe: Recipe) -> Training:
    """The recipe's training: on-policy steps come out of the same budget."""
    if recipe.method != "on_policy":
        return training
    return training.model_copy(update={"steps": max(1, training.steps - recipe.on_policy_steps)})


def measure(
    model: Any,
    params: Params,
    recipe: Recipe,
    start: learning.Start,
    validator: Validator,
    inputs: Mapping[str, Path],
) -> dict[str, Any]:
    """Fidelity to the teacher, where it can be compared, and calibration on references."""
    from stages._fidelity import measure_calibration, measure_fidelity

    if model is None:  # another process of the run measures
        return {}
    vocabulary = validator.vocabulary
    judged = validation_sequences(params, recipe, start, inputs)
    return {
        "fidelity": measure_fidelity(model, judged, vocabulary) if judged else None,
        "calibration": measure_calibration(model, validator.sequences, vocabulary),
    }


def go_on_policy(
    trained: Trained,
    params: Params,
    recipe: Recipe,
    start: learning.Start,
    task: learning.Task,
    inputs: Mapping[str, Path],
    scratch: Path,
) -> None:
    """The rest of the steps on the student's own texts, judged by the teacher in memory."""
    from serving.predictor import load
    from stages._on_policy import OnPolicy, distill_on_policy

    training = params.distill.training
    prompts = on_policy_prompts(inputs["labels"], task.train, start.prompts)
    rows = max(1, training.batch_tokens * len(prompts) // max(1, 2 * sum(map(len, prompts))))
    settings = OnPolicy(
        steps=recipe.on_policy_steps,
        prompts_per_step=rows,
        learning_rate=recipe.on_policy_learning_rate,
        beta=recipe.mix,
        max_new_tokens=params.distill.generation.max_new_tokens,
        warmup_steps=recipe.on_policy_steps // 10,
        seed=params.seed + recipe.seed_offset,
    )
    predictor: Any = load(inputs["teacher"])
    began, steps = time.monotonic(), budget(training, recipe).steps

    def note(step: int, found: dict[str, float]) -> None:
        trained.curve.append({"step": steps + step, "on_policy_loss": found["loss"]})
        trained.tokens += int(found["answer_tokens"])

    distill_on_policy(
        trained.model,
        predictor.model,
        _tokenizer(start.tokenizer),
        prompts,
        settings,
        scratch / "on_policy",
        teacher_tokenizer=_tokenizer(inputs["teacher"]),
        device=trained.model.device,
        report=note,
    )
    trained.seconds += time.monotonic() - began
    trained.model.eval()
