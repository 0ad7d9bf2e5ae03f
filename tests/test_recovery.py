"""What is lost by rounding or cutting is trained back: through the very rounding of the scheme."""

from copy import deepcopy

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant
from tiny_models import write_model
from tiny_training import VOCABULARY, make, rows
from toy import example

from serving.completion import Request
from serving.contract import read_contract
from serving.errors import StillhouseError
from stages._agreement import agreement, read_student
from stages._bitsandbytes import quantize_model
from stages._params.quantize import Pruning, Recovery, Variant
from stages._plain_student import PlainStudent
from stages._recovery import cut, recover, rounded_names, rounded_weights

LAYERS = 2
FIRST = ("Red", "Old", "Tall", "Blue", "Wild", "Calm", "Cold", "Warm", "Long", "High", "Low")
SECOND = ("Mill", "Fox", "Hare", "Inn", "Oak", "Well", "Barn", "Rook", "Crow", "Hill", "Lake")


def rounded(model, **settings):
    variant = Variant(**settings)
    return rounded_weights(model, variant, rounded_names(model, variant))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_training_sees_the_weights_as_the_scheme_will_pack_them(kind):
    model = make(kind)
    settings = {"scheme": "nf4", "block_size": 128, "double_quantization": True}
    found = rounded(model, **settings)
    packed = quantize_model(deepcopy(model), Variant(**settings))
    name = {"llama": "model.layers.0.mlp.up_proj", "gpt2": "transformer.h.0.mlp.c_fc"}[kind]
    weight = packed.get_submodule(name).weight
    there = dequantize_4bit(weight.data, weight.quant_state)
    here = found[f"{name}.weight"]
    assert torch.equal(here if kind == "llama" else here.T, there)
    table = {"llama": "model.embed_tokens", "gpt2": "transformer.wte"}[kind]
    assert torch.equal(found[f"{table}.weight"], packed.get_submodule(table).table())
    assert len(found) == {"llama": LAYERS * 7 + 1, "gpt2": LAYERS * 4 + 2}[kind]


def test_8_bits_are_rounded_as_the_library_rounds_them():
    model = make("llama")
    found = rounded(model, scheme="int8")["model.layers.1.mlp.down_proj.weight"]
    packed = quantize_model(deepcopy(model), Variant(scheme="int8"))
    weight = packed.model.layers[1].mlp.down_proj.weight
    # the library reads weights as float16 first: the next step at most, where they lie between two
    there = int8_vectorwise_dequant(weight.data, weight.SCB)
    torch.testing.assert_close(found, there, rtol=0.0, atol=1.1 * float(weight.SCB.max()) / 127)
    assert ((found - there).abs() < 1e-4).float().mean() > 0.99


def test_gradients_pass_the_rounding_unchanged():
    model = make("llama")
    name = "model.layers.0.self_attn.q_proj.weight"
    factors = torch.arange(32.0 * 32).reshape(32, 32)
    (rounded(model, scheme="nf4")[name] * factors).sum().backward()
    assert torch.equal(model.get_parameter(name).grad, factors)


def test_what_the_scheme_leaves_is_not_rounded():
    model = make("llama")
    assert rounded_names(model, Variant(scheme="bf16")) == {}
    kept = rounded_names(model, Variant(scheme="nf4", embeddings="keep"))
    assert len(kept) == LAYERS * 7
    assert not any("embed" in name or "lm_head" in name for name in kept)


def nearness(model, student, variant, sequences):
    distributions = read_student(student, sequences, VOCABULARY)
    packed = quantize_model(deepcopy(model), variant)
    return agreement(packed, distributions, sequences, VOCABULARY)["mean_kl_nats"]


def test_recovery_brings_a_variant_nearer_to_its_student():
    student, sequences = make("llama", initializer_range=0.2).eval(), rows(40)
    variant, model = Variant(scheme="nf4"), deepcopy(student)
    asked = Recovery(steps=40, batch_tokens=256, learning_rate=0.003)
    report = recover(model, student, variant, asked, sequences, VOCABULARY, seed=1)
    assert report["steps"] == 40
    assert 0 < report["last_kl_nats"] < 0.7 * report["first_kl_nats"]
    before, after = (nearness(m, student, variant, sequences) for m in (student, model))
    assert after < 0.7 * before


def test_recovery_is_repeatable_and_leaves_the_student():
    student, sequences = make("llama").eval(), rows(10)
    weights = [w.clone() for w in student.parameters()]
    reports = []
    for _ in range(2):
        asked = Recovery(steps=3, batch_tokens=128, learning_rate=0.001)
        given = (Variant(scheme="int8"), asked, sequences, VOCABULARY)
        reports.append(recover(deepcopy(student), student, *given, seed=3))
    assert reports[0] == reports[1]
    assert all(torch.equal(a, b) for a, b in zip(weights, student.parameters(), strict=True))
    assert all(w.grad is None for w in student.parameters())


def test_a_student_is_cut_to_what_is_asked_and_keeps_the_rest():
    made = cut(make("llama"), Pruning(layers=1, kv_heads=1), rows(8))
    config = made.config
    assert (config.num_hidden_layers, config.num_key_value_heads) == (1, 1)
    assert (config.num_attention_heads, config.hidden_size, config.intermediate_size) == (2, 32, 64)
    with pytest.raises(StillhouseError, match=r"layers 3 \(teacher 2\)"):
        cut(make("llama"), Pruning(layers=3), rows(8))


def test_agreement_with_oneself_is_whole():
    student, sequences = make("llama").eval(), rows(12)
    distributions = read_student(student, sequences, VOCABULARY)
    found = agreement(student, distributions, sequences, VOCABULARY)
    assert found["top1_agreement"] == 1.0
    assert found["mean_kl_nats"] == pytest.approx(0.0, abs=1e-5)
    assert found["tokens"] == sum(len(sequence.answer) for sequence in sequences)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_recovery_learns_from_made_up_values_where_it_is_asked_to(tmp_path, noise):
    names = [f"The {first} {second}" for first in FIRST for second in SECOND]
    examples = [example(name, "fish", "no") for name in names]
    write_model(tmp_path, decoding={"max_new_tokens": 4})
    student = PlainStudent.read(tmp_path, read_contract(tmp_path), [Request("fish")], "cpu")
    recovery = Recovery(steps=1, batch_tokens=100_000, value_noise=noise)
    _, report = student.changed(Variant(scheme="nf4", recovery=recovery), examples, seed=1)
    plain = [student.prompts.encode_answer(text) for e in examples for text in e["references"]]
    unchanged = report["training_tokens"] == sum(map(len, plain)) + len(plain)  # with their ends
    assert unchanged == (noise == 0.0)
