"""What a candidate keeps of the unquantized student, from what evaluate wrote. Pure.

Statistics are rebuilt from the line per prompt, outputs, references and slot findings, so that
every gate can be computed again without a model; a corpus score that comes out otherwise than in
the headline is refused. Pairs are prompts: both sides are resampled together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving.errors import StillhouseError
from stages._gates import Gate, absent, at_least, at_most, itself, no_rise, widened_for_rare_errors
from stages._params.select import Gates
from stages._scores import (
    Rows,
    Score,
    Statistics,
    bleu_statistics,
    corpus_score,
    mean_statistics,
    paired_difference,
    paired_ratio,
)

Line = Mapping[str, Any]
SLOT_METRICS = ("slot_error_rate", "missing", "added", "wrong")
MEAN_METRICS = ("semantic_similarity", "hallucination_rate")  # a score per prompt, or none


@dataclass(frozen=True)
class Measured:
    """One candidate's evaluation: its report, its lines and their statistics by metric."""

    name: str
    report: Mapping[str, Any]
    lines: Sequence[Line]
    statistics: Mapping[str, Statistics]


@dataclass(frozen=True)
class Bootstrap:
    """How prompts are resampled: the same draws for every candidate, shape [resamples, prompts]."""

    weights: Rows
    confidence: float


def measure(name: str, report: Mapping[str, Any], lines: Sequence[Line]) -> Measured:
    """Rebuild the statistics of every metric that a gate reads and the report has.

    Raises:
        StillhouseError: the lines give other scores than the report, so they do not belong
            together.
    """
    statistics: dict[str, Statistics] = {}
    if "bleu" in report:
        outputs, references = [[line[key] for line in lines] for key in ("output", "references")]
        statistics["bleu"] = bleu_statistics(outputs, references)
    if "slot_error_rate" in report:
        statistics |= _slot_statistics(report, lines)
    for metric in MEAN_METRICS:
        values = [line["scores"].get(metric) for line in lines]
        if metric in report and None not in values:
            statistics[metric] = mean_statistics(values, str(report[metric]["signature"]))
    _check_headline(name, report, statistics)
    for metric in statistics.keys() & set(MEAN_METRICS):  # vectors of two backends never meet
        signature = f"{report[metric]['signature']}|{report[metric].get('backend')}"
        statistics[metric] = replace(statistics[metric], signature=signature)
    return Measured(name, report, lines, statistics)


def _slot_statistics(report: Mapping[str, Any], lines: Sequence[Line]) -> dict[str, Statistics]:
    """Errors and slots of every prompt; slots that the schema does not know are not counted."""
    unknown = set(report.get("unknown_slots", {}))
    slots = [max(len(set(line.get("slots", {})) - unknown), 1) for line in lines]
    found = {
        kind: np.asarray([len(line["slot_findings"].get(kind, [])) for line in lines], np.float64)
        for kind in ("missing", "added", "wrong")
    }
    found["slot_error_rate"] = sum(found.values(), np.zeros(len(lines)))
    return {
        kind: Statistics(
            np.stack([errors, np.asarray(slots, np.float64)], axis=1),
            _rate,
            str(report[kind]["signature"]),
        )
        for kind, errors in found.items()
    }


def _rate(sums: Rows) -> Rows:
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1.0))


def _check_headline(
    name: str, report: Mapping[str, Any], statistics: Mapping[str, Statistics]
) -> None:
    wrong = []
    for metric, value in statistics.items():
        score, told = float(value.combine(value.rows.sum(axis=0))), report[metric]["score"]
        if not math.isclose(score, told, rel_tol=1e-6, abs_tol=1e-9):
            wrong.append(f"{metric} {told:.6g} where its lines give {score:.6g}")
        if report[metric]["signature"] != value.signature:
            wrong.append(f"{metric} signed {report[metric]['signature']}, not {value.signature}")
    if wrong:
        raise StillhouseError(
            f"The evaluation of {name} does not fit its lines: {'; '.join(wrong)}. "
            f'Run "dvc repro evaluate" to score it again.'
        )


def check_pairs(reference: Measured, other: Measured) -> None:
    """Both must be about the same prompts with the same references, in the same order.

    Raises:
        StillhouseError: they are not.
    """
    asked = [[(line["id"], line["references"]) for line in m.lines] for m in (reference, other)]
    if asked[0] != asked[1]:
        raise StillhouseError(
            f"{other.name} was evaluated on other prompts ({len(other.lines)}) than "
            f"{reference.name} ({len(reference.lines)}). "
            f'Run "dvc repro evaluate" to score all on the same test split.'
        )


def quality_gates(
    gates: Gates, reference: Measured, candidate: Measured, bootstrap: Bootstrap
) -> list[Gate]:
    """Every gate on quality that is on and applies, in the order of params.yaml."""
    outcomes = [
        _bleu_gate(gates, reference, candidate, bootstrap),
        _rise_gate(gates, "slot_error_rate", reference, candidate, bootstrap),
        _rise_gate(gates, "wrong", reference, candidate, bootstrap),
        _similarity_gate(gates, reference, candidate, bootstrap),
        _rise_gate(gates, "hallucination_rate", reference, candidate, bootstrap),
        _absolute_gate(gates, candidate, bootstrap),
    ]
    return [gate for gate in outcomes if gate is not None]


def applies(metric: str, *sides: Measured) -> bool:
    """Whether a metric is owed: what is measured of anyone, slots where prompts have records,
    hallucinations where they have none."""
    if any(metric in side.report for side in sides) or metric == "bleu":
        return True
    records = any(line.get("slots") for side in sides for line in side.lines)
    return records if metric in SLOT_METRICS else metric == "hallucination_rate" and not records


def bleu_ratio(reference: Measured, candidate: Measured, bootstrap: Bootstrap) -> Score | None:
    """BLEU over the reference's, paired; None where it is not measured, or the reference has 0."""
    ours, theirs = candidate.statistics.get("bleu"), reference.statistics.get("bleu")
    if ours is None or theirs is None or not theirs.combine(theirs.rows.sum(axis=0)) > 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):  # some resample may have 0
        ratio = paired_ratio(ours, theirs, bootstrap.weights, bootstrap.confidence)
    return ratio if math.isfinite(ratio.low) and math.isfinite(ratio.high) else None


def rise(
    metric: str, reference: Measured, candidate: Measured, bootstrap: Bootstrap
) -> Score | None:
    """A metric less the reference's, paired; None where one of them lacks it."""
    ours, theirs = candidate.statistics.get(metric), reference.statistics.get(metric)
    if ours is None or theirs is None:
        return None
    score = paired_difference(ours, theirs, bootstrap.weights, bootstrap.confidence)
    if metric == "semantic_similarity":
        return score
    return widened_for_rare_errors(score, ours, theirs, bootstrap.confidence)


def _bleu_gate(
    gates: Gates, reference: Measured, candidate: Measured, bootstrap: Bootstrap
) -> Gate | None:
    threshold = gates.bleu_ratio
    if threshold is None:
        return None
    if candidate.name == reference.name:
        return itself("bleu_ratio", 1.0, threshold)
    ratio = bleu_ratio(reference, candidate, bootstrap)
    if ratio is None:
        return absent("bleu_ratio", threshold, "no BLEU, or the reference's is 0")
    prompts = len(candidate.lines)
    return at_least("bleu_ratio", ratio, threshold, prompts, gates.min_prompts, "the ratio")


def _rise_gate(
    gates: Gates, metric: str, reference: Measured, candidate: Measured, bootstrap: Bootstrap
) -> Gate | None:
    name = f"{metric}_rise"
    threshold: float | None = getattr(gates, name)
    if threshold is None or not applies(metric, reference, candidate):
        return None
    if candidate.name == reference.name:
        return itself(name, 0.0, threshold)
    score = rise(metric, reference, candidate, bootstrap)
    if score is None:
        return absent(name, threshold, f"{metric} was not measured of both")
    prompts = len(candidate.lines)
    if metric == "wrong":
        return no_rise(name, score, threshold, prompts, gates.min_prompts)
    return at_most(name, score, threshold, prompts, gates.min_prompts, "the rise")


def _similarity_gate(
    gates: Gates, reference: Measured, candidate: Measured, bootstrap: Bootstrap
) -> Gate | None:
    name, metric = "semantic_similarity_fall", "semantic_similarity"
    threshold = gates.semantic_similarity_fall
    if threshold is None or not applies(metric, reference, candidate):
        return None
    if candidate.name == reference.name:
        return itself(name, 0.0, threshold)
    score = rise(metric, reference, candidate, bootstrap)
    if score is None:
        return absent(name, threshold, "similarity was not measured of both")
    fall = Score(-score.score, -score.high, -score.low, score.signature)
    return at_most(name, fall, threshold, len(candidate.lines), gates.min_prompts, "the fall")


def _absolute_gate(gates: Gates, candidate: Measured, bootstrap: Bootstrap) -> Gate | None:
    name, threshold = "slot_error_rate", gates.slot_error_rate
    if threshold is None or not applies(name, candidate):
        return None
    ours = candidate.statistics.get(name)
    if ours is None:
        return absent(name, threshold, "slot errors were not measured")
    score = corpus_score(ours, bootstrap.weights, bootstrap.confidence)
    nothing = Statistics(ours.rows * [0.0, 1.0], ours.combine, ours.signature)
    score = widened_for_rare_errors(score, ours, nothing, bootstrap.confidence)
    return at_most(name, score, threshold, len(candidate.lines), gates.min_prompts, "the rate")


def retention(reference: Measured, candidate: Measured, bootstrap: Bootstrap) -> dict[str, Any]:
    """What is left of the reference: the ratio of BLEU, and how far errors rose, paired."""
    ratio = bleu_ratio(reference, candidate, bootstrap)
    kept: dict[str, Any] = {"bleu_ratio": ratio.to_dict() if ratio else None}
    for metric in (*SLOT_METRICS, *MEAN_METRICS):
        if score := rise(metric, reference, candidate, bootstrap):
            kept[f"{metric}_delta"] = score.to_dict()
    return kept
