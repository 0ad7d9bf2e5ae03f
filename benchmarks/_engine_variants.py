"""The variants of the engines' benchmark: each answers a batch of requests, from text to text."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from serving._prompts import PromptEncoder
from serving.completion import Request
from serving.contract import read_contract, write_contract
from serving.errors import StillhouseError
from serving.predictor import load


class Answers(NamedTuple):
    """What a variant made of one batch."""

    texts: list[str]
    tokens: int


Variant = Callable[[Sequence[Request]], Answers]


def plain_variant(folder: Path, tokens: int) -> Variant:
    """`generate()` of the library on the ids that our encoder gives, padded by its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    library: Any = AutoModelForCausalLM
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = library.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    prompts = PromptEncoder(folder, read_contract(folder).prompt_template)
    end = tokenizer.eos_token_id

    def answer(requests: Sequence[Request]) -> Answers:
        ids = {"input_ids": [prompts.encode(request) for request in requests]}
        given = tokenizer.pad(ids, return_tensors="pt")
        made = model.generate(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            do_sample=False,
            max_new_tokens=tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=end,
        )
        rows = made[:, given["input_ids"].shape[1] :]
        ended = (rows == end).int()
        # up to and with the first end token; what comes after it is padding
        count = int(((ended.cumsum(1) - ended) == 0).sum())
        return Answers([prompts.decode(row) for row in rows.tolist()], count)

    return answer


def engine_variant(folder: Path, tokens: int) -> Variant:
    """Whatever engine the folder names, behind our predictor."""
    predictor = load(folder, {"max_new_tokens": tokens})

    def answer(requests: Sequence[Request]) -> Answers:
        found = predictor.answer(requests)
        return Answers([a.text for a in found], sum(a.completion_tokens for a in found))

    return answer


def make_variants(
    model: Path, draft: Path | None, tokens: int, folder: Path
) -> tuple[dict[str, Variant], dict[str, str]]:
    """The variants that can run here, and why the others cannot."""
    whole = float32_copy(model, folder / "float32")
    variants = {
        "plain": plain_variant(whole, tokens),
        "transformers": engine_variant(whole, tokens),
    }
    missing: dict[str, str] = {}
    for kind in ("float32", "int8"):
        try:
            variants[f"ct2_{kind}"] = engine_variant(
                converted(whole, folder / f"ct2_{kind}", kind), tokens
            )
        except (ImportError, StillhouseError) as error:
            missing[f"ct2_{kind}"] = str(error)
    if draft is None:
        missing["speculative"] = "no --draft was given"
    else:
        from stages._speculative import assemble

        assemble(whole, draft, folder / "speculative")
        variants["speculative"] = engine_variant(folder / "speculative", tokens)
    return variants, missing


def float32_copy(model: Path, folder: Path) -> Path:
    """The model in fp32, whatever it is stored in: all variants start from the same numbers."""
    contract = read_contract(model)
    scheme = (contract.quantization or {}).get("scheme")
    if contract.engine != "transformers" or contract.shots or scheme:
        raise StillhouseError(
            f"{model} has engine {contract.engine}, scheme {scheme} and {contract.shots} shots; "
            f"all variants start from a plain model without shots. Choose another --model."
        )
    shutil.copytree(model, folder)
    dtype = {**(contract.quantization or {}), "dtype": "float32"}
    write_contract(folder, replace(contract, quantization=dtype))
    return folder


def converted(model: Path, folder: Path, kind: str) -> Path:
    """The model for the ctranslate2 engine."""
    from stages._ctranslate2 import convert

    written = convert(model, folder, kind)
    contract = replace(read_contract(model), engine="ctranslate2")
    scheme = {"scheme": f"ctranslate2_{kind}", "dtype": written["dtype"]}
    write_contract(folder, replace(contract, quantization=scheme))
    return folder
