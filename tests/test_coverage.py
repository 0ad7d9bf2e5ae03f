"""Coverage is counted in the tensors of a folder, and too little of it is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from serving.errors import StillhouseError
from stages._coverage import measure_coverage, require_coverage, weight_bytes


def packed(shape, kind="nf4"):
    """The tensors of a layer in 4 bits, as bitsandbytes names them."""
    count = shape[0] * shape[1]
    state = json.dumps({"quant_type": kind, "shape": shape}).encode()
    return {
        "a.weight": torch.zeros(count // 2, 1, dtype=torch.uint8),
        "a.weight.absmax": torch.zeros(count // 64),
        "a.weight.quant_map": torch.zeros(16),
        f"a.weight.quant_state.bitsandbytes__{kind}": torch.tensor(list(state), dtype=torch.uint8),
    }


def test_packed_weights_count_as_the_numbers_that_they_hold(tmp_path):
    tensors = packed((16, 64)) | {"norm.weight": torch.ones(24), "a.bias": torch.zeros(16)}
    save_file(tensors, tmp_path / "model.safetensors")
    found = measure_coverage(tmp_path, "nf4")
    assert (found.parameters, found.low) == (1024 + 24 + 16, 1024)
    assert found.skipped == {"norm": 24, "a.bias": 16}
    state = tensors["a.weight.quant_state.bitsandbytes__nf4"].numel()
    assert found.low_bytes == 512
    assert found.tensor_bytes == 512 + 16 * 4 + 16 * 4 + state + (24 + 16) * 4


def test_8_bit_weights_need_their_scales_to_count(tmp_path):
    codes = torch.zeros(8, 4, dtype=torch.int8)
    tensors = {
        "a.weight": codes,
        "a.SCB": torch.ones(8),
        "a.weight_format": torch.tensor(0, dtype=torch.uint8),
        "b.codes": codes.clone(),
        "b.scales": torch.ones(8),
        "c.weight": codes.clone(),
        "d.scales": torch.ones(3),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    found = measure_coverage(tmp_path, "int8")
    assert found.low == 64
    assert found.skipped == {"c": 32, "d.scales": 3}
    assert found.to_dict()["skipped"] == ["c", "d.scales"]


def test_16_bits_count_for_16_bit_schemes_alone(tmp_path):
    tensors = {"a.weight": torch.zeros(30, dtype=torch.bfloat16), "b.weight": torch.zeros(10)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert measure_coverage(tmp_path, "bf16").share == 0.75
    assert measure_coverage(tmp_path, "int8").share == 0.0
    with pytest.raises(StillhouseError, match="no weights to count"):
        measure_coverage(tmp_path / "elsewhere", "bf16")


def test_too_little_is_refused_with_the_largest_that_was_left():
    skipped = {"small": 1, "large": 5000, "head": 400, "other": 20}
    require_coverage(0.95, 0.95, skipped, "x")
    with pytest.raises(StillhouseError) as caught:
        require_coverage(0.9, 0.95, skipped, "x")
    said = str(caught.value)
    assert "90.0%" in said and "95.0%" in said
    assert "large (5,000), head (400), other (20)." in said and "small" not in said


def test_weight_files_count_as_they_lie_on_disk(tmp_path):
    for name, size in (("a.safetensors", 10), ("b.safetensors", 5), ("tokenizer.json", 100)):
        (tmp_path / name).write_bytes(bytes(size))
    assert weight_bytes(tmp_path) == 15
    (tmp_path / "model.bin").write_bytes(bytes(7))
    assert weight_bytes(tmp_path) == 22
