"""Linear layers in 8 or 4 bits by bitsandbytes, and 16-bit weights: schemes of transformers.

The layers are bitsandbytes' own, and so are their tensors in the folder: `from_pretrained` reads
them by the quantization_config in config.json, on CPU and CUDA alike. Conv1D (GPT-2), which keeps
its weight transposed, becomes a linear layer too. Imports torch, transformers and bitsandbytes;
the stage imports it when it runs.
"""

import logging
from pathlib import Path
from typing import Any

import bitsandbytes
import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from serving._quantized_embedding import quantize_embeddings, tied_head
from serving._transformers_model import BITSANDBYTES_WARNS, keep_odd_layers_as_stored
from stages._params.quantize import Variant

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
BLOCK_SIZE = 64  # of the QLoRA paper and the library


def dtype_of(variant: Variant) -> torch.dtype:
    """Type of activations and of what stays unquantized."""
    if variant.scheme in DTYPES:
        return DTYPES[variant.scheme]
    dtype = getattr(torch, variant.compute_dtype or "float32")
    assert isinstance(dtype, torch.dtype), "params are validated"
    return dtype


def embeddings_in_int8(variant: Variant) -> bool:
    """Whether embeddings are packed too."""
    return variant.scheme not in DTYPES and variant.embeddings != "keep"


def quantize_model(model: Any, variant: Variant) -> Any:
    """Quantize a plain model in place, where it lies; it is good for answering only, afterwards."""
    dtype = dtype_of(variant)
    if variant.scheme in DTYPES:
        _cast_rest(model, dtype)
        return model.eval()
    for name in BITSANDBYTES_WARNS:
        logging.getLogger(name).setLevel(logging.ERROR)
    kept = [head] if (head := tied_head(model)) else []
    for name, layer in list(model.named_modules()):
        if name not in kept and (type(layer) is nn.Linear or isinstance(layer, Conv1D)):
            model.set_submodule(name, _packed(layer, variant))
    keep_odd_layers_as_stored(model)
    if embeddings_in_int8(variant):
        quantize_embeddings(model, dtype)
    model.config.quantization_config = _library_config(variant, kept)
    _cast_rest(model, dtype)
    return model.eval()


def _packed(layer: Any, variant: Variant) -> Any:
    """The layer of bitsandbytes with this one's weight; it is packed by its move to a device."""
    weight = layer.weight.data.T.contiguous() if isinstance(layer, Conv1D) else layer.weight.data
    outputs, inputs = weight.shape
    library: Any = bitsandbytes.nn  # without types
    made: Any
    if variant.scheme == "int8":
        threshold = variant.outlier_threshold or 0.0
        options: dict[str, Any] = {"has_fp16_weights": False}
        made = library.Linear8bitLt(
            inputs, outputs, layer.bias is not None, threshold=threshold, device="meta", **options
        )
        # The library quantizes where it moves from the CPU.
        packed = library.Int8Params(weight.cpu(), requires_grad=False, **options)
    else:
        options = {
            "compress_statistics": bool(variant.double_quantization),
            "quant_type": variant.scheme,
        }
        made = library.Linear4bit(
            inputs, outputs, layer.bias is not None, dtype_of(variant), device="meta", **options
        )
        size = variant.block_size or BLOCK_SIZE
        packed = library.Params4bit(
            weight, requires_grad=False, blocksize=size, module=made, **options
        )
    made.weight = packed.to(weight.device)
    made.bias = layer.bias
    return made.requires_grad_(False)


def _library_config(variant: Variant, kept: list[str]) -> Any:
    """What the library needs to read the folder again."""
    library: Any = BitsAndBytesConfig  # without types
    if variant.scheme == "int8":
        threshold = variant.outlier_threshold or 0.0
        return library(load_in_8bit=True, llm_int8_threshold=threshold, llm_int8_skip_modules=kept)
    return library(
        load_in_4bit=True,
        bnb_4bit_quant_type=variant.scheme,
        bnb_4bit_use_double_quant=bool(variant.double_quantization),
        bnb_4bit_compute_dtype=dtype_of(variant),
        llm_int8_skip_modules=kept,
    )


def _cast_rest(model: Any, dtype: torch.dtype) -> None:
    """Cast parameters that are not packed, and no buffers: as `from_pretrained` does it."""
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)


def save(model: Any, folder: Path) -> None:
    """Write weights, config.json and generation_config.json.

    Must come before the model answers: a processor with AVX-512 BF16 packs 4-bit weights anew for
    itself and rounds their scales.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model.config.dtype = model.dtype
    model.save_pretrained(folder)
