"""How many tokens and rows fit beside a loaded model: computed at start, not guessed.

A token under way costs its keys and values in every layer, and for as long as its prompt is read
one layer's intermediate numbers: attention scores against the longest prompt, the feed-forward
layer, a few vectors of the model's width. For a small model on a CPU the second part is as large
as the first. Both are counted for every token, as if all prompts were read at once. Logits are per
row (vocabulary times a few numbers) and come out of the share that is kept free, as do copies of a
layer's cache while it grows; a slow test holds the sum against what CTranslate2 really takes.

CTranslate2 repeats the keys and values of grouped heads before it keeps them (src/layers/
attention.cc: replicate_heads), so there every attention head counts, not every KV head.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving._free_memory import FreeMemory
from serving.contract import Contract
from serving.errors import StillhouseError

KEEP_FREE_SHARE = 0.25
_NUMBER_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8_float32": 4, "int16": 4}
_NUMBER_BYTES |= {"int8": 4, "int8_float16": 2, "int8_bfloat16": 2}  # what they compute in
_SCALE_BYTES = 4  # of 8-bit keys and values (serving/_cache.py), one per token and head


@dataclass(frozen=True)
class Shape:
    """What a model's config.json says of its size."""

    layers: int
    heads: int
    kv_heads: int
    head_width: int
    width: int
    feed_forward: int


@dataclass(frozen=True)
class TokenCost:
    """What a token under way takes of memory, and from what that was computed."""

    kv_bytes: int
    """Keys and values in all layers."""
    work_bytes: int
    """Intermediate numbers of one layer while a prompt is read."""
    cached_heads: int
    """Heads whose keys and values the engine keeps."""
    number_bytes: int
    """Of one computed number."""
    shape: Shape

    @property
    def bytes(self) -> int:
        """KV and work together."""
        return self.kv_bytes + self.work_bytes


@dataclass(frozen=True)
class TokenBudget:
    """What fits, and everything that it was computed from."""

    tokens: int
    """Most tokens under way: rows x (longest prompt + room for the answer), padding included."""
    rows: int
    """Largest batch; a request with beams or several answers has as many rows."""
    tokens_that_fit: int
    """As `tokens`, by memory alone."""
    rows_that_fit: int
    """Rows of full length that fit at once, by memory alone."""
    row_tokens: int
    """Of a row of full length: longest prompt and longest answer."""
    usable_bytes: int
    """Of the memory that was free when the model was loaded."""
    keep_free_share: float
    """The rest of that memory, which no request may take."""
    memory: FreeMemory
    cost: TokenCost

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a log line; its whole numbers are gauges."""
        return asdict(self)


def compute_budget(
    folder: Path,
    contract: Contract,
    memory: FreeMemory,
    *,
    keep_free_share: float = KEEP_FREE_SHARE,
    max_tokens: int | None = None,
    max_rows: int | None = None,
) -> TokenBudget:
    """What fits into `memory` beside the model of `folder`, which is loaded by now.

    Args:
        keep_free_share: of `memory`, from 0 to below 1.
        max_tokens: a person's limit; wins where it is lower.
        max_rows: likewise.

    Raises:
        StillhouseError: config.json lacks what is needed, not even one row fits, or a person's
            limit is above what fits or below one row.
    """
    cost = token_cost(folder, contract)
    row = contract.limits["max_prompt_tokens"] + int(contract.decoding["max_new_tokens"])
    usable = _usable(memory, keep_free_share)
    fit = usable // cost.bytes
    _check_one_row(folder, memory, usable, fit, row)
    return TokenBudget(
        tokens=_within("tokens under way", max_tokens, row, fit),
        rows=_within("rows of a batch", max_rows, 1, fit // row),
        tokens_that_fit=fit,
        rows_that_fit=fit // row,
        row_tokens=row,
        usable_bytes=usable,
        keep_free_share=keep_free_share,
        memory=memory,
        cost=cost,
    )


def token_cost(folder: Path, contract: Contract) -> TokenCost:
    """What a token of the model in `folder` takes [bytes].

    Raises:
        StillhouseError: see `read_shape`; or a type of numbers that is not known.
    """
    shape, number = read_shape(folder, contract.engine), _number_bytes(folder, contract)
    heads = shape.heads if contract.engine == "ctranslate2" else shape.kv_heads
    packed = contract.decoding.get("cache") == "quantized"
    vector = shape.head_width + _SCALE_BYTES if packed else shape.head_width * number
    # Of one layer: scores, both halves of a gated feed-forward layer, and a few vectors.
    scores = shape.heads * contract.limits["max_prompt_tokens"]
    vectors = 2 * (shape.width + shape.heads * shape.head_width) + 2 * shape.feed_forward
    return TokenCost(
        kv_bytes=shape.layers * 2 * heads * vector,
        work_bytes=number * (scores + vectors),
        cached_heads=heads,
        number_bytes=number,
        shape=shape,
    )


def read_shape(folder: Path, engine: str) -> Shape:
    """The shape of the model in `folder`, by the keys of a Hugging Face config.json.

    Raises:
        StillhouseError: an engine that keeps no keys and values of ours, or keys that are missing.
    """
    if engine not in ("transformers", "ctranslate2"):
        raise StillhouseError(
            f"{folder} has the engine {engine!r}; a token budget is for transformers or "
            f"ctranslate2. Serve this model without one."
        )
    config = _read_config(folder)
    heads = _find(config, "num_attention_heads", "n_head")
    width = _find(config, "hidden_size", "n_embd")
    found = {
        "num_hidden_layers": _find(config, "num_hidden_layers", "n_layer"),
        "num_attention_heads": heads,
        "hidden_size": width,
    }
    if missing := [name for name, value in found.items() if value is None]:
        raise StillhouseError(
            f"{folder}/config.json lacks {', '.join(missing)}, so nobody knows what a token costs. "
            f"Make the model again with this version of Stillhouse."
        )
    layers, heads, width = (int(value or 0) for value in found.values())
    return Shape(
        layers=layers,
        heads=heads,
        kv_heads=_find(config, "num_key_value_heads") or heads,
        head_width=_find(config, "head_dim") or width // heads,
        width=width,
        feed_forward=_find(config, "intermediate_size", "n_inner") or 4 * width,
    )


def _read_config(folder: Path) -> Mapping[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StillhouseError(
            f"{path} is not readable as JSON ({type(error).__name__}). Make the model again."
        ) from None
    text = config.get("text_config")  # of a model that also reads images
    return {**config, **text} if isinstance(text, dict) else dict(config)


def _find(config: Mapping[str, Any], *names: str) -> int | None:
    """A whole number above 0 by the first name that has one; GPT-2 has names of its own."""
    values = (config.get(name) for name in names)
    return next((value for value in values if type(value) is int and value > 0), None)


def _number_bytes(folder: Path, contract: Contract) -> int:
    """Of a key or value: what the model computes in, whatever its weights are packed in."""
    dtype = (contract.quantization or {}).get("dtype")
    if dtype is None and contract.engine == "transformers":
        config = _read_config(folder)
        dtype = config.get("dtype") or config.get("torch_dtype")
    name = str(dtype or "float32").removeprefix("torch.")
    if name not in _NUMBER_BYTES:
        raise StillhouseError(
            f"{folder} computes in {name!r}; a token's cost is known for "
            f"{', '.join(sorted(_NUMBER_BYTES))}. Make the model again in one of these."
        )
    return _NUMBER_BYTES[name]


def _usable(memory: FreeMemory, keep_free_share: float) -> int:
    if not 0 <= keep_free_share < 1:
        raise StillhouseError(
            f"the share of memory kept free must be from 0 to below 1, found {keep_free_share!r}. "
            f"Correct it, for example to {KEEP_FREE_SHARE}."
        )
    return int(memory.free_bytes * (1 - keep_free_share))


def _check_one_row(folder: Path, memory: FreeMemory, usable: int, fit: int, row: int) -> None:
    if fit < row:
        raise StillhouseError(
            f"{folder} needs room for {row} tokens (longest prompt and answer), and {fit} fit into "
            f"{usable / 1e6:.0f} MB ({memory.source}: {memory.free_bytes / 1e6:.0f} MB free, the "
            f"rest is kept). Give the service more memory, or lower the model's limits."
        )


def _within(what: str, limit: int | None, least: int, most: int) -> int:
    """`limit` where a person set one, else `most`."""
    if limit is None:
        return most
    if not least <= limit <= most:
        raise StillhouseError(
            f"the limit for {what} is {limit}; from {least} to {most} fit this model and the "
            f"memory left. Correct it, or leave it out."
        )
    return limit
