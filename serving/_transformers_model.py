"""Load a decoder in Hugging Face format and check that it fits its contract.

`from_pretrained` only warns when weights are missing and fills them with random numbers; here that
is an error, as is everything else that would make a model answer differently from the one measured.
A quantized folder is loaded by the library, which reads bitsandbytes' tensors by config.json; only
embeddings in 8 bits are our own (serving/_quantized_embedding.py).
"""

import logging as standard_logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

from serving._answering import AGAIN
from serving._quantized_embedding import absent_weights, load_embeddings
from serving.contract import Contract
from serving.errors import StillhouseError

# bitsandbytes warns at every product of LLM.int8() that float32 inputs become float16; and, when it
# is loaded on a CPU with AVX-512 BF16, that it could not fetch a faster kernel from a hub.
BITSANDBYTES_WARNS = ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops")
PACKED_ROWS = 32  # of a 4-bit layer that bitsandbytes packs for AVX-512 BF16


def find_device(name: str | None) -> torch.device:
    """The torch device: `name` is cpu or cuda; None or "auto": CUDA where there is one.

    Raises:
        StillhouseError: CUDA is asked for where there is none.
    """
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise StillhouseError(
            "the device cuda was asked for, and torch finds no CUDA device here. "
            "Choose cpu (a stage: run.device auto or cpu in params.yaml)."
        )
    return torch.device("cuda" if found and name != "cpu" else "cpu")


def weight_bytes(model: Any) -> int:
    """What the model's parameters take [bytes]."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


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
    quantization = contract.quantization or {}
    if quantized:
        for name in BITSANDBYTES_WARNS:
            standard_logging.getLogger(name).setLevel(standard_logging.ERROR)
    library: Any = AutoModelForCausalLM  # its types leave out `output_loading_info`
    with _without_reports():  # of missing weights, which we raise
        model, loading = library.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=quantization.get("dtype", "auto"),
            attn_implementation="sdpa",
            output_loading_info=True,
            # bitsandbytes packs weights where they are to stay; a packed model cannot be moved.
            device_map={"": device} if quantized else None,
        )
    if quantized:
        keep_odd_layers_as_stored(model)
    if quantization.get("embeddings") == "int8":
        loading["missing_keys"] = set(loading["missing_keys"]) - absent_weights(model)
        load_embeddings(model, folder, device, model.dtype)
    return (model if quantized else model.to(device)), loading


def keep_odd_layers_as_stored(model: Any) -> None:
    """Spare 4-bit layers a packing for AVX-512 BF16 that their shape does not have.

    On such a processor bitsandbytes packs every layer anew at its first product, in whole blocks
    of a row and 32 rows at once, and fails on a layer that is no multiple of them
    (_convert_weight_packed_for_cpu of bitsandbytes 0.50). Kept as stored it is multiplied as on
    any other processor.
    """
    for layer in model.modules():
        if getattr(layer, "support_avx512bf16_for_cpu", False):
            block = layer.weight.quant_state.blocksize
            fits = layer.in_features % block == 0 and layer.out_features % PACKED_ROWS == 0
            layer.support_avx512bf16_for_cpu = fits


@contextmanager
def _without_reports() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _end_tokens(model: Any) -> frozenset[int]:
    ends: set[int] = set()
    for config in (model.config, model.generation_config):
        value = getattr(config, "eos_token_id", None)
        ends.update(value if isinstance(value, list) else [] if value is None else [value])
    return frozenset(ends)
