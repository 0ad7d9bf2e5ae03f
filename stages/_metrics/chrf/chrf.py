"""chrF2 as a Hugging Face `evaluate` module: case kept, best reference per prompt, interval.

    evaluate.load("stages/_metrics/chrf").compute(predictions=[...], references=[[...], ...])

Scores come from stages._scores; the signature is in the result, and no network is needed.
"""

from typing import Any

import datasets
import evaluate

from stages._scores import bootstrap_weights, chrf_statistics, corpus_score

FEATURES = {
    "predictions": datasets.Value("string"),
    "references": datasets.Sequence(datasets.Value("string")),
}


class Chrf(evaluate.Metric):
    """Corpus chrF2, 0 to 100, with a bootstrap interval over prompts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(__doc__),
            citation="Popović 2015; Post 2018",
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
        statistics = chrf_statistics(predictions, references)
        weights = bootstrap_weights(len(predictions), resamples, seed)
        return corpus_score(statistics, weights, confidence).to_dict()
