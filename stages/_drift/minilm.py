"""MiniLM as an ONNX embedder, made once from its package, so that the drift stage needs no torch.

To load torch and sentence-transformers takes longer than to encode 400 prompts does. So both are
loaded in a process of their own, once for each version of the weights, and what they made is kept.
"""

import subprocess
import sys
from pathlib import Path

from serving.contract import CONTRACT_NAME
from serving.errors import StillhouseError
from stages import _embedder
from stages._io import sha256_file
from stages._sentences import PACKAGE
from stages._stage import print_line

WEIGHTS = "model.safetensors"
ROOT = Path(__file__).parent.parent.parent


def make_embedder(model: Path, kept: Path) -> Path:
    """The folder of the ONNX embedder that gives the vectors of the package's model.

    Args:
        model: the package's folder, with the weights.
        kept: where embedders stay, each in a folder named by the hash of its weights.

    Raises:
        StillhouseError: what makes it is not installed, or it gives other vectors.
    """
    from filelock import FileLock

    folder = kept / sha256_file(model / WEIGHTS)[:32]
    kept.mkdir(parents=True, exist_ok=True)
    with FileLock(kept / f".{folder.name}.lock"):  # it takes half a minute: nobody makes it twice
        if not (folder / CONTRACT_NAME).is_file():
            print_line(f"{PACKAGE} becomes an ONNX file in {folder}, this once")
            _export(folder.absolute())
    return folder


def _export(folder: Path) -> None:
    command = [sys.executable, "-m", _embedder.__name__, str(folder), "--source", PACKAGE]
    done = subprocess.run(  # noqa: S603 - our own words
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise StillhouseError(f"{PACKAGE} gives no ONNX file: {said[-1]}")
