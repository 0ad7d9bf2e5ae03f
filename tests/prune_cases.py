"""Small models of the kinds that can be pruned, and the shapes to prune them to."""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from stages._prune import Shape, measure_importance

KINDS = ["llama", "llama with biases", "qwen2"]
FULL = Shape(layers=3, width=32, heads=8, kv_heads=4, feed_forward=48)
SMALL = Shape(layers=2, width=24, heads=4, kv_heads=2, feed_forward=40)
HEAD = 8  # unlike width / heads, which is 4
VOCABULARY, END = 40, 7


def make_model(kind="llama", shape=FULL, **changes):
    """A random decoder in which every weight, bias and norm differs from its default."""
    config_type = Qwen2Config if kind == "qwen2" else LlamaConfig
    biases = {"attention_bias": True, "mlp_bias": True} if "biases" in kind else {}
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": shape.width,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": HEAD,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "eos_token_id": END,
    }
    torch.manual_seed(0)
    config = config_type(**{**settings, **biases, **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(mean=1.0 if "norm" in name else 0.0, std=0.2)
    return model


def tokens(rows=4, length=10, seed=1):
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def measured(model):
    return measure_importance(model, [{"input_ids": tokens(8, 12, seed)} for seed in (2, 3)])


@torch.no_grad()
def logits_of(model):
    return model(tokens()).logits
