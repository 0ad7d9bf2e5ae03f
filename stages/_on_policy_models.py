"""Two models made ready for on-policy distillation: do they fit, and what the trainer must not see.

`transformers` and TRL change models they are lent (configuration, forward, dropout, tags); here
everything is put back as it was found.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedTokenizerFast

from serving._prompts import true_size
from serving.errors import StillhouseError


def check_tokenizers(student: PreTrainedTokenizerFast, teacher: PreTrainedTokenizerFast) -> None:
    """Refuse two tokenizers that are not the same.

    Raises:
        StillhouseError: other sizes, the first token that differs, another end or another cutting.
    """
    ours, theirs = (
        {number: token for token, number in tokenizer.get_vocab().items()}
        for tokenizer in (student, teacher)
    )
    first = next((n for n in sorted(ours | theirs) if ours.get(n) != theirs.get(n)), None)
    found = None
    if len(ours) != len(theirs):
        found = f"{len(ours)} tokens and {len(theirs)}"
    elif first is not None:
        found = f"token {first} is {ours.get(first)!r} and {theirs.get(first)!r}"
    elif student.eos_token_id != teacher.eos_token_id:
        found = f"answers end with {student.eos_token!r} and {teacher.eos_token!r}"
    elif _cutting(student) != _cutting(teacher):
        found = "the same tokens, but other rules to cut text into them"
    if found:
        raise StillhouseError(
            f"student and teacher need the same tokenizer, found {found} (the student's first). "
            f"Give the student the teacher's tokenizer, or distill from labels."
        )


def _cutting(tokenizer: PreTrainedTokenizerFast) -> list[Any]:
    """The rules that cut a text into tokens."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    return [parts[name] for name in ("normalizer", "pre_tokenizer", "model")]


def check_vocabularies(student: Any, teacher: Any, tokenizer: PreTrainedTokenizerFast) -> int:
    """Rows of vocabulary that both models have; a teacher's further rows are padding.

    Raises:
        StillhouseError: a model with too few rows, or no end token.
    """
    tokens = true_size(tokenizer)
    ours, theirs = _vocabulary(student), _vocabulary(teacher)
    if min(ours, theirs) < tokens or theirs < ours:
        raise StillhouseError(
            f"expected a student with at least the tokenizer's {tokens} rows of vocabulary and a "
            f"teacher with at least the student's, found {ours} and {theirs}. "
            f"Make the student with {tokens} rows."
        )
    if tokenizer.eos_token_id is None:
        raise StillhouseError(
            "the tokenizer names no end token (eos_token), so no answer would end. "
            "Run the stage that makes this model again."
        )
    return ours


def check_lengths(
    prompts: Sequence[Sequence[int]], max_new_tokens: int, tokens: int, **models: Any
) -> None:
    """Refuse prompts that do not fit: TRL would neither cut them nor say so.

    Raises:
        StillhouseError: no prompts, an empty one, one too long for a model, or an unknown token.
    """
    if not prompts or not all(prompts):
        empty = next((place for place, prompt in enumerate(prompts) if not prompt), None)
        found = "none" if empty is None else f"an empty one (number {empty})"
        raise StillhouseError(f"expected prompts with tokens, found {found}. Correct the prompts.")
    place, longest = max(enumerate(map(len, prompts)), key=lambda item: item[1])
    for name, model in models.items():
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and longest + max_new_tokens > positions:
            raise StillhouseError(
                f"prompt {place} has {longest} tokens; with {max_new_tokens} new ones it does not "
                f"fit the {name}'s {positions} positions. Lower max_new_tokens or drop the prompt."
            )
    largest = max(map(max, prompts))
    if largest >= tokens:
        raise StillhouseError(
            f"expected token ids below {tokens}, found {largest}. "
            f"Encode the prompts with the student's tokenizer."
        )


def end_tokens(model: Any) -> set[int]:
    """Ids that end an answer, by generation settings and configuration."""
    ends: set[int] = set()
    for config in (model.config, model.generation_config):
        value = getattr(config, "eos_token_id", None)
        ends.update(value if isinstance(value, list) else [] if value is None else [value])
    return ends


def with_rows(teacher: Any, rows: int) -> Any:
    """The teacher with a head of `rows` rows: a view that shares every weight with it."""
    if _vocabulary(teacher) == rows:
        return teacher
    view = copy.copy(teacher)
    vars(view)["_modules"] = dict(vars(teacher)["_modules"])
    view.config = copy.deepcopy(teacher.config)
    view.config.get_text_config().vocab_size = rows
    head = teacher.get_output_embeddings()
    cut = nn.Linear(head.in_features, rows, bias=head.bias is not None, device="meta")
    cut.weight = nn.Parameter(head.weight.detach()[:rows], requires_grad=False)
    if head.bias is not None:
        cut.bias = nn.Parameter(head.bias.detach()[:rows], requires_grad=False)
    view.set_output_embeddings(cut)
    return view


@contextmanager
def as_found(model: Any) -> Iterator[None]:
    """Put back a model's own attributes, its configuration and its mode at the end."""
    attributes, settings = dict(vars(model)), copy.deepcopy(vars(model.config))
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for holder, values in ((model, attributes), (model.config, settings)):
            vars(holder).clear()
            vars(holder).update(values)
        for module, mode in modes:
            module.training = mode


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """Set every dropout to 0, also those that are plain numbers (Llama's attention)."""
    found = [
        (holder, name, value)
        for holder in (model.config, *model.modules())
        for name, value in vars(holder).items()
        if isinstance(value, float) and ("drop" in name or isinstance(holder, _DropoutNd))
    ]
    try:
        for holder, name, _ in found:
            setattr(holder, name, 0.0)
        yield
    finally:
        for holder, name, value in found:
            setattr(holder, name, value)


@contextmanager
def true_positions(model: Any) -> Iterator[None]:
    """Count positions from the first real token, in the loss as in generation.

    TRL pads prompts on the left and gives its loss no positions: a model with learned ones (GPT-2)
    would read every shorter prompt at the wrong place.
    """

    def add(_: nn.Module, args: Any, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = settings.get("attention_mask")
        if settings.get("position_ids") is None and isinstance(mask, torch.Tensor):
            settings["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
        return args, settings

    hook = model.base_model.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _vocabulary(model: Any) -> int:
    return int(model.get_output_embeddings().weight.shape[0])
