"""Attention under bfloat16 autocast on a CPU: computed in float32, as transformers computes it."""

import pytest
import torch
from tiny_training import SETTINGS, run
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from stages import _attention, _optimizers, _training
from stages._attention import keep_attention_in_float32


@pytest.fixture
def attend():
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    keep_attention_in_float32()
    yield ALL_ATTENTION_FUNCTIONS["sdpa"]
    ALL_ATTENTION_FUNCTIONS.register("sdpa", before)


class Layer:
    is_causal = True
    num_key_value_groups = 1
    training = False


def drawn(dtype):
    """Query, key and value of two rows, three heads, seven tokens, eight channels."""
    parts = torch.randn(3, 2, 3, 7, 8, generator=torch.Generator().manual_seed(0))
    return [part.to(dtype).requires_grad_() for part in parts]


def test_under_autocast_outputs_and_gradients_are_those_of_float32(attend):
    narrow, wide = drawn(torch.bfloat16), [part.detach().float() for part in drawn(torch.bfloat16)]
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = attend(Layer(), *narrow, None)
    wide = [part.requires_grad_() for part in wide]
    expected, _ = sdpa_attention_forward(Layer(), *wide, None)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    for part, reference in zip(narrow, wide, strict=True):
        assert torch.equal(part.grad, reference.grad.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_autocast_nothing_changes(attend, dtype):
    parts = drawn(dtype)
    found, _ = attend(Layer(), *parts, None)
    assert found.dtype == dtype
    assert torch.equal(found, sdpa_attention_forward(Layer(), *parts, None)[0])


@pytest.mark.parametrize(
    ("precision", "seen"), [("bf16", {torch.bfloat16}), ("fp32", {torch.float32})]
)
def test_training_takes_it_and_gives_muon_the_same_precision(
    tmp_path, monkeypatch, attend, precision, seen
):
    inside, iterated = set(), set()

    def spy(module, query, key, value, mask, **settings):
        inside.add((query.dtype, torch.is_autocast_enabled("cpu")))
        return sdpa_attention_forward(module, query, key, value, mask, **settings)

    class Spy(_optimizers.Muon):
        def __init__(self, *given, **settings):
            super().__init__(*given, **settings)
            iterated.add(self.dtype)

    monkeypatch.setattr(_attention, "sdpa_attention_forward", spy)
    monkeypatch.setattr(_optimizers, "Muon", Spy)
    asked = []
    monkeypatch.setattr(_training, "keep_attention_in_float32", lambda: asked.append(precision))
    run(tmp_path, SETTINGS.model_copy(update={"precision": precision, "optimizer": "muon"}))
    assert inside == {(torch.float32, False)}, "in float32 either way, outside autocast"
    assert iterated == seen
    assert asked == (["bf16"] if precision == "bf16" else [])
