"""Perplexity as a Hugging Face `evaluate` module, from log-probabilities that a model gave.

    evaluate.load("stages/_metrics/perplexity").compute(
        predictions=[-12.3, ...], tokens=[9, ...], references=["The Eagle is a pub.", ...],
        tokenizer="<SHA-256 of tokenizer.json>")

Unlike the hub's module it loads no model: `predictions` are the log-probabilities [nats] of the
`references`, `tokens` their lengths, end token included in both. Bits per character come with it.
"""

from typing import Any

import datasets
import evaluate

from stages._likelihood import likelihood_statistics
from stages._scores import bootstrap_weights, corpus_score

FEATURES = {
    "predictions": datasets.Value("float64"),
    "tokens": datasets.Value("int64"),
    "references": datasets.Value("string"),
}


class Perplexity(evaluate.Metric):
    """Perplexity per token and bits per character, with bootstrap intervals over prompts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(__doc__),
            citation="Jelinek et al. 1977",
            inputs_description="predictions: log-probabilities; tokens; references: one text each",
            features=datasets.Features(FEATURES),
        )

    def _compute(
        self,
        predictions: list[float],
        tokens: list[int],
        references: list[str],
        tokenizer: str,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> dict[str, Any]:
        scored = likelihood_statistics(predictions, tokens, references, tokenizer)
        weights = bootstrap_weights(len(predictions), resamples, seed)
        return {
            name: corpus_score(statistics, weights, confidence).to_dict()
            for name, statistics in scored.items()
        }
