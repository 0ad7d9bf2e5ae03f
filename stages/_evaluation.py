"""What one candidate's answers are worth: scores, slices, findings per prompt, paired comparisons.

Headline scores go through our Hugging Face `evaluate` modules (stages/_metrics/); slices and paired
differences use the statistics behind them, resampled with the same prompts for every candidate.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.grounding import Grounding, check_grounding, join_source
from serving.slots import SlotCheck, SlotSchema, check_answer, render_record
from stages._likelihood import likelihood_statistics
from stages._params import Evaluate
from stages._scores import (
    Rows,
    Statistics,
    bleu_statistics,
    bootstrap_weights,
    chrf_statistics,
    corpus_score,
    exact_match_statistics,
    grounding_statistics,
    load_metric,
    mean_statistics,
    paired_difference,
    per_prompt,
    slot_statistics,
)
from stages._sentences import Encoder
from stages._similarity import similarity_statistics

MIN_SLICE = 20  # prompts; an interval over fewer says nothing
LOGPROBS = ("mean_logprob", "min_logprob")  # how sure a decoder was; the baseline has a confidence

Example = dict[str, Any]


@dataclass(frozen=True)
class Scored:
    """One candidate's answers with the statistics of every metric, in the order of the prompts."""

    answers: list[Example]
    checks: list[SlotCheck] | None
    statistics: dict[str, Statistics]
    groundings: list[Grounding] | None = None


def score(
    settings: Evaluate,
    examples: Sequence[Example],
    answers: list[Example],
    schema: SlotSchema | None,
    encoder: Encoder | None = None,
) -> Scored:
    """Compute the statistics of every metric that applies to one candidate."""
    texts = [answer["text"] for answer in answers]
    references = [example.get("references") or [] for example in examples]
    statistics: dict[str, Statistics] = {}
    if "bleu" in settings.metrics:
        statistics["bleu"] = bleu_statistics(texts, references)
    if "chrf" in settings.metrics:
        statistics["chrf"] = chrf_statistics(texts, references)
    if "exact_match" in settings.metrics:
        statistics["exact_match"] = exact_match_statistics(texts, references)
    checks = None
    if "slot_error_rate" in settings.metrics and schema is not None:
        pairs = zip(texts, examples, strict=True)
        checks = [check_answer(text, example["slots"], schema) for text, example in pairs]
        statistics |= slot_statistics(checks)
    if encoder is not None:
        limit = settings.similarity.references
        statistics["semantic_similarity"] = similarity_statistics(texts, references, encoder, limit)
    groundings = None
    if "hallucination_rate" in settings.metrics:
        groundings = [
            check_grounding(text, example["prompt"], example.get("context"))
            for text, example in zip(texts, examples, strict=True)
        ]
        statistics |= grounding_statistics(groundings)
    if "perplexity" in settings.metrics and has_likelihood(answers):
        statistics |= likelihood_statistics(*likelihoods(answers, references))
    tokens = [float(answer["completion_tokens"]) for answer in answers]
    statistics["tokens_per_answer"] = mean_statistics(tokens, "tokens of the candidate's engine")
    return Scored(answers, checks, statistics, groundings)


def has_likelihood(answers: Sequence[Example]) -> bool:
    """Whether the candidate could say how likely it finds the reference of every prompt."""
    return all("reference_tokens" in answer for answer in answers)


def likelihoods(
    answers: Sequence[Example], references: Sequence[Sequence[str]]
) -> tuple[list[float], list[int], list[str], str]:
    """Log-probabilities [nats], tokens and texts of the first references, and the tokenizer."""
    return (
        [answer["reference_logprob_nats"] for answer in answers],
        [answer["reference_tokens"] for answer in answers],
        [texts[0] for texts in references],
        "+".join(sorted({answer["tokenizer_sha256"] for answer in answers})),
    )


def headline(
    settings: Evaluate,
    examples: Sequence[Example],
    result: Scored,
    schema: dict[str, Any] | None,
    seed: int,
) -> dict[str, Any]:
    """Corpus scores through the Hugging Face `evaluate` modules, each with its interval."""
    options = {"resamples": settings.resamples, "confidence": settings.confidence, "seed": seed}
    texts = [answer["text"] for answer in result.answers]
    scores = _against_references(settings, examples, result, options)
    if result.checks is not None:
        records = [render_record(example["slots"]) for example in examples]
        metric = load_metric("slot_error_rate")
        scores |= metric.compute(predictions=texts, references=records, schema=schema, **options)
    if result.groundings is not None:
        sources = [join_source(example["prompt"], example.get("context")) for example in examples]
        metric = load_metric("hallucination_rate")
        scores |= metric.compute(predictions=texts, references=sources, **options)
    weights = bootstrap_weights(len(examples), settings.resamples, seed)
    tokens = result.statistics["tokens_per_answer"]
    scores["tokens_per_answer"] = corpus_score(tokens, weights, settings.confidence).to_dict()
    if result.checks is not None:
        unknown = Counter(slot for check in result.checks for slot in check.unknown)
        scores["unknown_slots"] = dict(sorted(unknown.items()))  # asked, but not in the schema
    return scores


def _against_references(
    settings: Evaluate, examples: Sequence[Example], result: Scored, options: dict[str, Any]
) -> dict[str, Any]:
    """The scores that compare answers, or a model's probabilities, with what people wrote."""
    texts = [answer["text"] for answer in result.answers]
    references = [example.get("references") or [] for example in examples]
    scores: dict[str, Any] = {}
    for name in ("bleu", "chrf", "exact_match"):
        if name in result.statistics:
            metric = load_metric(name)
            scores[name] = metric.compute(predictions=texts, references=references, **options)
    if "semantic_similarity" in result.statistics:
        chosen = settings.similarity
        scores["semantic_similarity"] = load_metric("semantic_similarity").compute(
            predictions=texts,
            references=references,
            model=chosen.model,
            revision=chosen.revision,
            limit=chosen.references,
            **options,
        )
    if "perplexity" in result.statistics:
        logprobs, counts, firsts, tokenizer = likelihoods(result.answers, references)
        scores |= load_metric("perplexity").compute(
            predictions=logprobs, references=firsts, tokens=counts, tokenizer=tokenizer, **options
        )
    return scores


def slices(
    settings: Evaluate, examples: Sequence[Example], result: Scored, seed: int
) -> dict[str, Any]:
    """The same metrics on parts of the test split: by number of slots, prompt length and window.

    `window_none` is what was there before any window; without windows there is no such slice.
    """
    parts: dict[str, list[int]] = {}
    lengths = np.asarray([len(example["prompt"].split()) for example in examples])
    lower, upper = np.quantile(lengths, [1 / 3, 2 / 3])
    windows = any("window" in example for example in examples)
    for number, example in enumerate(examples):
        size = "short" if lengths[number] <= lower else "long" if lengths[number] > upper else "mid"
        parts.setdefault(f"length_{size}", []).append(number)
        if "slots" in example:
            parts.setdefault(f"slots_{len(example['slots']):02d}", []).append(number)
        if windows:
            parts.setdefault(f"window_{example.get('window', 'none')}", []).append(number)
    return {
        name: {"examples": len(rows), **_slice_scores(settings, result, rows, seed)}
        for name, rows in sorted(parts.items())
        if len(rows) >= MIN_SLICE
    }


def _slice_scores(
    settings: Evaluate, result: Scored, rows: list[int], seed: int
) -> dict[str, dict[str, Any]]:
    weights = bootstrap_weights(len(rows), settings.resamples, seed)
    parts = {
        name: Statistics(value.rows[rows], value.combine, value.signature)
        for name, value in result.statistics.items()
    }
    return {
        name: corpus_score(part, weights, settings.confidence).to_dict()
        for name, part in parts.items()
    }


def compare(settings: Evaluate, scored: dict[str, Scored], weights: Rows) -> dict[str, Any]:
    """Paired differences of every candidate to the reference candidate, same prompts resampled."""
    reference = scored[settings.reference].statistics
    return {
        name: {
            metric: paired_difference(
                statistics, reference[metric], weights, settings.confidence
            ).to_dict()
            for metric, statistics in result.statistics.items()
            if metric != "tokens_per_answer" and _comparable(statistics, reference.get(metric))
        }
        for name, result in scored.items()
        if name != settings.reference
    }


def _comparable(ours: Statistics, theirs: Statistics | None) -> bool:
    """Whether both have the metric, scored alike: perplexities of two tokenizers are not."""
    return theirs is not None and ours.signature == theirs.signature


def per_prompt_rows(examples: Sequence[Example], result: Scored) -> list[Example]:
    """A line per prompt: what was asked, what came, what it is worth."""
    scores = {name: per_prompt(value) for name, value in result.statistics.items()}
    return [
        {
            "id": example["id"],
            "prompt": example["prompt"],
            **({"slots": example["slots"]} if example.get("slots") else {}),
            **({"window": example["window"]} if example.get("window") else {}),
            "output": result.answers[number]["text"],
            "references": example.get("references") or [],
            "confidence": result.answers[number].get("confidence"),
            **{name: result.answers[number].get(name) for name in LOGPROBS},
            "scores": {name: values[number] for name, values in scores.items()},
            **_slot_findings(result.checks, number),
            **_unsupported(result, number),
        }
        for number, example in enumerate(examples)
    ]


def _slot_findings(checks: list[SlotCheck] | None, number: int) -> dict[str, Any]:
    if checks is None:
        return {}
    check = checks[number]
    kinds = {"missing": check.missing, "added": check.added, "wrong": check.wrong}
    found = {
        kind: [{"slot": f.slot, "expected": f.expected, "found": f.found} for f in findings]
        for kind, findings in kinds.items()
        if findings
    }
    return {"slot_findings": found}


def _unsupported(result: Scored, number: int) -> dict[str, Any]:
    if result.groundings is None or not result.groundings[number].unsupported:
        return {}
    text = result.answers[number]["text"]
    found = result.groundings[number].unsupported
    return {"unsupported": [{"kind": c.kind, "found": text[c.start : c.end]} for c in found]}
