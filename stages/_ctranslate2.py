"""A trained decoder as a CTranslate2 model folder, proven to compute the same, then quantized.

The library's converters assume much about a model (the size of a head, the kind of rotary position,
which norms there are) and check little of it. So a model is first written in float32 and asked
beside its source: log-probabilities that differ end the conversion, whatever the reason.

The vocabulary that CTranslate2 gets is the ids themselves as text ("0", "1" …). Our engine encodes
and decodes with tokenizer.json, so no text of a token can be mistaken, and an embedding may have
more rows than the tokenizer has tokens.

8-bit weights are stored with 64 steps on either side of zero (7 bits), not 127. Where a processor
has AVX2 but not VNNI, the library multiplies by an instruction that adds two products of unsigned
8-bit inputs and signed 8-bit weights in 16 bits and cuts off what does not fit (VPMADDUBSW, Intel
SDM vol. 2): 2 * 255 * 127 does not fit, 2 * 255 * 64 does. On a processor with VNNI this costs the
last bit of a weight; on the other kind it saves the model, and both compute the same.

Imports torch, transformers and ctranslate2; the stage imports it when it runs.
"""

import math
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ctranslate2 import Generator
from ctranslate2.converters.transformers import GPT2Loader, LlamaLoader
from ctranslate2.specs import common_spec
from ctranslate2.specs.transformer_spec import TransformerDecoderModelSpec
from numpy.typing import NDArray

from serving._ctranslate2_model import stored_type
from serving._prompts import TOKENIZER_NAME
from serving._transformers_model import load_model
from serving.contract import read_contract
from serving.errors import StillhouseError

KINDS = ("gpt2", "llama", "qwen2")
LEVELS = 64  # largest magnitude of an 8-bit weight
PROBES = (48, 7)  # lengths of the texts that both models are asked [tokens]
TOLERANCE = 1e-3  # largest difference of a log-probability [nats]; float32 sums differ by 1e-5
TOKENIZER_FILES = (TOKENIZER_NAME, "tokenizer_config.json", "special_tokens_map.json")

# What a token costs in memory follows from these (serving/_token_budget.py); transformers' names.
SHAPE = (
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "n_inner",
)


def convert(source: Path, target: Path, compute_type: str) -> dict[str, Any]:
    """Write the model of folder `source` to `target`, without a contract; returns what was written.

    Args:
        compute_type: float32, int8 (the same as int8_float32), int8_float16, int8_bfloat16, int16,
            float16 or bfloat16. Embeddings and a tied head are quantized like all matrices.

    Returns:
        dtype (the compute type in full), embeddings (their type), levels (of 8-bit weights),
        coverage {parameters, bytes: shares in low precision; parameters_total; skipped: parameters
        in float32 by name, layers put together} and bytes {before: in float32, after}.

    Raises:
        StillhouseError: a model that CTranslate2 does not have, or would compute differently.
    """
    dtype = stored_type(compute_type)
    model, ends = load_model(source, read_contract(source), torch.device("cpu"))
    _check_model(source, model)
    model = model.float()
    probes = _probe_texts(model)
    expected = [_logprobs(model, text) for text in probes]
    spec = _build_spec(model, ends)
    _check_same(source, spec, probes, expected)
    _quantize(spec, dtype)
    target.mkdir(parents=True, exist_ok=True)
    spec.save(str(target))
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    coverage = measure(spec)
    after = (target / "model.bin").stat().st_size
    return {
        "dtype": dtype,
        "embeddings": spec.variables()["decoder/embeddings/weight"].dtype,
        "levels": LEVELS if dtype.startswith("int8") else None,
        "coverage": coverage,
        "bytes": {"before": 4 * coverage["parameters_total"], "after": after},
    }


def _check_model(source: Path, model: Any) -> None:
    config = model.config
    plain = all(weight.is_floating_point() for weight in model.parameters())
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    problems = [
        config.model_type not in KINDS and f"type {config.model_type!r} (known: {KINDS})",
        not plain and "quantized weights",
        rope.get("rope_type", "default") != "default" and f"rotary positions {rope['rope_type']!r}",
        kinds != {"full_attention"} and f"attention of kinds {sorted(kinds)}",
    ]
    if found := [problem for problem in problems if problem]:
        raise StillhouseError(
            f"{source} cannot be converted for ctranslate2: {', '.join(found)}. "
            f"Name a plain gpt2, llama or qwen2, or another engine for this variant."
        )


def _build_spec(model: Any, ends: frozenset[int]) -> Any:
    """The model in CTranslate2's words. The library takes `model` apart on the way."""
    config = model.config
    if config.model_type == "gpt2":
        spec = GPT2Loader().get_model_spec(model)
        epsilon = config.layer_norm_epsilon
    else:
        spec = _llama_spec(model)
        epsilon = config.rms_norm_eps
    spec.register_vocabulary([str(number) for number in range(config.vocab_size)])
    # The library wants names; none of them is ever used, as every token we send is a number.
    spec.config.unk_token = spec.config.bos_token = str(0)
    spec.config.eos_token = str(min(ends))
    spec.config.layer_norm_epsilon = epsilon
    spec.config.add_attribute("end_token_ids", sorted(ends))
    spec.config.add_attribute("max_positions", config.max_position_embeddings)
    for name in SHAPE:
        if isinstance(value := getattr(config, name, None), int):
            spec.config.add_attribute(name, value)
    spec.validate()
    return spec


def _llama_spec(model: Any) -> Any:
    """Llama or Qwen2. The library's own loader takes width / heads for the size of a head, which
    does not hold for a pruned model."""
    config = model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    spec = TransformerDecoderModelSpec.from_config(
        config.num_hidden_layers,
        heads,
        activation=common_spec.Activation.SWISH,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=0,  # all of a head
        rotary_interleave=False,
        rotary_base=config.rope_parameters["rope_theta"],
        num_heads_kv=None if kv_heads == heads else kv_heads,
        head_dim=model.model.layers[0].self_attn.head_dim,
    )
    loader = LlamaLoader()
    loader.set_decoder(spec.decoder, model.model)
    loader.set_linear(spec.decoder.projection, model.lm_head)
    return spec


def _probe_texts(model: Any) -> list[list[int]]:
    """Ids drawn with a fixed seed."""
    random = np.random.default_rng(0)
    longest = model.config.max_position_embeddings
    lengths = [min(length, longest) for length in PROBES]
    return [random.integers(model.config.vocab_size, size=size).tolist() for size in lengths]


@torch.inference_mode()
def _logprobs(model: Any, text: list[int]) -> Any:
    """Float32 [positions, vocabulary]."""
    return model(torch.tensor([text])).logits[0].log_softmax(-1).numpy()


def _check_same(source: Path, spec: Any, probes: list[list[int]], expected: list[Any]) -> None:
    """Write the model unquantized and compare what it computes for a batch of texts."""
    with tempfile.TemporaryDirectory() as folder:
        spec.save(folder)
        generator = Generator(folder, inter_threads=1, intra_threads=torch.get_num_threads())
        found = np.asarray(generator.forward_batch(probes, return_log_probs=True))
    pairs = [(found[row, : len(text)], expected[row]) for row, text in enumerate(probes)]
    difference = max(float(np.abs(here - there).max()) for here, there in pairs)
    if not difference <= TOLERANCE:  # NaN too
        raise StillhouseError(
            f"{source} computes something else in ctranslate2: log-probabilities differ by "
            f"{difference:.3g}, at most {TOLERANCE:g} is rounding. Name another engine for this "
            f"variant."
        )


def _quantize(spec: Any, dtype: str) -> None:
    """Quantize in place; 8-bit weights again, from the float weights, to fewer levels."""
    if not dtype.startswith("int8"):
        spec.optimize(dtype)
        return
    # Copies, because the library multiplies the arrays it is given by its scales.
    matrices = {n: v.numpy().copy() for n, v in spec.variables().items() if len(v.shape) == 2}
    spec.optimize(dtype)
    variables = spec.variables()
    for name, weight in matrices.items():
        variable = variables[name]
        if not isinstance(variable, str) and variable.dtype == "int8":
            steps, scales = quantize_rows(weight)
            variable.array[:] = steps
            variables[f"{name}_scale"].array[:] = scales


def quantize_rows(
    weight: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Whole numbers [rows, columns] up to `LEVELS`, and scales [rows] that they are divided by."""
    largest = np.abs(weight).max(axis=1)
    largest[largest < 1e-30] = LEVELS  # as good as zeros; its scale must be a float32
    scales = (LEVELS / largest).astype(np.float32)
    return np.rint(weight * scales[:, None]), scales


def measure(spec: Any) -> dict[str, Any]:
    """Coverage, counted in what is written: a parameter is low in fewer than 32 bits.

    A tied head is the embedding and counts once; any other array that stands for an equal one
    counts, but takes no bytes. Scales are bytes and no parameters.
    """
    variables = spec.variables(ordered=True)
    arrays = {name: value for name, value in variables if not isinstance(value, str)}
    total, low, low_bytes = 0, 0, 0
    skipped: dict[str, int] = {}
    for name, value in variables:
        array = arrays[value] if isinstance(value, str) else value
        tied = isinstance(value, str) and name == "decoder/projection/weight"
        if array.is_scalar() or name.endswith("_scale") or tied:
            continue
        count = math.prod(array.shape)
        total += count
        if array.dtype == "float32":
            module = re.sub(r"layer_\d+", "layer_*", name)
            skipped[module] = skipped.get(module, 0) + count
        else:
            low += count
            low_bytes += 0 if isinstance(value, str) else array.num_bytes()
    written = sum(array.num_bytes() for array in arrays.values())
    return {
        "parameters": low / total,
        "bytes": low_bytes / written,
        "parameters_total": total,
        "skipped": dict(sorted(skipped.items())),
    }
