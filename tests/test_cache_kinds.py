"""Kinds of key and value cache: the same answers where no number changes, and what 8 bits keep."""

from dataclasses import replace

import pytest
import torch
from tiny_models import tiny_config, write_model
from transformers import MistralConfig

from serving._cache import QuantizedLayer, cache_bytes, new_cache, quantize
from serving._decoding import Decoding
from serving.completion import Request
from serving.contract import read_contract
from serving.errors import StillhouseError
from serving.transformers_engine import TransformersPredictor

EARLY_ENDS = frozenset(range(2, 300, 12))  # so many that answers end at different steps
TEXTS = ["fish", "name[The Eagle], food[fish]", "dogs", "The Mill serves {curry}…", "eu-west-1 1.8"]
REQUESTS = [Request(text) for text in TEXTS]
METHODS = {
    "greedy": {},
    "beam": {"method": "beam", "beams": 3},
    "sample": {"method": "sample", "seed": 3},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: write_model(root / kind, kind) for kind in ("llama", "gpt2")}


def predictor_of(folder, **decoding):
    contract = read_contract(folder)
    settings = {**contract.decoding, **decoding}
    predictor = TransformersPredictor(folder, replace(contract, decoding=settings), device="cpu")
    predictor.ends = EARLY_ENDS
    return predictor


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("method", METHODS)
def test_a_static_cache_changes_no_token(folders, kind, method):
    count = 1 if method == "greedy" else 3
    found = [
        predictor_of(folders[kind], cache=cache, **METHODS[method]).answer_many(REQUESTS, count)
        for cache in ("dynamic", "static")
    ]
    texts = [[[a.text for a in many] for many in answers] for answers in found]
    assert texts[0] == texts[1]
    assert len({a.completion_tokens for many in found[0] for a in many}) > 1, "rows leave early"


@pytest.mark.parametrize("method", METHODS)
def test_a_quantized_cache_gives_the_same_answer_in_any_batch(folders, method):
    predictor = predictor_of(folders["llama"], cache="quantized", **METHODS[method])
    batch = [answer.text for answer in predictor.answer(REQUESTS)]
    assert batch == [predictor.answer([request])[0].text for request in REQUESTS]
    assert len(set(batch)) > 2


def test_a_quantized_cache_hardly_changes_how_likely_tokens_are(folders):
    exact = predictor_of(folders["gpt2"]).answer(REQUESTS)
    rounded = predictor_of(folders["gpt2"], cache="quantized").answer(REQUESTS)
    pairs = [(a, b) for a, b in zip(exact, rounded, strict=True) if a.text == b.text]
    assert len(pairs) >= 3, "most answers of a few tokens stay"
    differences = [abs(a.mean_logprob - b.mean_logprob) for a, b in pairs]
    assert 0 < max(differences) < 0.05


def test_eight_bits_are_worked_out_by_hand():
    numbers, scales = quantize(torch.tensor([[[[2.54, -1.27, 0.0], [0.0, 0.0, 0.0]]]]))
    assert numbers.tolist() == [[[[127, -64, 0], [0, 0, 0]]]]  # -63.5 to the even neighbour
    assert scales[0, 0, 0].item() == pytest.approx(0.02)
    assert numbers.dtype == torch.int8


def test_past_states_come_back_rounded_and_new_ones_are_added():
    layer, states = QuantizedLayer(), torch.randn(2, 1, 3, 8)
    first, _ = layer.update(states, -states)
    keys, values = layer.update(states[:, :, :1] * 9, states[:, :, :1])
    assert torch.equal(first, states)
    assert keys.shape == (2, 1, 4, 8)
    torch.testing.assert_close(keys[:, :, :3], states, rtol=0.0, atol=0.02)
    torch.testing.assert_close(keys[:, :, 3:], states[:, :, :1] * 9, rtol=0.0, atol=0.2)
    assert torch.equal(values[:, :, :3], -keys[:, :, :3])
    layer.reorder_cache(torch.tensor([1]))
    assert torch.equal(layer.update(states[1:, :, :1], states[1:, :, :1])[0][:, :, :4], keys[1:])


def test_a_cache_s_bytes_are_those_of_its_numbers():
    config = tiny_config("llama")  # 2 layers, 2 key heads of 8 numbers
    sizes = {}
    for kind in ("dynamic", "static", "quantized"):
        cache = new_cache(config, kind, 40)
        for layer in range(2):
            cache.update(torch.randn(3, 2, 10, 8), torch.randn(3, 2, 10, 8), layer)
        sizes[kind] = cache_bytes(cache)
    numbers = 2 * 2 * 3 * 2 * 10 * 8
    assert sizes["dynamic"] == numbers * 4
    assert sizes["quantized"] == numbers + numbers // 8 * 4
    assert sizes["static"] >= numbers * 4 * 4


def test_other_attention_than_full_has_no_quantized_cache():
    config = MistralConfig(num_hidden_layers=1, sliding_window=16)
    with pytest.raises(StillhouseError, match=r"full attention in every layer.*Sliding"):
        new_cache(config, "quantized", 40)


def test_an_unknown_cache_is_told():
    with pytest.raises(StillhouseError, match="cache must be one of dynamic, static, quantized"):
        Decoding.from_dict({"max_new_tokens": 5, "cache": "paged"})
