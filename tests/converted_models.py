"""Tiny models as CTranslate2 folders, and tiny models of unusual shapes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_models import CONTRACT, END, tiny_config, tiny_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from serving.contract import read_contract, write_contract
from stages._ctranslate2 import convert


def write_converted(folder: Path, source: Path, compute_type: str = "float32", **changes: Any):
    """Convert `source` and write its contract; `changes` are fields of the contract."""
    made = convert(source, folder, compute_type)
    fields: dict[str, Any] = {"engine": "ctranslate2", "quantization": {"dtype": compute_type}}
    write_contract(folder, replace(read_contract(source), **{**fields, **changes}))
    return made


def write_shape(folder: Path, kind: str, dtype: torch.dtype = torch.float32, **shape: Any) -> Path:
    """A tiny model folder whose config has `shape` in place of what tiny models have."""
    config = tiny_config(kind)
    config = type(config).from_dict({**config.to_dict(), **shape})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.25)
    model.to(dtype).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer(), eos_token=END)
    tokenizer.save_pretrained(folder)
    write_contract(folder, CONTRACT)
    return folder
