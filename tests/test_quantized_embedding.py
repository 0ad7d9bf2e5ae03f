"""Embeddings in 8 bits: values worked out by hand, one table for embedding and head."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_training import make

from serving._quantized_embedding import (
    Int8Embedding,
    Int8TiedHead,
    absent_weights,
    load_embeddings,
    quantize_embeddings,
    quantize_rows,
    tied_head,
)

WEIGHT = torch.tensor(
    [[1.27, -0.63, 0.004, 0.006], [0.0, 0.0, 0.0, 0.0], [-254.0, 127.0, 2.9, 1.0]]
)
CODES = [[127, -63, 0, 1], [0, 0, 0, 0], [-127, 64, 1, 0]]  # 63.5 and 0.5 go to the even side


def test_a_row_is_rounded_to_127_steps_of_its_largest_magnitude():
    codes, scales = quantize_rows(WEIGHT, torch.float32)
    assert codes.dtype == torch.int8
    assert codes.tolist() == CODES
    assert scales.tolist() == pytest.approx([0.01, 0.0, 2.0])


def test_codes_are_rounded_to_the_scales_as_they_are_kept():
    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(1))
    codes, scales = quantize_rows(weight, torch.bfloat16)  # scales with 8 bits of precision
    error = (codes.float() * scales.float()[:, None] - weight).abs()
    # half a step, and for the row's largest what the coarse scale cuts off of 127 steps
    assert (error <= 0.5 * scales.float()[:, None] * 1.0001).float().mean() > 0.98
    assert (error <= 1.01 * scales.float()[:, None]).all()


def test_fewer_levels_make_larger_steps():
    codes, scales = quantize_rows(WEIGHT[:1], torch.float32, largest=64)
    assert codes.tolist() == [[64, -32, 0, 0]]
    assert scales.tolist() == pytest.approx([1.27 / 64])


def test_an_embedding_gives_rows_and_a_tied_head_multiplies_by_them():
    embedding = Int8Embedding.of(WEIGHT, torch.float32)
    rows = torch.tensor(CODES) * torch.tensor([[0.01], [0.0], [2.0]])
    torch.testing.assert_close(embedding(torch.tensor([[2, 0]])), rows[[2, 0]][None])
    hidden = torch.tensor([[1.0, 2.0, 0.0, -1.0]])
    torch.testing.assert_close(Int8TiedHead(embedding)(hidden), hidden @ rows.T)
    with_bias = Int8TiedHead(embedding, torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(with_bias(hidden), hidden @ rows.T + torch.tensor([[1.0, 2.0, 3.0]]))


def test_a_head_in_float16_does_not_overflow():
    embedding = Int8Embedding.of(torch.full((2, 1024), 0.01), torch.float16)
    logits = Int8TiedHead(embedding)(torch.ones(1, 1024, dtype=torch.float16))
    torch.testing.assert_close(logits.float(), torch.full((1, 2), 10.24), rtol=2e-3, atol=0.0)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_with_a_packed_table_computes_what_its_rounded_table_would(kind):
    model, plain = make(kind).eval(), make(kind).eval()
    ids = torch.tensor([[5, 9, 40]])
    with torch.no_grad():
        for part in plain.modules():
            if isinstance(part, torch.nn.Embedding):
                part.weight.copy_(Int8Embedding.of(part.weight, torch.float32).table())
        names = quantize_embeddings(model, torch.float32)
        torch.testing.assert_close(model(ids).logits, plain(ids).logits)
    assert names == {"llama": ["model.embed_tokens"]}.get(
        kind, ["transformer.wte", "transformer.wpe"]
    )
    assert not any("lm_head" in name for name in model.state_dict())


def test_a_head_of_its_own_is_left_alone():
    model = make("llama", tie_word_embeddings=False)
    head = model.lm_head
    assert tied_head(model) is None
    assert absent_weights(model) == {"model.embed_tokens.weight"}
    quantize_embeddings(model, torch.float32)
    assert model.lm_head is head


def test_tables_are_read_from_the_folder_and_checked(tmp_path):
    model = make("llama")
    assert absent_weights(model) == {"model.embed_tokens.weight", "lm_head.weight"}
    codes, scales = quantize_rows(model.model.embed_tokens.weight, torch.float32)
    tensors = {"model.embed_tokens.codes": codes, "model.embed_tokens.scales": scales}
    save_file(tensors, tmp_path / "model.safetensors")
    load_embeddings(model, tmp_path, torch.device("cpu"), torch.float32)
    assert torch.equal(model.model.embed_tokens.codes, codes)
    assert load_file(tmp_path / "model.safetensors").keys() == tensors.keys()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda codes, scales: {}, "has no codes and scales"),
        (lambda codes, scales: {"codes": codes[:5], "scales": scales}, r"has codes \(5, 32\)"),
        (lambda codes, scales: {"codes": codes.float(), "scales": scales}, "of type torch.float32"),
    ],
    ids=["absent", "shape", "type"],
)
def test_a_wrong_table_is_told(tmp_path, change, said):
    model = make("llama")
    tensors = change(*quantize_rows(model.model.embed_tokens.weight, torch.float32))
    named = {f"model.embed_tokens.{name}": tensor for name, tensor in tensors.items()}
    save_file(named, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=said):
        load_embeddings(model, tmp_path, torch.device("cpu"), torch.float32)
