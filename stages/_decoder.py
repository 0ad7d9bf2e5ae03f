"""A decoder of the Qwen2 type from a shape: what teachers and students from scratch start as.

Imports torch and transformers; stages import it when they run.
"""

from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from serving._prompts import true_size
from serving.errors import StillhouseError
from stages._induction import plant_induction
from stages._params import DecoderShape

ROPE_THETA = 1e6  # Qwen2's own; half of its rotary pairs turn too slowly to disturb content


def build_decoder(
    shape: DecoderShape, tokenizer: PreTrainedTokenizerFast, seed: int, attention: str = "sdpa"
) -> Any:
    """A Qwen2 (Yang et al. 2024, arXiv:2407.10671) with tied embeddings, untrained, in fp32.

    Matrices are drawn with a standard deviation of 1/sqrt(width) (LeCun et al. 1998), and what
    writes into the residual stream starts at zero, so that every layer begins as the identity
    (Zhang et al. 2019, Fixup, arXiv:1901.09321); but for an induction circuit, so that the
    model can copy from the start (stages/_induction.py).

    Raises:
        StillhouseError: heads that do not divide the width.
    """
    uneven = shape.width % shape.heads or shape.heads % shape.kv_heads
    if uneven or shape.width // shape.heads % 2:
        raise StillhouseError(
            f"width {shape.width}, heads {shape.heads}, kv_heads {shape.kv_heads}: heads must "
            f"divide the width into even parts, and kv_heads the heads. Correct the shape in "
            f"params.yaml."
        )
    library: Any = Qwen2Config  # its types leave out attn_implementation
    config = library(
        vocab_size=true_size(tokenizer),
        hidden_size=shape.width,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.positions,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=True,
        initializer_range=shape.width**-0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation=attention,
    )
    torch.manual_seed(seed)
    model: Any = Qwen2ForCausalLM(config)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    plant_induction(model)
    return model
