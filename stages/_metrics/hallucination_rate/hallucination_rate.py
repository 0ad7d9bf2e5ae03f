"""Hallucination rate as a Hugging Face `evaluate` module: claims that the prompt does not support.

    evaluate.load("stages/_metrics/hallucination_rate").compute(
        predictions=["The Eagle has 5 rooms."], references=["Tell me about The Eagle."])

`references` are the prompts (with their context, if any), not answers: no slot schema is needed.
"""

from collections import Counter
from typing import Any

import datasets
import evaluate

from serving.grounding import KINDS, check_grounding
from stages._scores import bootstrap_weights, corpus_score, grounding_statistics

FEATURES = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}


class HallucinationRate(evaluate.Metric):
    """Share of answers with an unsupported claim, with a bootstrap interval over prompts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(__doc__),
            citation="",
            inputs_description="predictions: one answer per prompt; references: the prompts",
            features=datasets.Features(FEATURES),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> dict[str, Any]:
        pairs = zip(predictions, references, strict=True)
        checks = [check_grounding(answer, source) for answer, source in pairs]
        weights = bootstrap_weights(len(checks), resamples, seed)
        found = Counter(claim.kind for check in checks for claim in check.unsupported)
        return {
            **{
                name: corpus_score(statistics, weights, confidence).to_dict()
                for name, statistics in grounding_statistics(checks).items()
            },
            "unsupported_claims": {kind: found[kind] for kind in KINDS},
        }
