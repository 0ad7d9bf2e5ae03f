"""Where the keys and values of past tokens are kept: the cache kinds of `Decoding.cache`.

dynamic grows with the answer, static is reserved whole at the start, quantized holds 8-bit integers
and a scale per token and head. Only the first two give the same numbers: 8 bits lose some. The
library has layers for quantized caches too, but those of 2 and 4 bits need another package, and its
FP8 layer takes one scale from the batch's prompts and clips what is larger later, so that an answer
would depend on what else is in its batch.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, StaticCache
from transformers.cache_utils import DynamicLayer

from serving._decoding import CacheKind
from serving.errors import StillhouseError

LARGEST = 127  # of a signed byte, the same on both sides of zero


def new_cache(config: Any, kind: CacheKind, tokens: int) -> Any:
    """An empty cache for sequences of up to `tokens` tokens, prompt included.

    Raises:
        StillhouseError: the model has layers of another kind than full attention.
    """
    if kind == "dynamic":
        return DynamicCache(config=config)
    if kind == "static":
        return StaticCache(config=config, max_cache_len=tokens)
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    if kinds - {DynamicLayer}:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise StillhouseError(
            f"a quantized cache needs full attention in every layer, this model has {found}. "
            f'Take cache "dynamic".'
        )
    return Cache(layer_class_to_replicate=QuantizedLayer)


class QuantizedLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # __init_subclass__
    """Keys and values as int8 [rows, heads, tokens, width] with scales [rows, heads, tokens, 1].

    The first call gives back what it was given, the later ones what 8 bits left of it.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Add the states of new tokens; returns those of all tokens in the model's dtype."""
        new = [quantize(states) for states in (key_states, value_states)]
        if not self.is_initialized:
            self.dtype, self.device = key_states.dtype, key_states.device
            (self.keys, self.key_scales), (self.values, self.value_scales) = new
            self.is_initialized = True
            return key_states, value_states
        held: Any = (self.keys, self.key_scales), (self.values, self.value_scales)
        grown = [
            [torch.cat([old, added], dim=-2) for old, added in zip(*pair, strict=True)]
            for pair in zip(held, new, strict=True)
        ]
        (self.keys, self.key_scales), (self.values, self.value_scales) = grown
        keys, values = ((numbers * scales).to(self.dtype) for numbers, scales in grown)
        return keys, values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the rows `beam_idx`, in this order."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]  # a tensor of whole numbers
        self.key_scales = self.key_scales.index_select(0, beam_idx)
        self.value_scales = self.value_scales.index_select(0, beam_idx)


def quantize(states: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes [..., width] and float32 scales [..., 1]: the largest number of a token gets 127."""
    scales = states.abs().amax(-1, keepdim=True).float() / LARGEST
    scales = scales.clamp(min=torch.finfo(torch.float32).tiny)
    return (states / scales).round().to(torch.int8), scales


def cache_bytes(cache: Any) -> int:
    """Bytes of all tensors that a cache holds, what is reserved included."""
    held = (value for layer in cache.layers for value in vars(layer).values())
    tensors = {id(v): v for v in held if isinstance(v, Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
