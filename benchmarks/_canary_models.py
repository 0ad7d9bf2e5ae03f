"""The challengers: the champion itself, a slower engine, damaged weights; each with a route."""

import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from serving.contract import CONTRACT_NAME, digest, read_contract, write_contract
from stages import _io
from stages._ctranslate2 import convert

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Served:
    """A model as a service gets it."""

    folder: Path
    route: Path
    model_sha256: str


def with_route(folder: Path, route: Path, made: Path) -> Served:
    """A route of the model in `folder` alone, so that it is what every request meets."""
    content, sha256 = _io.read_json(route), digest(folder)
    [rung] = [rung for rung in content["rungs"] if rung["name"] == "student"]
    content["rungs"] = [rung | {"model_sha256": sha256, "threshold": None}]
    _io.write_text(made, json.dumps(content))
    return Served(folder, made, sha256)


def damage(student: Path, champion: Path, noise: float, seed: int, made: Path) -> Path:
    """The student with noise on its weights, in the champion's engine.

    Args:
        champion: a CTranslate2 folder of the student, whose contract the damaged one gets.
        noise: standard deviation of what is added, in those of each matrix.
    """
    generator = torch.Generator().manual_seed(seed)
    with tempfile.TemporaryDirectory() as temporary:
        weights = Path(temporary) / "student"
        shutil.copytree(student, weights)
        (weights / CONTRACT_NAME).unlink()
        tensors = load_file(weights / WEIGHTS)
        for name, tensor in sorted(tensors.items()):
            if tensor.dim() == 2:
                drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float32)
                tensors[name] = (tensor + noise * tensor.float().std() * drawn).to(tensor.dtype)
        save_file(tensors, weights / WEIGHTS, metadata={"format": "pt"})
        write_contract(weights, replace(read_contract(student), files={}))
        with _io.writing_folder(made) as folder:
            convert(weights, folder, "float32")
            write_contract(folder, replace(read_contract(champion), files={}))
    return made
