"""Checkpoints are whole or absent, hold no pickle, and are found by the same inputs only."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from serving.errors import StillhouseError
from stages import _checkpoint
from stages._checkpoint import scratch_folder


def tensors(seed=0):
    """Tensors of every kind that training has: matrices, vectors, a step count, half precision."""
    torch.manual_seed(seed)
    return {
        "weight.a": torch.randn(4, 3),
        "step.a": torch.tensor(7.0 + seed),
        "weight.half": torch.randn(5).bfloat16(),
        "weight.empty": torch.zeros(0, 2),
        "weight.strided": torch.randn(3, 4).T,
    }


def test_tensors_and_facts_come_back_bit_by_bit(tmp_path):
    expected, facts = tensors(), {"step": 3, "nats": 0.1 + 0.2, "curve": [{"step": 1}]}
    _checkpoint.save(tmp_path / "run", "step-3", expected, facts)
    found = {name: torch.zeros_like(value) for name, value in expected.items()}
    _checkpoint.load(tmp_path / "run" / "step-3", found)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert _checkpoint.read_facts(tmp_path / "run", "step-3") == facts


def test_a_checkpoint_is_safetensors_and_json_and_nothing_else(tmp_path):
    _checkpoint.save(tmp_path, "step-1", tensors(), {"step": 1})
    facts, weights = sorted((tmp_path / "step-1").iterdir())
    assert facts.name == "facts.json" and weights.suffix == ".safetensors"
    with safe_open(weights, "pt") as opened:
        assert set(opened.keys()) == set(tensors())


def test_facts_alone_make_a_checkpoint(tmp_path):
    assert _checkpoint.read_facts(tmp_path, "tried") is None
    _checkpoint.save(tmp_path, "tried", {}, {"loss_nats": 2.5})
    assert _checkpoint.read_facts(tmp_path, "tried") == {"loss_nats": 2.5}


def test_a_half_written_checkpoint_is_written_anew(tmp_path):
    (tmp_path / "step-1.tmp").mkdir()
    (tmp_path / "step-1.tmp" / "shard-00009-model-00001-of-00001.safetensors").write_bytes(b"half")
    _checkpoint.save(tmp_path, "step-1", tensors(1), {"step": 1})
    _checkpoint.save(tmp_path, "step-1", tensors(2), {"step": 1})
    found = tensors()
    _checkpoint.load(tmp_path / "step-1", found)
    assert found["step.a"] == 9.0 and [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_only_the_named_checkpoints_stay(tmp_path):
    for name in ("step-1", "step-2", "best-1"):
        _checkpoint.save(tmp_path, name, {}, {})
    (tmp_path / "step-3.tmp").mkdir()
    _checkpoint.keep_only(tmp_path, ["step-2", "best-1"])
    assert {path.name for path in tmp_path.iterdir()} == {"step-2", "best-1"}
    _checkpoint.remove(tmp_path)
    assert not tmp_path.exists()


FILLS_UP = """
import resource, sys, torch
from pathlib import Path
from serving.errors import StillhouseError
from stages import _checkpoint
folder = Path(sys.argv[1])
_checkpoint.save(folder, "step-1", {"w": torch.ones(9)}, {"step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
large = {"tensors": ({"w": torch.ones(5000)}, {}), "facts": ({}, {"x": "y" * 9000})}
tensors, facts = large[sys.argv[2]]
try:
    _checkpoint.save(folder, "step-2", tensors, facts)
except StillhouseError as error:
    print(error)
"""


@pytest.mark.parametrize("part", ["tensors", "facts"])
def test_a_disk_that_takes_no_more_is_one_line_and_costs_no_older_checkpoint(tmp_path, part):
    found = subprocess.run(
        [sys.executable, "-c", FILLS_UP, str(tmp_path), part],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert found.stdout == (
        f"{tmp_path} did not take checkpoint step-2 (File too large); earlier ones are safe. "
        'Make room, then run "dvc repro" to go on.\n'
    ), found.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


@pytest.mark.parametrize("damage", ["cut", "swapped"])
def test_a_damaged_checkpoint_is_one_line(tmp_path, damage):
    _checkpoint.save(tmp_path, "step-1", tensors(), {})
    file = next((tmp_path / "step-1").glob("*.safetensors"))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    wanted = {"weight.a": torch.zeros(4, 3 if damage == "cut" else 9)}
    with pytest.raises(StillhouseError, match="step-1 does not load") as error:
        _checkpoint.load(tmp_path / "step-1", wanted)
    assert "\n" not in str(error.value) and f"Delete {tmp_path}" in str(error.value)


def test_a_folder_is_found_by_the_same_inputs_and_by_no_others(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.jsonl").write_text("1")
    same = [scratch_folder("teacher", {"x": 1, "y": (2,)}, files=[data]) for _ in range(2)]
    others = [
        scratch_folder("teacher", {"x": 2, "y": (2,)}, files=[data]),
        scratch_folder("student", {"x": 1, "y": (2,)}, files=[data]),
        scratch_folder("teacher", {"x": 1, "y": (2,)}),
    ]
    (data / "a.jsonl").write_text("2")
    others.append(scratch_folder("teacher", {"x": 1, "y": (2,)}, files=[data]))
    (data / "a.jsonl").rename(data / "b.jsonl")
    others.append(scratch_folder("teacher", {"x": 1, "y": (2,)}, files=[data]))
    assert same[0] == same[1] and len({same[0], *others}) == 6
    assert same[0].parent.as_posix() == "scratch/teacher"


def test_facts_are_plain_json(tmp_path):
    _checkpoint.save(tmp_path, "step-1", {}, {"seconds": 1.5})
    assert json.loads((tmp_path / "step-1" / "facts.json").read_text()) == {"seconds": 1.5}
