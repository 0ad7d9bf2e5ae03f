"""What teacher and student have in common: a start, a task, training, a model folder.

Imports torch and transformers; stages import it when they run.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving._prompts import PromptEncoder, true_size
from serving._shots import Shots, save_shots
from serving.completion import Request
from serving.contract import Contract, write_contract
from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages import _io
from stages._checkpoint import is_main, must_hold
from stages._decoder import build_decoder
from stages._params import Generation, Params, Pretrained, Section, Training
from stages._reload import reload
from stages._sequences import encode_examples
from stages._tokenizer import END, template_for, train_tokenizer
from stages._training import Trained
from stages._validation import Validator, validation_scores

Example = dict[str, Any]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Start:
    """A model before training, and how it is spoken to."""

    make: Callable[[], Any]
    """Gives the model, the same one each time."""
    tokenizer: Path
    """Folder with tokenizer.json."""
    template: str
    end: int
    """Id of the token that ends an answer to learn from."""
    positions: int
    """Longest prompt and answer together [tokens]."""
    base_model: str | None = None
    base_revision: str | None = None
    tuned: bool = True
    """Whether it is trained; False for a pretrained teacher that is taken as it is."""
    shots: Shots | None = None
    """Training examples that its prompts show, if any."""

    @property
    def prompts(self) -> PromptEncoder:
        """Encoder of the start's tokenizer and template."""
        return PromptEncoder(self.tokenizer, self.template)


@dataclass(frozen=True)
class Task:
    """What is learned and what it is judged on."""

    train: list[Example]
    validation: list[Example]
    slot_schema: dict[str, Any] | None
    data_hash: str
    """SHA-256 of train.jsonl."""


def read_task(inputs: Mapping[str, Path]) -> Task:
    """Read the prepared splits.

    Raises:
        StillhouseError: a split is missing or empty.
    """
    train, validation = (_io.read_jsonl(inputs[f"{s}.jsonl"]) for s in ("train", "validation"))
    for name, examples in (("train", train), ("validation", validation)):
        if not examples:
            raise StillhouseError(
                f"{inputs[f'{name}.jsonl']} has no prompts. Give {name} some data."
            )
    schema = _io.read_json(inputs["slots.json"])
    return Task(train, validation, schema, _io.sha256_file(inputs["train.jsonl"]))


def start_of_teacher(params: Params, task: Task, scratch: Path) -> Start:
    """Where the teacher's training begins, by teacher.source."""
    if params.teacher.source == "pretrained":
        assert params.teacher.pretrained is not None, "params are validated"
        return start_from_pretrained(params.teacher.pretrained, params, params.teacher.training)
    return start_from_scratch(params, task, scratch)


def start_from_pretrained(settings: Pretrained, params: Params, training: Training) -> Start:
    """A model in Hugging Face format, as it is or with an adapter."""
    from stages import _pretrained

    base = _pretrained.resolve(settings, params.run.offline)
    return Start(
        make=lambda: _pretrained.load(base, settings, training.attention, params.seed),
        tokenizer=base.folder,
        template=base.template,
        end=base.end,
        positions=base.positions,
        # a local folder's path says nothing elsewhere; its name may
        base_model=Path(settings.model).name if base.revision is None else settings.model,
        base_revision=base.revision,
        tuned=settings.tuning != "none",
    )


def start_from_scratch(params: Params, task: Task, scratch: Path) -> Start:
    """A tokenizer trained on the task's text, and a random decoder."""
    settings = params.teacher.scratch
    texts = (t for e in task.train for t in (e["prompt"], e.get("context") or "", *e["references"]))
    tokenizer = train_tokenizer(texts, settings.vocabulary)
    # each process of a run its own, so that none waits for another or writes over it
    place = scratch / f"tokenizer-{os.environ.get('RANK', '0')}"
    with _io.writing_folder(place) as folder:
        tokenizer.save_pretrained(folder)
    attention = params.teacher.training.attention
    end = tokenizer.convert_tokens_to_ids(END)
    assert isinstance(end, int), "one token has one id"
    return Start(
        make=lambda: build_decoder(settings.shape, tokenizer, params.seed, attention),
        tokenizer=place,
        template=template_for(task.train),
        end=end,
        positions=settings.shape.positions,
    )


def make_contract(start: Start, task: Task, generation: Generation, params_hash: str) -> Contract:
    """The contract of a model that was trained for the task."""
    longest = start.positions - generation.max_new_tokens
    if longest < 1:
        raise StillhouseError(
            f"max_new_tokens {generation.max_new_tokens} leave no room for a prompt in "
            f"{start.positions} positions. Lower it or raise the shape's positions."
        )
    return Contract(
        engine="transformers",
        prompt_template=start.template,
        slot_schema=task.slot_schema,
        limits={"max_prompt_tokens": longest},
        decoding=generation.model_dump(mode="json"),
        params_hash=params_hash,
        data_hash=task.data_hash,
        base_model=start.base_model,
        base_revision=start.base_revision,
        shots=start.shots.count if start.shots else 0,
    )


def make_validator(start: Start, task: Task, contract: Contract, settings: Training) -> Validator:
    """Judge of models that begin at `start`, on the first validation prompts."""
    examples = task.validation[: settings.validation_prompts]
    prompts = start.prompts
    return Validator(
        examples=examples,
        sequences=encode_examples(examples, prompts, start.end, start.positions),
        prompts=prompts,
        contract=contract,
        vocabulary=true_size(prompts.tokenizer),
    )


def write_model(folder: Path, model: Any, start: Start, contract: Contract) -> None:
    """Write weights, tokenizer, examples to show and, last, the contract: all or nothing.

    Raises:
        StillhouseError: the disk does not take them.
    """
    from transformers import GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with must_hold(folder), _io.writing_folder(folder) as temporary:
        library: Any = GenerationConfig
        model.generation_config = library(eos_token_id=model.config.eos_token_id)
        model.save_pretrained(temporary)
        for name in TOKENIZER_FILES:
            if (start.tokenizer / name).is_file():
                shutil.copyfile(start.tokenizer / name, temporary / name)
        if start.shots is not None:
            save_shots(temporary, start.shots)
        write_contract(temporary, contract)


def make_plain(trained: Trained) -> None:
    """Merge an adapter into its base, so that what is measured and written is one plain model."""
    if hasattr(trained.model, "peft_config"):
        from stages._pretrained import merged

        trained.model = merged(trained.model)


def finish(
    trained: Trained,
    start: Start,
    task: Task,
    contract: Contract,
    params: Params,
    training: Training,
    outputs: Mapping[str, Path],
) -> dict[str, Any]:
    """Write the model folder and its curves; score it on validation, reloaded as it will serve."""
    report = describe(trained, training)
    if not is_main():
        return report
    write_model(outputs["model"], trained.model, start, contract)
    write_curves(outputs["reports"], trained)
    trained.model = None  # room for the reloaded one
    predictor = reload(outputs["model"], params.run.device)
    requests = [Request(e["prompt"], e.get("slots"), e.get("context")) for e in task.validation]
    texts = [completion.text for completion in predictor.answer(requests)]
    schema = SlotSchema.from_dict(task.slot_schema) if task.slot_schema else None
    report["validation"] = validation_scores(texts, task.validation, schema, params.seed)
    return report


def describe(trained: Trained, settings: Training) -> dict[str, Any]:
    """Size and cost of a trained model, units in the names."""
    return {
        "parameters": count_parameters(trained.model) if trained.model is not None else None,
        "steps": settings.steps,
        "batch_tokens": settings.batch_tokens,
        "best_step": trained.best_step,
        "training_tokens": trained.tokens,
        "seconds": round(trained.seconds, 1),
        "learning_rate": trained.learning_rate,
        "sweep": trained.sweep,
    }


def count_parameters(model: Any) -> int:
    """Weights, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def write_curves(folder: Path, trained: Trained) -> None:
    """curve.csv (training, its on-policy part too) and validations.csv, a row per logged step."""
    rows = {
        "curve.csv": [row for row in trained.curve if "selection" not in row],
        "validations.csv": [row for row in trained.curve if "selection" in row],
    }
    for name, found in rows.items():
        header = list(dict.fromkeys(key for row in found for key in row)) or ["step"]
        lines = [
            ",".join(f"{row[key]:.6g}" if key in row else "" for key in header) for row in found
        ]
        _io.write_text(folder / name, "\n".join([",".join(header), *lines]) + "\n")


def settings_of(seed: int, *sections: Section) -> list[Any]:
    """What decides a result: the seed and some sections of params.yaml, as JSON."""
    idle = {"training": {"checkpoint_every_s"}}  # changes no result
    return [seed, *(section.model_dump(mode="json", exclude=idle) for section in sections)]
