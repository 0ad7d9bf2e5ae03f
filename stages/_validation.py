"""A model judged on validation prompts while it trains: it answers, and the answers are scored.

Loss alone picks the wrong checkpoint where the task is text: what counts is what greedy decoding
writes. Answers come from the predictor that production ships, around the model in memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from serving._prompts import PromptEncoder
from serving.completion import Request
from serving.contract import Contract
from serving.slots import SlotSchema, check_answer
from serving.transformers_engine import TransformersPredictor
from stages._losses import Objective, distillation_loss
from stages._scores import (
    bleu_statistics,
    bootstrap_weights,
    chrf_statistics,
    corpus_score,
    slot_statistics,
)
from stages._sequences import TrainingSequence, collate
from stages._training import head_of

RESAMPLES = 1000  # of the intervals in stages' reports; evaluate has settings of its own
ROWS = 64  # sequences per forward pass of the validation loss


@dataclass(frozen=True)
class Validator:
    """Scores a model on a part of the validation split."""

    examples: Sequence[dict[str, Any]]
    sequences: Sequence[TrainingSequence]
    """The examples' references, for the loss."""
    prompts: PromptEncoder
    contract: Contract
    vocabulary: int

    def __call__(self, model: Any) -> dict[str, float]:
        """BLEU (0..100), slot error rate (0..1), loss [nats per token] and what selects.

        The best model has the highest BLEU less slot errors in percent; both matter and a point of
        either is about as hard to win. Decoding is greedy, whatever the contract says.
        """
        greedy = {"max_new_tokens": self.contract.decoding["max_new_tokens"]}
        contract = replace(self.contract, decoding=greedy)
        named = model.config.eos_token_id
        ends = frozenset(named if isinstance(named, list) else [named])
        predictor = TransformersPredictor.around(model, ends, self.prompts, contract)
        requests = [Request(e["prompt"], e.get("slots"), e.get("context")) for e in self.examples]
        texts = [completion.text for completion in predictor.answer(requests)]
        found = {"loss_nats": self.loss(model), **score_texts(texts, self.examples, contract)}
        return {**found, "selection": found["bleu"] - 100.0 * found.get("slot_error_rate", 0.0)}

    @torch.no_grad()
    def loss(self, model: Any) -> float:
        """Cross-entropy of the references [nats per token]."""
        total, count = 0.0, 0
        ordered = sorted(self.sequences, key=len)
        for start in range(0, len(ordered), ROWS):
            batch = collate(ordered[start : start + ROWS], 1).to(model.device)
            causal = model.get_base_model() if hasattr(model, "peft_config") else model
            body = getattr(causal, causal.base_model_prefix)
            hidden = body(input_ids=batch.ids, use_cache=False).last_hidden_state
            loss = distillation_loss(
                hidden,
                head_of(causal),
                batch.labels,
                None,
                Objective(alpha=0.0),
                tokens=1,
                true_vocab=self.vocabulary,
            )
            total += float(loss.ce_sum)
            count += int(loss.count)
        return total / max(count, 1)


def score_texts(
    texts: Sequence[str], examples: Sequence[dict[str, Any]], contract: Contract
) -> dict[str, float]:
    """BLEU and, where there is a schema, slot error rate of one answer per example."""
    bleu = bleu_statistics(texts, [example["references"] for example in examples])
    found = {"bleu": float(bleu.combine(bleu.rows.sum(axis=0)))}
    if contract.slot_schema:
        schema = SlotSchema.from_dict(contract.slot_schema)
        pairs = zip(texts, examples, strict=True)
        checks = [check_answer(text, e["slots"], schema) for text, e in pairs if e.get("slots")]
        rate = slot_statistics(checks)["slot_error_rate"]
        found["slot_error_rate"] = float(rate.combine(rate.rows.sum(axis=0)))
    return found


def validation_scores(
    texts: Sequence[str], examples: Sequence[dict[str, Any]], schema: SlotSchema | None, seed: int
) -> dict[str, Any]:
    """Scores of the validation split with their intervals, for a stage's report."""
    references = [example["references"] for example in examples]
    statistics = {
        "bleu": bleu_statistics(texts, references),
        "chrf": chrf_statistics(texts, references),
    }
    if schema is not None:
        pairs = zip(texts, examples, strict=True)
        statistics |= slot_statistics([check_answer(t, e["slots"], schema) for t, e in pairs])
    weights = bootstrap_weights(len(examples), RESAMPLES, seed)
    scores = {
        name: corpus_score(value, weights, confidence=0.95).to_dict()
        for name, value in statistics.items()
    }
    return {"examples": len(examples), **scores}
