"""The random decoder that models from scratch start as: an identity, tied, seeded, well-shaped."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from serving.errors import StillhouseError
from stages._decoder import build_decoder
from stages._params import DecoderShape
from stages._tokenizer import train_tokenizer

SHAPE = DecoderShape(layers=3, width=64, heads=4, kv_heads=2, feed_forward=96, positions=48)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["service[checkout-api], value[1.8 s]"], 280)


@pytest.fixture
def build(tokenizer):
    return lambda seed=0, **changes: build_decoder(
        SHAPE.model_copy(update=changes), tokenizer, seed
    ).eval()


def tokens(rows=2, length=12):
    return torch.randint(270, (rows, length), generator=torch.Generator().manual_seed(1))


def test_every_layer_starts_as_the_identity(build):
    model = build()
    with torch.no_grad():
        states = model(tokens(), output_hidden_states=True).hidden_states
    assert len(states) == SHAPE.layers + 1
    for state in states[:-1]:  # the last one is after the final norm
        assert torch.equal(state, model.get_input_embeddings()(tokens()))


def test_what_starts_at_zero_learns_from_the_first_step(build):
    model = build()
    model(tokens(), labels=tokens()).loss.backward()
    for layer in model.model.layers:
        for written in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
            assert not written.any()
            assert written.grad.norm() > 0


def test_matrices_are_drawn_by_the_width(build):
    for width in (64, 256):
        model = build(width=width)
        first = model.model.layers[0]
        for weight in (model.get_input_embeddings().weight, first.mlp.up_proj.weight):
            assert float(weight.detach().std()) == pytest.approx(width**-0.5, rel=0.05)


def test_embeddings_are_one_matrix_for_input_and_output(build, tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    for found in (model, AutoModelForCausalLM.from_pretrained(tmp_path)):
        assert found.get_input_embeddings().weight is found.get_output_embeddings().weight
        with torch.no_grad():
            assert torch.equal(found(tokens()).logits, model(tokens()).logits)


def test_weights_depend_on_the_seed_alone(build):
    first = build(seed=1).state_dict()
    torch.manual_seed(99)
    again, other = build(seed=1).state_dict(), build(seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(first[name], other[name])


def test_the_shape_is_the_one_asked_for(build, tokenizer):
    model = build()
    attention = model.model.layers[0].self_attn
    assert len(model.model.layers) == SHAPE.layers
    assert attention.q_proj.weight.shape == (64, 64)
    assert attention.k_proj.weight.shape == (32, 64)
    assert model.model.layers[0].mlp.up_proj.weight.shape == (96, 64)
    assert model.get_input_embeddings().weight.shape == (len(tokenizer), 64)
    assert model.config.max_position_embeddings == SHAPE.positions
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_answers_end_with_the_tokenizers_end_token(build, tokenizer):
    config = build().config
    assert config.eos_token_id == tokenizer.eos_token_id
    assert config.pad_token_id == tokenizer.pad_token_id
    assert config.bos_token_id is None


@pytest.mark.parametrize(
    "wrong", [{"heads": 5}, {"kv_heads": 3}, {"heads": 2, "kv_heads": 4}], ids=str
)
def test_heads_that_do_not_divide_are_refused(build, wrong):
    with pytest.raises(StillhouseError, match="heads must divide the width") as caught:
        build(**wrong)
    for name, value in wrong.items():
        assert f"{name} {value}" in str(caught.value)
    assert "params.yaml" in str(caught.value)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_asked_for_is_used(tokenizer, attention):
    model = build_decoder(SHAPE, tokenizer, 0, attention)
    assert model.config._attn_implementation == attention
