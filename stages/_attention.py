"""Attention in float32 where a CPU multiplies matrices in bfloat16.

torch's flash kernel for CPUs takes 4 to 8 times as long backward in bfloat16 as in float32 (torch
2.13; docs/log.md), which eats what autocast saves on the large products.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward


def keep_attention_in_float32() -> None:
    """From now on transformers' "sdpa" computes in float32 under autocast on a CPU."""
    AttentionInterface.register("sdpa", _attend)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """As `sdpa_attention_forward`; [B, heads, L, D] each, the answer [B, L, heads, D]."""
    if query.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return sdpa_attention_forward(module, query, key, value, mask, **settings)
    with torch.autocast("cpu", enabled=False):
        wide = query.float(), key.float(), value.float()
        return sdpa_attention_forward(module, *wide, mask, **settings)
