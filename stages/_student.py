"""Where a student starts and what it learns from, by recipe.

Imports torch and transformers; the distill stage imports it when it runs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving._prompts import PromptEncoder
from serving.completion import Request
from serving.contract import read_contract
from serving.errors import StillhouseError
from stages import _io
from stages import _learning as learning
from stages._decoder import build_decoder
from stages._label_plan import LabelPlan, plan_labels, plan_validation
from stages._labels import iterate_labels, read_labels
from stages._losses import Objective
from stages._params import Params, Recipe, Training
from stages._sequences import TrainingSequence, check_lengths, collate, encode_examples
from stages._validation import Validator
from stages._value_noise import invent_values

if TYPE_CHECKING:
    from stages._private_plan import PrivacyPlan

MEASURED = 256  # training sequences that say which parts of a teacher matter


def start_of_student(
    params: Params, recipe: Recipe, task: learning.Task, inputs: Mapping[str, Path]
) -> learning.Start:
    """The student before training: random, cut out of the teacher, or pretrained."""
    seed = params.seed + recipe.seed_offset
    if recipe.method == "on_policy":
        _check_same_prompt(inputs["teacher"])
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
    tokenizer = read_tokenizer(teacher)

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


def _check_same_prompt(teacher: Path) -> None:
    """Refuse a teacher that is shown examples, where it is to read the student's own prompts."""
    if shots := read_contract(teacher, check_files=False).shots:
        raise StillhouseError(
            f"method on_policy asks teacher and student with the same prompt, but {teacher} is "
            f"shown {shots} examples with each. Choose method: logits, or prompting.shots: [0]."
        )


def read_tokenizer(folder: Path) -> Any:
    """A model's tokenizer; of several tokens that end an answer it names the one labels have."""
    from transformers import PreTrainedTokenizerFast

    from stages._pretrained.prompt import end_of

    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    if (end := end_of(folder)) != tokenizer.eos_token_id:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    return tokenizer


def _cut(
    params: Params, task: learning.Task, teacher: Path, prompts: PromptEncoder, end: int
) -> Any:
    """The teacher's most important parts, as many as the student's shape holds."""
    import torch

    from stages._prune import Shape, measure_importance, prune
    from stages._reload import reload

    predictor = reload(teacher, params.run.device)
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
        noise = training_of(params, recipe).value_noise
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


def without_other_recipes(params: Params, name: str) -> Params:
    """The params that this recipe depends on: adding another one makes nothing stale."""
    own = params.distill.model_copy(update={"recipes": {name: params.distill.recipes[name]}})
    return params.model_copy(update={"distill": own})


def training_of(params: Params, recipe: Recipe) -> Training:
    """How the recipe is trained: like all others, but for what privacy changes.

    In float32, where the length of a clipped gradient is what it should be, and without made-up
    values, which would carry words of one prompt into another.
    """
    training, privacy = params.distill.training, recipe.privacy
    if privacy is None:
        return training
    own: dict[str, Any] = {name: getattr(privacy, name) for name in ("steps", "batch_tokens")}
    if privacy.learning_rate is not None:
        own["learning_rates"] = (privacy.learning_rate,)
    changed = {name: value for name, value in own.items() if value is not None}
    return training.model_copy(update={**changed, "precision": "fp32", "value_noise": 0.0})


def privacy_of(
    recipe: Recipe, sequences: Sequence[TrainingSequence], training: Training
) -> "PrivacyPlan | None":
    """What a recipe with privacy promises and how noisy it gets; None for all others."""
    if recipe.privacy is None:
        return None
    from stages._private_plan import plan_privacy

    return plan_privacy(recipe.privacy, sequences, training)


def describe_privacy(
    plan: "PrivacyPlan | None", recipe: Recipe, inputs: Mapping[str, Path]
) -> dict[str, Any] | None:
    """For distill.json: epsilon, how it came about, what it covers and what it does not."""
    if plan is None:
        return None
    teacher = read_contract(inputs["teacher"], check_files=False)
    own_tokenizer = recipe.init == "scratch" and teacher.base_model is None
    return plan.describe(recipe.init, own_tokenizer)


def objective_of(recipe: Recipe) -> Objective:
    """The recipe's loss; without the teacher's distributions cross-entropy alone."""
    with_logits = recipe.method in ("logits", "on_policy")
    return Objective(
        recipe.alpha if with_logits else 0.0,
        recipe.divergence,
        recipe.mix,
        recipe.temperature,
        square=True,
    )


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
