"""A model quantized by bitsandbytes is written and read again without a difference, Conv1D too."""

import json
import shutil
import sys
from dataclasses import replace

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import write_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from serving._transformers_model import keep_odd_layers_as_stored, load_model
from serving.completion import Request
from serving.contract import read_contract
from serving.errors import StillhouseError
from serving.predictor import load
from serving.transformers_engine import TransformersPredictor
from stages._bitsandbytes import dtype_of, embeddings_in_int8, quantize_model, save
from stages._coverage import measure_coverage, weight_bytes
from stages._params.quantize import Variant

CPU = torch.device("cpu")
IDS = torch.tensor([[5, 90, 41, 200], [7, 7, 8, 260]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: write_model(root / kind, kind) for kind in ("qwen2", "llama", "gpt2")}


def plain(folder):
    return load_model(folder, read_contract(folder), CPU)[0]


def contract_of(folder, variant):
    quantization = {"dtype": str(dtype_of(variant)).removeprefix("torch.")}
    if embeddings_in_int8(variant):
        quantization["embeddings"] = "int8"
    return replace(read_contract(folder), quantization=quantization)


def written(folder, target, **settings):
    """Quantize and save; gives the model in memory and the variant."""
    variant = Variant(**settings)
    model = quantize_model(plain(folder), variant)
    save(model, target)
    return model, variant


@torch.no_grad()
def logits(model):
    return model(IDS).logits


SETTINGS = [
    {"scheme": "int8"},
    {"scheme": "int8", "outlier_threshold": 0.5, "compute_dtype": "float16"},
    {"scheme": "nf4"},
    {"scheme": "nf4", "embeddings": "keep"},
    {"scheme": "fp4", "block_size": 32, "double_quantization": True},
    {"scheme": "nf4", "compute_dtype": "bfloat16"},
    {"scheme": "bf16"},
    {"scheme": "fp16"},
]


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_what_is_read_computes_what_was_written(folders, tmp_path, kind, settings):
    model, variant = written(folders[kind], tmp_path / "out", **settings)
    again, ends = load_model(tmp_path / "out", contract_of(folders[kind], variant), CPU)
    found = logits(again)
    assert found.dtype == dtype_of(variant)
    assert torch.equal(found, logits(model))
    assert ends == load_model(folders[kind], read_contract(folders[kind]), CPU)[1]


def test_8_bits_stay_near_the_model_and_4_bits_less_near(folders):
    expected = logits(plain(folders["llama"])).log_softmax(-1)
    errors = []
    for scheme in ("fp16", "int8", "nf4"):
        model = quantize_model(plain(folders["llama"]), Variant(scheme=scheme))
        errors.append(float((logits(model).float().log_softmax(-1) - expected).abs().mean()))
    assert errors[0] < 0.01 < errors[1] < 0.1 < errors[2] < 1.0


@pytest.mark.parametrize("scheme", ["int8", "nf4"])
def test_every_layer_of_gpt2_is_packed_though_it_is_a_conv1d(folders, tmp_path, scheme):
    model, _ = written(folders["gpt2"], tmp_path / "out", scheme=scheme)
    kind = bitsandbytes.nn.Linear8bitLt if scheme == "int8" else bitsandbytes.nn.Linear4bit
    assert sum(isinstance(part, kind) for part in model.modules()) == 2 * 4
    found = measure_coverage(tmp_path / "out", scheme)
    assert found.parameters == sum(w.numel() for w in plain(folders["gpt2"]).parameters())
    assert all(".ln_" in name or name.endswith(".bias") for name in found.skipped)


def test_a_head_of_its_own_is_packed_as_a_layer(folders, tmp_path):
    config = Qwen2Config.from_pretrained(folders["qwen2"], tie_word_embeddings=False)
    torch.manual_seed(0)
    model = quantize_model(Qwen2ForCausalLM(config).eval(), Variant(scheme="nf4"))
    save(model, tmp_path / "out")
    assert "lm_head.weight" in load_file(tmp_path / "out/model.safetensors")
    assert measure_coverage(tmp_path / "out", "nf4").share > 0.98
    quantization = {"dtype": "float32", "embeddings": "int8"}
    contract = replace(read_contract(folders["qwen2"]), quantization=quantization)
    assert torch.equal(logits(load_model(tmp_path / "out", contract, CPU)[0]), logits(model))


def layer_of_4_bits(inputs, outputs):
    layer = bitsandbytes.nn.Linear4bit(inputs, outputs, bias=False, quant_type="nf4").to("cpu")
    layer.support_avx512bf16_for_cpu = True  # as on a processor that has it
    return layer.eval()


@pytest.mark.parametrize(("inputs", "outputs", "packs"), [(64, 32, 1), (96, 64, 0), (64, 48, 0)])
def test_a_layer_that_cannot_be_packed_for_avx512_stays_as_stored(inputs, outputs, packs):
    layer = layer_of_4_bits(inputs, outputs)
    keep_odd_layers_as_stored(torch.nn.Sequential(layer))
    assert layer.support_avx512bf16_for_cpu == bool(packs)
    if not packs:  # the library's own packing fails on this shape
        with pytest.raises((AssertionError, RuntimeError)):
            layer_of_4_bits(inputs, outputs)(torch.ones(1, inputs))
        assert layer(torch.ones(1, inputs)).isfinite().all()


@pytest.mark.parametrize(("scheme", "most"), [("int8", 0.30), ("nf4", 0.20), ("bf16", 0.51)])
def test_the_default_student_is_as_small_as_it_should_be(tmp_path, scheme, most):
    config = Qwen2Config(  # of params.yaml
        vocab_size=1536,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=2,
    )
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(tmp_path / "student")
    save(quantize_model(model, Variant(scheme=scheme)), tmp_path / "small")
    assert weight_bytes(tmp_path / "small") <= most * weight_bytes(tmp_path / "student")


def test_a_batch_of_an_int8_model_equals_single_answers(folders, tmp_path):
    _, variant = written(folders["llama"], tmp_path / "out", scheme="int8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folders["llama"] / name, tmp_path / "out" / name)
    contract = contract_of(folders["llama"], variant)
    predictor = TransformersPredictor(tmp_path / "out", contract, "cpu")
    requests = [Request(text) for text in ("fish", "The Mill serves curry", "dogs[yes]")]
    batch = predictor.answer(requests)
    assert [c.text for c in batch] == [predictor.answer([r])[0].text for r in requests]


def test_a_folder_without_its_packed_embedding_is_told_in_one_line(folders, tmp_path):
    _, variant = written(folders["qwen2"], tmp_path / "out", scheme="int8")
    path = tmp_path / "out/model.safetensors"
    tensors = load_file(path)
    del tensors["model.embed_tokens.scales"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(StillhouseError, match="embed_tokens has no codes and scales") as caught:
        load_model(tmp_path / "out", contract_of(folders["qwen2"], variant), CPU)
    assert "\n" not in str(caught.value)


def test_a_contract_that_hides_the_packed_embedding_is_refused(folders, tmp_path):
    _, variant = written(folders["qwen2"], tmp_path / "out", scheme="int8")
    contract = replace(contract_of(folders["qwen2"], variant), quantization={"dtype": "float32"})
    with pytest.raises(StillhouseError, match=r"lacks 2 weights .*lm_head"):
        load_model(tmp_path / "out", contract, CPU)


def test_the_configuration_names_what_is_not_packed(folders, tmp_path):
    written(folders["qwen2"], tmp_path / "out", scheme="nf4", double_quantization=True)
    found = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    assert found["quant_method"] == "bitsandbytes"
    assert found["llm_int8_skip_modules"] == ["lm_head"]
    assert (found["bnb_4bit_quant_type"], found["bnb_4bit_use_double_quant"]) == ("nf4", True)


@pytest.mark.parametrize("library", ["torch", "bitsandbytes"])
def test_a_library_that_is_not_installed_is_named(tmp_path, monkeypatch, library):
    folder = write_model(tmp_path / "int8", quantization={"scheme": "int8"})
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(StillhouseError, match=f"not installed here: {library}. Run") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("engine", ["transformers", "speculative"])
def test_cuda_where_there_is_none_is_refused_and_not_replaced(tmp_path, engine):
    folder = write_model(tmp_path / "model", engine=engine)
    with pytest.raises(StillhouseError, match="torch finds no CUDA device here") as caught:
        load(folder, device="cuda")
    assert "\n" not in str(caught.value)
