"""Texts as unit vectors by an ONNX model: onnxruntime, tokenizers and numpy, no torch.

The folder is a model folder of engine "embedding" (`python -m stages._embedder`): `model.onnx`
takes token ids and the mask of padding and gives unit vectors, so pooling and normalisation are in
the graph and were checked against the original with it. Texts that are close in meaning have a
cosine near 1 (Reimers and Gurevych 2019); what is near is not yet the same.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.contract import Contract, digest, read_contract
from serving.errors import StillhouseError

ENGINE = "embedding"
MODEL_NAME, TOKENIZER_NAME = "model.onnx", "tokenizer.json"
LIMITS = ("max_tokens", "max_batch", "width")

Vector = NDArray[np.float32]


class Embedder:
    """Turns texts into unit vectors; safe to use from several threads.

    Attributes:
        digest: SHA-256 of the folder's contract. Vectors of two digests never meet.
        width: Length of a vector.
    """

    def __init__(self, folder: Path) -> None:
        """Read the model, on one thread of its own.

        Raises:
            StillhouseError: not installed, no embedder in `folder`, or one that was changed.
        """
        contract = _check(folder, read_contract(folder))
        try:
            import onnxruntime
            from tokenizers import Tokenizer
        except ImportError as error:
            raise StillhouseError(
                f"the embedder needs the package {error.name}, which is not installed. Run "
                f'"pip install -e .[semantic]", or switch semantic caching off.'
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # an arena keeps the longest batch's memory for good
        self.digest, self.width = digest(folder), contract.limits["width"]
        self._most_rows = contract.limits["max_batch"]
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_NAME))
        self._tokenizer.enable_truncation(contract.limits["max_tokens"])
        self._tokenizer.no_padding()
        self._session = onnxruntime.InferenceSession(
            str(folder / MODEL_NAME), options, providers=["CPUExecutionProvider"]
        )

    def encode(self, texts: Sequence[str]) -> list[Vector]:
        """Unit vectors of shape [width], in the order of the texts.

        Texts are read up to the model's limit of tokens, as the original does, and batched with
        others of about their length.
        """
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        vectors: list[Vector] = [np.empty(0, np.float32)] * len(ids)
        for rows in _batches([len(row) for row in ids], self._most_rows):
            for row, vector in zip(rows, self._run([ids[row] for row in rows]), strict=True):
                vectors[row] = vector
        return vectors

    def _run(self, ids: Sequence[Sequence[int]]) -> Vector:
        """Vectors of one batch, shape [rows, width]; padding is token 0 under a mask of 0."""
        shape = len(ids), max(1, *(len(row) for row in ids))
        padded, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, tokens in enumerate(ids):
            padded[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        (vectors,) = self._session.run(None, {"input_ids": padded, "attention_mask": mask})
        return np.asarray(vectors, np.float32)


def _check(folder: Path, contract: Contract) -> Contract:
    missing = [name for name in LIMITS if contract.limits.get(name, 0) < 1]
    missing += [name for name in (MODEL_NAME, TOKENIZER_NAME) if name not in contract.files]
    if contract.engine != ENGINE or missing:
        raise StillhouseError(
            f"{folder} holds no embedder: engine {contract.engine!r}, missing "
            f'{", ".join(missing) or "nothing"}. Run "python -m stages._embedder {folder}".'
        )
    return contract


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Rows of each batch: at most `most`, neighbours in length, so that little is padding."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for start in range(0, len(order), most):
        yield order[start : start + most]
