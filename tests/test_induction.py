"""A planted circuit copies before any training, and costs what is not there nothing."""

import pytest
import torch

from stages._decoder import build_decoder
from stages._params import DecoderShape
from stages._tokenizer import train_tokenizer

TOKENS, HALF = 400, 24


def untrained(**shape):
    tokenizer = train_tokenizer(["a value of a slot"], 300)
    tokenizer.add_tokens([f"<{n}>" for n in range(TOKENS - len(tokenizer))])
    settings = {"layers": 2, "width": 160, "heads": 5, "kv_heads": 5, "feed_forward": 64} | shape
    return build_decoder(DecoderShape(**settings), tokenizer, seed=1).eval()


@torch.no_grad()
def copied(model):
    """Share of tokens in the second half of a repeated random sequence that are foretold."""
    torch.manual_seed(0)
    half = torch.stack([torch.randperm(TOKENS)[:HALF] for _ in range(16)])
    ids = torch.cat([half, half], dim=1)
    foretold = model(ids).logits[:, HALF:-1].argmax(-1)
    return float((foretold == ids[:, HALF + 1 :]).float().mean())


def test_an_untrained_model_copies_a_repeated_sequence():
    assert copied(untrained()) > 0.8


def test_without_the_circuit_it_copies_nothing():
    model = untrained()
    torch.nn.init.zeros_(model.model.layers[0].self_attn.o_proj.weight)
    assert copied(model) < 0.05


@pytest.mark.parametrize("shape", [{"layers": 1}, {"heads": 5, "kv_heads": 1}])
def test_a_shape_without_room_stays_random(shape):
    assert copied(untrained(**shape)) < 0.05


def test_the_first_head_looks_at_the_position_before():
    model = untrained()
    model.set_attn_implementation("eager")
    ids = torch.randint(0, TOKENS, (1, 40), generator=torch.Generator().manual_seed(3))
    weights = model(ids, output_attentions=True).attentions[0][0, 0]  # [query, key]
    before = weights.diagonal(offset=-1)
    assert float(before.min()) > 0.9
