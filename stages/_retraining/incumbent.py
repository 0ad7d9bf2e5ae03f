"""The model that serves, beside those that could take its place: models/incumbent.

It answers and is measured like every candidate, on the same prompts, so that select can compare
pair by pair. It is a copy: the pipeline writes the next student over the folder that it came from.
"""

import shutil
from pathlib import Path

from serving.contract import digest, read_contract
from serving.errors import StillhouseError
from stages import _io
from stages._releases import read_current
from stages._restoring import describe_place

CURRENT = Path("releases/current.json")
INCUMBENT = Path("models/incumbent")


def place_incumbent(root: Path) -> str:
    """Copy the CPU winner in force to models/incumbent, unless it is there; returns its digest.

    Raises:
        StillhouseError: nothing was released yet, or the model is not in its folder, with the
            command that gets it.
    """
    record = read_current(root / CURRENT)
    winner = record["winners"]["cpu"] if record else None
    if record is None or winner is None:
        raise StillhouseError(
            "Nothing was released, so there is no model to retrain against. Run: make release"
        )
    sha256, target = winner["model_sha256"], root / INCUMBENT
    if holds(target, sha256):
        return sha256
    source = root / winner["folder"]
    if not holds(source, sha256):
        facts = record["candidates"].get(winner["candidate"], {})
        model = {**facts, "folder": winner["folder"], "model_sha256": sha256}
        raise StillhouseError(". ".join(describe_place(root, model, record["git"])) + ".")
    with _io.writing_folder(target) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        read_contract(folder)
    return sha256


def holds(folder: Path, sha256: str) -> bool:
    """Whether a folder holds the model with this digest, every file of it."""
    try:
        read_contract(folder)
    except StillhouseError:
        return False
    return digest(folder) == sha256
