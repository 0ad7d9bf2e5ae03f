"""A model whose matrices are split over two processes answers as it does on one.

Teachers too large for one device are loaded so by transformers (Shoeybi et al. 2019, Megatron-LM).
Nothing of ours is in between; this holds the library to what we would rely on.
"""

import os

import pytest
import torch
from tiny_models import write_model
from tiny_training import join_processes
from transformers import AutoModelForCausalLM

IDS = torch.tensor([[5, 9, 40, 7, 200], [17, 3, 3, 90, 12]])


def forward(folder):
    """One process's half of the model; the first one writes the logits and what it holds."""
    from safetensors.torch import save_file
    from torch.distributed.tensor import DTensor
    from transformers.distributed import DistributedConfig

    torch.set_num_threads(1)
    parallel = DistributedConfig(tp_plan="auto")
    model = AutoModelForCausalLM.from_pretrained(folder, distributed_config=parallel).eval()
    weight = model.model.layers[0].mlp.down_proj.weight
    local = weight.to_local() if isinstance(weight, DTensor) else weight
    with torch.no_grad():
        logits = model(input_ids=IDS).logits
    if os.environ["RANK"] == "0":
        logits = logits.full_tensor() if isinstance(logits, DTensor) else logits
        found = {"logits": logits.contiguous(), "down_proj": local.contiguous()}
        save_file(found, folder / "found.safetensors")


@pytest.mark.slow
def test_two_processes_with_half_of_each_matrix_give_the_logits_of_one(tmp_path):
    from safetensors.torch import load_file

    folder = write_model(tmp_path / "model")
    assert join_processes(forward, 2, folder) == [0, 0]
    found = load_file(folder / "found.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
    assert torch.allclose(found["logits"], expected, atol=1e-4)
    whole = model.model.layers[0].mlp.down_proj.weight
    assert torch.equal(found["down_proj"], whole[:, : whole.shape[1] // 2])
