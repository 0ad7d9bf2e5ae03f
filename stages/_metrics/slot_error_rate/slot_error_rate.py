"""Slot error rate as a Hugging Face `evaluate` module: missing, added and wrong slots per slot.

    evaluate.load("stages/_metrics/slot_error_rate").compute(
        predictions=["The Eagle is a pub."], references=["name[The Eagle], eatType[pub]"],
        schema={...})  # a slot schema, as in configs/schemas/

`references` are the records asked for, not texts: the check needs no written reference.
"""

from typing import Any

import datasets
import evaluate

from serving.slots import SlotSchema, check_answer, parse_record
from stages._scores import bootstrap_weights, corpus_score, slot_statistics

FEATURES = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}


class SlotErrorRate(evaluate.Metric):
    """Errors per slot asked for, with a bootstrap interval over prompts."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(__doc__),
            citation="",
            inputs_description="predictions: one answer per record; references: the records",
            features=datasets.Features(FEATURES),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        schema: dict[str, Any],
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> dict[str, Any]:
        parsed = SlotSchema.from_dict(schema)
        pairs = zip(predictions, references, strict=True)
        checks = [check_answer(text, parse_record(record), parsed) for text, record in pairs]
        weights = bootstrap_weights(len(checks), resamples, seed)
        return {
            name: corpus_score(statistics, weights, confidence).to_dict()
            for name, statistics in slot_statistics(checks).items()
        }
