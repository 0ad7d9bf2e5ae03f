"""A vector for each text, each text once; the vectors of the same texts are kept between runs.

A kept file is named by the encoder and by all texts, so another model's vectors, or those of other
texts, are never read. All or none: a vector's last bits depend on the batch it was encoded in.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Vectors = Mapping[str, NDArray[np.float32]]
"""Unit vector of each text, shape [width]."""
Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to unit vectors, shape [texts, width]."""


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
    except Exception:  # numpy raises whatever the parser of its header does
        return None
    whole = found.ndim == 2 and len(found) == rows and found.dtype == np.float32
    return found if whole and bool(np.isfinite(found).all()) else None


def _write(path: Path, vectors: NDArray[np.float32]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            np.save(stream, vectors, allow_pickle=False)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
