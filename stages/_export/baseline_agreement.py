"""Whether the baseline's graphs find, score and judge as its predictor does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving._retrieval import retrieval_text
from serving.baseline import (
    BaselinePredictor,
    Candidate,
    confidence_features,
    find_candidates,
    request_slots,
)
from serving.completion import Request
from serving.errors import StillhouseError
from stages._export.agreement import SHOWN, Asked
from stages._export.shipped.retrieve import count_nearest

TOLERANCE = 1e-5
"""Of similarities and probabilities: float32 sums in another order differ by a few 1e-7."""

Floats = NDArray[np.float64]


def compare_baseline(
    original: BaselinePredictor, exported: BaselinePredictor, asked: Sequence[Asked]
) -> dict[str, Any]:
    """How the baseline on graphs does beside the one on scikit-learn.

    Raises:
        StillhouseError: a difference that rounding does not explain.
    """
    requests = [one.request for one in asked]
    search = compare_search(original, exported, requests)
    found = find_candidates(original.index, requests, original.candidates)
    again = find_candidates(exported.index, requests, exported.candidates)
    judged = [
        predictor.classifier.probabilities(_features(original, requests, candidates))
        for predictor, candidates in ((original, found), (exported, found), (exported, again))
    ]
    confidence, of_answers = (float(np.abs(judged[0] - other).max()) for other in judged[1:])
    pairs = list(zip(asked, found, again, strict=True))
    different = [one.id for one, old, new in pairs if old[0].text != new[0].text]
    worse = [one.id for one, old, new in pairs if not _as_good(old[0], new[0])]
    figures = {**search, "confidence_max_abs_difference": confidence}
    if worse or not all(value <= TOLERANCE for value in figures.values()):
        told = ", ".join(f"{name} {value:.2g}" for name, value in figures.items())
        raise StillhouseError(
            f"the exported baseline is another model: {told}, at most {TOLERANCE}; "
            f"{len(worse)} answers are of another similarity or have other slot errors "
            f"({', '.join(worse[:SHOWN]) or 'none'}). Nothing was written. Try another version of "
            f"onnx or onnxruntime."
        )
    return {
        "prompts": len(asked),
        **figures,
        "tolerance": TOLERANCE,
        "identical": len(asked) - len(different),
        "ties": different,
        "with_other_equals": {"confidence_max_abs_difference": of_answers},
    }


def compare_search(
    original: BaselinePredictor, exported: BaselinePredictor, requests: Sequence[Request]
) -> dict[str, float]:
    """Largest differences of similarities: of the same prompts, and of the n-th nearest ones.

    Which of equally near prompts is among the nearest is not told by either search.
    """
    schema = original.index.schema
    slots = [request_slots(request, schema) for request in requests]
    texts = [
        retrieval_text(request.prompt, record, schema, request.context)
        for request, record in zip(requests, slots, strict=True)
    ]
    index: Any = original.index
    terms: Any = exported.index.vectoriser
    search: Any = exported.index.neighbours
    count = count_nearest(original)
    vectors = index.vectoriser.transform(texts)
    distances, _ = index.neighbours.kneighbors(vectors, count)
    everything = 1.0 - _all_distances(vectors, index.neighbours._fit_X)
    further, places = search.kneighbors(terms.transform(texts), count)
    same = np.abs(np.take_along_axis(everything, places, axis=1) - (1.0 - further))
    nth = np.abs(np.sort(distances, axis=1) - np.sort(further, axis=1))
    return {
        "similarity_max_abs_difference": float(same.max()),
        "nearest_max_abs_difference": float(nth.max()),
    }


def _all_distances(vectors: Any, matrix: Any) -> Floats:
    from sklearn.metrics.pairwise import cosine_distances

    found: Floats = cosine_distances(vectors, matrix)
    return found


def _features(
    predictor: BaselinePredictor, requests: Sequence[Request], found: Sequence[list[Candidate]]
) -> Floats:
    pairs = zip(requests, found, strict=True)
    return np.asarray([confidence_features(predictor.index, r, c) for r, c in pairs])


def _as_good(one: Candidate, other: Candidate) -> bool:
    """Whether nothing but the order of equals tells two chosen answers apart."""
    errors = [candidate.check.errors if candidate.check else 0 for candidate in (one, other)]
    near = abs(one.similarity - other.similarity) <= TOLERANCE
    return one.text == other.text or (near and errors[0] == errors[1])
