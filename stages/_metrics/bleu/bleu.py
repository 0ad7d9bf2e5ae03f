"""BLEU as a Hugging Face `evaluate` module: lower-cased, 13a, any number of references, interval.

    evaluate.load("stages/_metrics/bleu").compute(predictions=[...], references=[[...], ...])

Scores come from stages._scores; unlike the hub's module it takes prompts with different numbers of
references, reports its signature, and needs no network.
"""

from typing import Any

import datasets
import evaluate

from stages._scores import bleu_statistics, bootstrap_weights, corpus_score

FEATURES = {
    "predictions": datasets.Value("string"),
    "references": datasets.Sequence(datasets.Value("string")),
}


class Bleu(evaluate.Metric):
    """Corpus BLEU, 0 to 100, with a bootstrap interval over prompts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(__doc__),
            citation="Papineni et al. 2002; Post 2018",
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
        statistics = bleu_statistics(predictions, references)
        weights = bootstrap_weights(len(predictions), resamples, seed)
        return corpus_score(statistics, weights, confidence).to_dict()
