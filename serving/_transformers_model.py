"""Load a decoder in Hugging Face format and check that it fits its contract.

`from_pretrained` only warns when weights are missing and fills them with random numbers; here that
is an error, as is everything else that would make a model answer differently from the one measured.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

from serving._decoding import Decoding
from serving._prompts import PromptEncoder
from serving.contract import Contract
from serving.errors import StillhouseError

AGAIN = "Run the stage that makes this model again."


def load_model(
    folder: Path, contract: Contract, device: torch.device
) -> tuple[Any, frozenset[int]]:
    """The model in evaluation mode, and the ids of the tokens that end an answer.

    Weights keep the dtype they are stored in, unless `contract.quantization["dtype"]` names one.

    Raises:
        StillhouseError: nothing loadable, missing weights, or no end token.
    """
    try:
        model, loading = _from_pretrained(folder, contract, device)
    except Exception as error:  # config, safetensors and torch raise their own for a broken file
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise StillhouseError(
            f"{folder} holds no model that transformers can load ({found}). {AGAIN}"
        ) from error
    broken = [str(item) for item in (*loading["missing_keys"], *loading["mismatched_keys"])]
    if broken:
        raise StillhouseError(
            f"{folder} lacks {len(broken)} weights or has them in another shape "
            f"({min(broken)}). {AGAIN}"
        )
    ends = _end_tokens(model)
    if not ends:
        raise StillhouseError(
            f"{folder} names no end token (eos_token_id in generation_config.json or config.json), "
            f"so no answer would end. {AGAIN}"
        )
    # The folder's own decoding defaults must not mix into the contract's.
    model.generation_config = generation_config(ends)
    return model.eval(), ends


def generation_config(ends: frozenset[int], **settings: Any) -> Any:
    """Settings of the library's `generate`; padding takes an end token's id."""
    made: Any = GenerationConfig
    return made(eos_token_id=sorted(ends), pad_token_id=min(ends), **settings)


def _from_pretrained(
    folder: Path, contract: Contract, device: torch.device
) -> tuple[Any, dict[str, Any]]:
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # stages tell their own progress
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    quantized = getattr(config, "quantization_config", None) is not None
    library: Any = AutoModelForCausalLM  # its types leave out `output_loading_info`
    model, loading = library.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        dtype=(contract.quantization or {}).get("dtype", "auto"),
        attn_implementation="sdpa",
        output_loading_info=True,
        # bitsandbytes packs weights where they are to stay; a packed model cannot be moved.
        device_map={"": device} if quantized else None,
    )
    return (model if quantized else model.to(device)), loading


def _end_tokens(model: Any) -> frozenset[int]:
    ends: set[int] = set()
    for config in (model.config, model.generation_config):
        value = getattr(config, "eos_token_id", None)
        ends.update(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(ends)


def longest_prompt(contract: Contract, decoding: Decoding, config: Any) -> int:
    """Longest prompt [tokens] by the contract's limits, checked against the model's positions."""
    longest = contract.limits.get("max_prompt_tokens")
    if longest is None:
        raise StillhouseError(f"The contract's limits lack max_prompt_tokens. {AGAIN}")
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and longest + decoding.max_new_tokens > positions:
        raise StillhouseError(
            f"max_prompt_tokens {longest} and max_new_tokens {decoding.max_new_tokens} "
            f"do not fit the model's {positions} positions. Lower one of them and make it again."
        )
    return longest


def check_vocabulary(folder: Path, prompts: PromptEncoder, config: Any) -> None:
    """Refuse a tokenizer with more tokens than the model has embeddings."""
    tokens = prompts.tokenizer.get_vocab_size(with_added_tokens=True)
    if tokens > config.vocab_size:
        raise StillhouseError(
            f"{folder}: the tokenizer has {tokens} tokens, the model {config.vocab_size}; "
            f"they do not belong together. {AGAIN}"
        )
