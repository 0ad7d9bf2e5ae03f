"""A converted model computes what its source computes, is counted as it is written, and what
CTranslate2 does not have is refused."""

import numpy as np
import pytest
import torch
from converted_models import write_converted, write_shape
from tiny_models import write_model
from transformers import AutoModelForCausalLM

from serving.errors import StillhouseError
from stages._ctranslate2 import LEVELS, convert, quantize_rows

ctranslate2 = pytest.importorskip("ctranslate2")

RAGGED = [[5, 6, 7, 8, 9, 10], [1, 50, 60, 70, 80, 90, 100, 110, 120, 130], [3]]
TIED = {"tie_word_embeddings": True}
UNTIED = {"tie_word_embeddings": False}


def computed(folder, texts=RAGGED, compute_type="default"):
    """Log-probabilities per text, [positions, vocabulary], all texts in one batch."""
    generator = ctranslate2.Generator(str(folder), compute_type=compute_type, intra_threads=1)
    found = np.asarray(generator.forward_batch(texts, return_log_probs=True))
    return [found[row, : len(text)] for row, text in enumerate(texts)]


@torch.inference_mode()
def expected(folder, texts=RAGGED):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return [model(torch.tensor([text])).logits[0].log_softmax(-1).numpy() for text in texts]


def difference(some, others):
    return max(float(np.abs(a - b).max()) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("qwen2", TIED),
        ("qwen2", UNTIED),
        ("llama", TIED),
        ("llama", {**UNTIED, "attention_bias": True, "mlp_bias": True}),
        ("gpt2", TIED),
        ("gpt2", UNTIED),
        ("qwen2", {"num_key_value_heads": 4, "rms_norm_eps": 1e-2}),
        ("qwen2", {"head_dim": 16}),
        ("llama", {"head_dim": 4}),
        ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
        ("qwen2", {"vocab_size": 400}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_a_converted_model_computes_what_its_source_computes(tmp_path, kind, shape):
    source = write_shape(tmp_path / "model", kind, **shape)
    convert(source, tmp_path / "converted", "float32")
    found = computed(tmp_path / "converted")
    assert difference(found, expected(source)) < 1e-4
    alone = [computed(tmp_path / "converted", [text])[0] for text in RAGGED]
    assert difference(found, alone) < 1e-4


def test_a_source_in_16_bits_is_converted_in_32(tmp_path):
    source = write_shape(tmp_path / "model", "qwen2", torch.bfloat16)
    made = convert(source, tmp_path / "converted", "float32")
    assert made["coverage"]["parameters"] == 0.0
    assert difference(computed(tmp_path / "converted"), expected(source)) < 1e-4


@pytest.mark.parametrize(
    ("kind", "shape", "said"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "log-probabilities differ by"),
        ("llama", {"hidden_act": "relu"}, "log-probabilities differ by"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rotary positions 'linear'",
        ),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
            "attention of kinds .*sliding",
        ),
    ],
)
def test_what_ctranslate2_would_compute_differently_is_refused(tmp_path, kind, shape, said):
    changed = {"layer_types": None} if kind == "qwen2" else {}
    source = write_shape(tmp_path / "model", kind, **shape, **changed)
    with pytest.raises(StillhouseError, match=said) as caught:
        convert(source, tmp_path / "converted", "float32")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize("kind", ["qwen2", "llama", "gpt2"])
def test_coverage_counts_the_parameters_that_are_written(tmp_path, kind):
    source = write_model(tmp_path / "model", kind)
    total = AutoModelForCausalLM.from_pretrained(source).num_parameters()
    made = convert(source, tmp_path / "converted", "int8")
    coverage = made["coverage"]
    assert coverage["parameters_total"] == total
    left = sum(coverage["skipped"].values())
    assert coverage["parameters"] == pytest.approx(1 - left / total)
    assert not any("linear" in name and "weight" in name for name in coverage["skipped"])
    assert "decoder/layer_*/ffn/layer_norm/gamma" in coverage["skipped"]
    assert (made["dtype"], made["embeddings"], made["levels"]) == ("int8_float32", "int8", LEVELS)
    assert made["bytes"]["before"] == 4 * total
    assert made["bytes"]["after"] == (tmp_path / "converted" / "model.bin").stat().st_size
    assert made["bytes"]["after"] < 0.36 * made["bytes"]["before"]


@pytest.mark.parametrize(
    ("compute_type", "share", "ratio"),
    [("float32", 0.0, 1.0), ("float16", 1.0, 0.5), ("bfloat16", 1.0, 0.5), ("int16", 0.99, 0.5)],
)
def test_every_compute_type_has_its_share_and_size(tmp_path, compute_type, share, ratio):
    source = write_model(tmp_path / "model", "qwen2")
    made = convert(source, tmp_path / "converted", compute_type)
    assert made["dtype"] == made["embeddings"].replace("int16", compute_type) == compute_type
    assert made["coverage"]["parameters"] == pytest.approx(share, abs=0.01)
    assert made["bytes"]["after"] == pytest.approx(ratio * made["bytes"]["before"], rel=0.05)


def test_rows_are_rounded_to_64_steps_each_with_its_own_scale():
    weight = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [0.016, 0.0, -0.032]], np.float32)
    steps, scales = quantize_rows(weight)
    assert steps.tolist() == [[32, -64, 16], [0, 0, 0], [32, 0, -64]]
    assert scales.tolist() == pytest.approx([32.0, 1.0, 2000.0])


def test_products_of_8_bits_do_not_overflow_on_this_processor(tmp_path):
    source = write_model(tmp_path / "model", "qwen2")
    convert(source, tmp_path / "converted", "int8")
    rounded = computed(tmp_path / "converted", compute_type="float32")
    found = computed(tmp_path / "converted", compute_type="int8_float32")
    errors = [np.abs(a - b).mean() for a, b in zip(rounded, found, strict=True)]
    assert np.mean(errors) < 0.1, "with 127 steps it is 0.3 where products overflow"
    assert np.mean(errors) > 0.0, "activations are rounded too"


def test_the_same_source_gives_the_same_bytes(tmp_path):
    source = write_model(tmp_path / "model", "llama")
    for name in ("once", "again"):
        write_converted(tmp_path / name, source, "int8")
    files = sorted(path.name for path in (tmp_path / "once").iterdir())
    assert {"model.bin", "config.json", "vocabulary.json", "tokenizer.json"} <= set(files)
    for name in files:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
