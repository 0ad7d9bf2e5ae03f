"""Exact match as a Hugging Face `evaluate` module: equal to any reference, case and space folded.

    evaluate.load("stages/_metrics/exact_match").compute(predictions=[...], references=[[...], ...])

Scores come from stages._scores; the signature is in the result, and no network is needed.
"""

from typing import Any

import datasets
import evaluate

from stages._scores import bootstrap_weights, corpus_score, exact_match_statistics

FEATURES = {
    "predictions": datasets.Value("string"),
    "references": datasets.Sequence(datasets.Value("string")),
}


class ExactMatch(evaluate.Metric):
    """Share of exact matches, 0 to 1, with a bootstrap interval over prompts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(__doc__),
            citation="",
            inputs_description="predictions: one answer per prompt; references: a list per prompt",
            features=datasets.Features(FEATURES),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]],
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> dict[str, Any]:
        statistics = exact_match_statistics(predictions, references)
        weights = bootstrap_weights(len(predictions), resamples, seed)
        return corpus_score(statistics, weights, confidence).to_dict()
