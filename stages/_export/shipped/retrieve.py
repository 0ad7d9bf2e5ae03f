"""The baseline whose search and confidence are ONNX graphs; everything with words stays Python.

In ONNX: TF-IDF weights of given terms, cosine with every training prompt, the nearest ones; and
the calibrated confidence of ten numbers. In Python, our own predictor (serving/baseline.py): which
terms a prompt has, which answers of the nearest compete, the exchange of slot values, the slot
check, and the ten numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.baseline import POOL, BaselinePredictor
from serving.contract import read_contract
from serving.errors import StillhouseError

RETRIEVAL, CONFIDENCE = "baseline_retrieval", "baseline_confidence"
"""What the graphs are called in a Triton repository."""
ROWS = 16
"""Most rows of a batch, here and in every model of the repository."""

Array = NDArray[Any]
Search = Callable[[Array], tuple[Array, Array]]
"""Terms [rows, longest], "" where there are none, to similarities and places of the nearest."""
Judge = Callable[[Array], Array]
"""Features [rows, features] to probabilities [rows, 1]."""


def count_nearest(predictor: BaselinePredictor) -> int:
    """How many of the nearest training prompts the predictor asks its search for."""
    return min(max(POOL, predictor.candidates), len(predictor.index.entries))


class Terms:
    """In the vectoriser's place: texts become rows of terms, and the graph weighs them."""

    def __init__(self, vectoriser: Any) -> None:
        self.vocabulary_ = vectoriser.vocabulary_
        self.build_analyzer = vectoriser.build_analyzer
        self._prepare, self._cut = vectoriser.build_preprocessor(), vectoriser.build_tokenizer()

    def transform(self, texts: Sequence[str]) -> Array:
        """Terms of each text, [texts, longest]; the graph makes pairs of neighbours itself."""
        rows = [self._cut(self._prepare(text)) for text in texts]
        terms = np.full((len(rows), max([1, *map(len, rows)])), "", dtype=object)
        for row, words in enumerate(rows):
            terms[row, : len(words)] = words
        return terms


class Nearest:
    """In the place of scikit-learn's search."""

    def __init__(self, search: Search) -> None:
        self._search = search

    def kneighbors(self, terms: Array, count: int) -> tuple[Array, Array]:
        """Distances and places of the `count` nearest training prompts, [rows, count] each."""
        parts = [self._search(terms[at : at + ROWS]) for at in range(0, len(terms), ROWS)]
        similarities, places = (np.concatenate(part) for part in zip(*parts, strict=True))
        if similarities.shape[1] != count:
            raise StillhouseError(
                f"the retrieval graph finds {similarities.shape[1]} prompts, the predictor asks "
                f'for {count}. Run "make export" with this version.'
            )
        return 1.0 - similarities, places


class Confidence:
    """In the place of the classifier's arrays."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def probabilities(self, features: Array) -> Array:
        """Probability that each answer is good, [rows]."""
        asked = features.astype(np.float32)
        parts = [self._judge(asked[at : at + ROWS]) for at in range(0, len(asked), ROWS)]
        return np.concatenate(parts)[:, 0]


def open_baseline(folder: Path, search: Search, judge: Judge) -> BaselinePredictor:
    """The baseline of a model folder, with graphs in place of its numbers.

    Raises:
        StillhouseError: `folder` is not what its contract says.
    """
    predictor: Any = BaselinePredictor(folder, read_contract(folder))
    vectoriser = predictor.index.vectoriser
    predictor.index = replace(
        predictor.index, vectoriser=Terms(vectoriser), neighbours=Nearest(search)
    )
    predictor.classifier = Confidence(judge)
    opened: BaselinePredictor = predictor
    return opened
