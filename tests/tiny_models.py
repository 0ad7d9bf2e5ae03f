"""Tiny random decoders with a real tokenizer, in the format of a model folder."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from serving.contract import Contract, write_contract

PROMPT, ANSWER, END = "<|prompt|>", "<|answer|>", "<|end|>"
TEMPLATE = f"{PROMPT}{{prompt}}{ANSWER}"
POSITIONS = 96
SENTENCES = [
    "name[The Eagle], food[fish], dogs[yes]",
    "The Eagle serves fish and dogs are welcome.",
    "At the Mill you get curry; dogs must stay outside.",
    "checkout-api is down in eu-west-1 since 1.8 s, no data was lost…",
]
CONTRACT = Contract(
    engine="transformers",
    prompt_template=TEMPLATE,
    slot_schema=None,
    limits={"max_prompt_tokens": 48},
    decoding={"max_new_tokens": 24},
    params_hash="0" * 64,
    data_hash="0" * 64,
)


@cache
def tiny_tokenizer() -> Tokenizer:
    """Byte-level BPE with the bytes of the sentences, some merges and three special tokens."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    alphabet = ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=320, special_tokens=[PROMPT, ANSWER, END], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer


def tiny_config(kind: str) -> PreTrainedConfig:
    """A decoder's shape: 2 layers, width 32."""
    tokenizer = tiny_tokenizer()
    ends = {"eos_token_id": tokenizer.token_to_id(END), "bos_token_id": None, "pad_token_id": None}
    size = tokenizer.get_vocab_size()
    if kind == "gpt2":
        return GPT2Config(
            vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=POSITIONS, **ends
        )
    shape: dict[str, Any] = {
        "vocab_size": size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS,
        "tie_word_embeddings": True,
    }
    return LlamaConfig(**shape, **ends) if kind == "llama" else Qwen2Config(**shape, **ends)


def write_model(folder: Path, kind: str = "llama", seed: int = 0, **changes: Any) -> Path:
    """Write weights, tokenizer and contract; `changes` are fields of the contract.

    Weights are drawn wide, so that answers differ from prompt to prompt and sometimes end.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(kind))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.25)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer(), eos_token=END).save_pretrained(
        folder
    )
    write_contract(folder, replace(CONTRACT, **changes))
    return folder


def word_schema(word):
    """A slot that only an answer with `word` has right."""
    slots = {"word": {"kind": "choice", "values": {"it": [re.escape(word)]}}}
    return {"name": "x", "slots": slots, "negation": []}
