"""Baseline: the traditional model that the LLM must beat, retrieval with a calibrated confidence.

Reads   data/prepared/train.jsonl, validation.jsonl and slots.json
Writes  models/baseline/ (index, answers, confidence model, contract),
        reports/baseline/validation.json (scores on validation, which classifier won and why),
        reports/baseline/reliability.csv (how often an answer is good at each confidence)
Run     python -m stages.baseline

The confidence model learns from training prompts that are answered without themselves: is the
answer good (no slot error, enough chrF)? It is calibrated on validation, which has as many
references as the prompts it will meet; logistic regression and random forest are compared there by
the Brier score of cross-fitted probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving._retrieval import Index, build_index, save_index
from serving.baseline import Candidate, confidence_features, find_candidates
from serving.completion import Request
from serving.contract import Contract, write_contract
from serving.errors import StillhouseError
from serving.slots import SlotSchema, check_answer
from stages import _io
from stages._confidence import (
    KINDS,
    Rows,
    brier_score,
    calibrate,
    cross_calibrated,
    reliability,
    train_model,
)
from stages._params import Params, params_hash
from stages._scores import (
    bleu_statistics,
    bootstrap_weights,
    chrf_statistics,
    corpus_score,
    per_prompt,
    slot_statistics,
)
from stages._stage import run_stage

Example = dict[str, Any]
RESAMPLES = 1000  # of the validation intervals; evaluate's own settings must not re-run this stage
MIN_TRAIN = 10
CHUNK = 250  # prompts per task: a task's start costs about as much as ten prompts
INPUTS = {name: Path("data/prepared") / name for name in ("train.jsonl", "validation.jsonl")}
INPUTS["slots.json"] = Path("data/prepared/slots.json")
OUTPUTS = {"model": Path("models/baseline"), "reports": Path("reports/baseline")}


@dataclass(frozen=True)
class Answered:
    """Prompts with their chosen answers: features [prompts, features], good [prompts] (0 or 1)."""

    best: list[Candidate]
    features: Rows
    good: Rows


def baseline(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Fit the index and the confidence model; returns the validation metrics."""
    settings = params.baseline
    train = _io.read_jsonl(inputs["train.jsonl"])
    validation = _io.read_jsonl(inputs["validation.jsonl"])
    schema_data = _io.read_json(inputs["slots.json"])
    schema = SlotSchema.from_dict(schema_data) if schema_data else None

    if len(train) < MIN_TRAIN:
        raise StillhouseError(
            f"{inputs['train.jsonl']} has {len(train)} prompts; the baseline needs {MIN_TRAIN}, "
            f"to answer some of them by the others. Give it more data."
        )
    if schema is not None:
        train = keep_cleanest_references(train, schema, settings.jobs)
    index = build_index(train, schema, settings.max_features)
    chosen = _sample(len(train), settings.confidence_rows, params.seed)
    own_rows = [int(row) for row in chosen]
    learned = answer_all(params, index, [train[row] for row in own_rows], own_rows)
    held_out = answer_all(params, index, validation, None)
    models = {
        kind: train_model(kind, learned.features, learned.good, params.seed)
        for kind in KINDS
        if settings.classifier in ("auto", kind)
    }
    confidence = {
        kind: cross_calibrated(model.scores(held_out.features), held_out.good, params.seed)
        for kind, model in models.items()
    }
    brier = {kind: brier_score(values, held_out.good) for kind, values in confidence.items()}
    winner = min(brier, key=lambda kind: brier[kind])
    classifier = calibrate(models[winner], held_out.features, held_out.good)

    with _io.writing_folder(outputs["model"]) as folder:
        save_index(folder, index, settings.index)
        classifier.save(folder / "classifier.safetensors")
        write_contract(folder, _contract(params, schema_data, inputs["train.jsonl"]))
    metrics = _validation_scores(validation, held_out, schema is not None, params.seed)
    metrics["confidence"] = {
        "classifier": winner,
        "brier": brier,
        "good": float(held_out.good.mean()),
    }
    metrics["size_mb"] = sum(f.stat().st_size for f in outputs["model"].iterdir()) / 1e6
    _io.write_json(outputs["reports"] / "validation.json", metrics)
    path = outputs["reports"] / "reliability.csv"
    _write_reliability(path, confidence[winner], held_out.good)
    return metrics


def keep_cleanest_references(
    examples: Sequence[Example], schema: SlotSchema, jobs: int
) -> list[Example]:
    """Keep, for each prompt, the references with the fewest slot errors against its own record.

    People leave slots out and add facts (in 44 % of the E2E development references, by our
    checker); an answer that retrieval hands on should not start with an error.
    """
    from joblib import Parallel, delayed

    starts = range(0, len(examples), CHUNK)
    tasks = (delayed(_cleanest)(examples[start : start + CHUNK], schema) for start in starts)
    return [example for part in Parallel(n_jobs=jobs)(tasks) for example in part]


def _cleanest(examples: Sequence[Example], schema: SlotSchema) -> list[Example]:
    kept = []
    for example in examples:
        errors = [check_answer(t, example["slots"], schema).errors for t in example["references"]]
        pairs = zip(example["references"], errors, strict=True)
        kept.append(example | {"references": [text for text, n in pairs if n == min(errors)]})
    return kept


def answer_all(
    params: Params, index: Index, examples: Sequence[Example], leave_out: Sequence[int] | None
) -> Answered:
    """Answer prompts in parallel chunks and say which answers are good."""
    from joblib import Parallel, delayed

    starts = range(0, len(examples), CHUNK)
    tasks = [
        delayed(_answer_chunk)(
            index,
            examples[start : start + CHUNK],
            params.baseline.candidates,
            leave_out[start : start + CHUNK] if leave_out is not None else None,
        )
        for start in starts
    ]
    jobs = min(params.baseline.jobs, len(tasks))
    parts = Parallel(n_jobs=jobs)(tasks)
    best = [candidate for part in parts for candidate in part[0]]
    features = np.asarray([row for part in parts for row in part[1]])
    references = [example["references"] for example in examples]
    chrf = per_prompt(chrf_statistics([candidate.text for candidate in best], references))
    good = [
        float(score >= params.baseline.good_chrf and not (c.check and c.check.errors))
        for score, c in zip(chrf, best, strict=True)
    ]
    return Answered(best, features, np.asarray(good))


def _answer_chunk(
    index: Index, examples: Sequence[Example], candidates: int, leave_out: Sequence[int] | None
) -> tuple[list[Candidate], list[list[float]]]:
    requests = [Request(e["prompt"], e.get("slots"), e.get("context")) for e in examples]
    found = find_candidates(index, requests, candidates, leave_out)
    pairs = zip(requests, found, strict=True)
    return [c[0] for c in found], [confidence_features(index, r, c) for r, c in pairs]


def _sample(rows: int, count: int, seed: int) -> NDArray[np.int64]:
    generator = np.random.default_rng(seed)
    return np.sort(generator.choice(rows, size=min(rows, count), replace=False))


def _contract(params: Params, schema: dict[str, Any] | None, train: Path) -> Contract:
    return Contract(
        engine="baseline",
        prompt_template="{prompt}",
        slot_schema=schema,
        limits={"max_prompt_chars": params.baseline.max_prompt_chars},
        decoding={"candidates": params.baseline.candidates},
        params_hash=params_hash(params, "baseline"),
        data_hash=_io.sha256_file(train),
    )


def _validation_scores(
    validation: Sequence[Example], answered: Answered, with_slots: bool, seed: int
) -> dict[str, Any]:
    weights = bootstrap_weights(len(validation), RESAMPLES, seed)
    answers = [candidate.text for candidate in answered.best]
    references = [example["references"] for example in validation]
    statistics = {
        "bleu": bleu_statistics(answers, references),
        "chrf": chrf_statistics(answers, references),
    }
    if with_slots:
        statistics |= slot_statistics([c.check for c in answered.best if c.check is not None])
    scores = {
        name: corpus_score(value, weights, confidence=0.95).to_dict()
        for name, value in statistics.items()
    }
    return {"examples": len(validation), **scores}


def _write_reliability(path: Path, confidence: Rows, good: Rows) -> None:
    bins = reliability(confidence, good)
    rows = [f"{mean:.4f},{share:.4f},{mean:.4f},{count}" for mean, share, count in bins]
    _io.write_text(path, "\n".join(["confidence,share_good,ideal,prompts", *rows]) + "\n")


def main() -> None:
    """Run the stage on the project's own files."""
    run_stage(baseline, __doc__, INPUTS, OUTPUTS)


if __name__ == "__main__":
    main()
