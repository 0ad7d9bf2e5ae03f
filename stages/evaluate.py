"""Evaluate: score every candidate's test answers, all in one run, so that comparisons are paired.

Reads   data/prepared/test.jsonl and slots.json; of every candidate that params.yaml names,
        data/answers/<candidate>.test.jsonl and .model.json
Writes  reports/evaluate/<candidate>.json (scores with interval and signature, slices),
        reports/evaluate/<candidate>.jsonl (a line per prompt: output, references, scores),
        reports/evaluate/summary.json (what `dvc metrics show` prints),
        reports/evaluate/comparison.json (paired differences to the reference candidate)
Run     python -m stages.evaluate
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages import _io
from stages._evaluation import Example, compare, headline, per_prompt_rows, score, slices
from stages._kept_vectors import encode_texts
from stages._params import Evaluate, Params
from stages._scores import bootstrap_weights
from stages._sentences import Encoder, load_encoder
from stages._similarity import compared_texts
from stages._stage import print_line, run_stage

RESERVED = {"summary", "comparison", "run"}  # files of this folder that are no candidate's
NEED_REFERENCES = ("bleu", "chrf", "exact_match", "semantic_similarity", "perplexity")
TEST = Path("data/prepared/test.jsonl")
SCHEMA = Path("data/prepared/slots.json")
ANSWERS = Path("data/answers")
REPORTS = Path("reports/evaluate")


def evaluate(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Score all candidates; returns the summary."""
    settings = params.evaluate
    examples = _io.read_jsonl(inputs["test"])
    schema_data = _io.read_json(inputs["slots"])
    schema = SlotSchema.from_dict(schema_data) if schema_data else None
    weights = bootstrap_weights(len(examples), settings.resamples, params.seed)
    names = list(params.answer.candidates)
    _check_settings(settings, names, examples, schema)

    answers = {name: _aligned(inputs["answers"] / f"{name}.test.jsonl", examples) for name in names}
    _note_too_long(settings, answers)
    encoder = _encode(settings, examples, answers.values(), outputs.get("kept"))
    scored = {
        name: score(settings, examples, rows, schema, encoder) for name, rows in answers.items()
    }
    summary = {}
    for name, result in scored.items():
        report = {
            "candidate": name,
            "examples": len(examples),
            "data": {"name": params.prepare.source, "sha256": _io.sha256_file(inputs["test"])},
            "model": _io.read_json(inputs["answers"] / f"{name}.model.json"),
            **headline(settings, examples, result, schema_data, params.seed),
            "slices": slices(settings, examples, result, params.seed),
        }
        _io.write_json(outputs["reports"] / f"{name}.json", report)
        _io.write_jsonl(outputs["reports"] / f"{name}.jsonl", per_prompt_rows(examples, result))
        summary[name] = {metric: report[metric]["score"] for metric in result.statistics}
    comparison = compare(settings, scored, weights)
    _io.write_json(outputs["reports"] / "comparison.json", comparison)
    _io.write_json(outputs["reports"] / "summary.json", summary)
    return summary


def _check_settings(
    settings: Evaluate, names: Sequence[str], examples: Sequence[Example], schema: SlotSchema | None
) -> None:
    """Refuse at once what would otherwise fail in the middle, or be left out in silence."""
    if settings.reference not in names:
        raise StillhouseError(
            f"evaluate.reference is {settings.reference!r}, but the candidates are "
            f"{', '.join(names)}. Set evaluate.reference to one of them."
        )
    if taken := sorted(RESERVED & set(names)):
        raise StillhouseError(
            f"answer.candidates.{taken[0]}: evaluate has a file of this name. Give it another."
        )
    if "slot_error_rate" in settings.metrics and schema is None:
        raise StillhouseError(
            "evaluate.metrics asks for slot_error_rate, but the data has no slot schema. Set "
            "prepare.slot_schema, or take slot_error_rate out of evaluate.metrics."
        )
    needing = [metric for metric in NEED_REFERENCES if metric in settings.metrics]
    empty = [example["id"] for example in examples if not example.get("references")]
    if needing and empty:
        raise StillhouseError(
            f"{len(empty)} of {len(examples)} test prompts have no reference (first: {empty[0]!r}),"
            f" but evaluate.metrics asks for {', '.join(needing)}. Give every test prompt a "
            f"reference, or take these metrics out."
        )


def _note_too_long(settings: Evaluate, answers: Mapping[str, Sequence[Example]]) -> None:
    """Say for which candidates perplexity is left out, though they have token probabilities."""
    for name, rows in answers.items():
        lacking = sum("reference_tokens" not in row for row in rows)
        if "perplexity" in settings.metrics and 0 < lacking < len(rows):
            print_line(
                f"{name}: no perplexity: {lacking} of {len(rows)} references are longer than the "
                f"model's positions"
            )


def _encode(
    settings: Evaluate,
    examples: Sequence[Example],
    answers: Iterable[Sequence[Example]],
    kept: Path | None,
) -> Encoder | None:
    """Vectors of every text of every candidate, each once; None where nothing needs them.

    Args:
        kept: folder for the vectors, so that other settings do not encode the same texts again.
    """
    if "semantic_similarity" not in settings.metrics:
        return None
    chosen = settings.similarity
    encoder = load_encoder(chosen.model, chosen.revision)
    said = [row["text"] for rows in answers for row in rows]
    references = [example["references"] for example in examples]
    texts = [*compared_texts(references, chosen.references), *said]
    name = f"{encoder.signature} {encoder.backend['library']}"
    encoder.know(encode_texts(texts, encoder.encode, kept, name))
    return encoder


def _aligned(path: Path, examples: Sequence[Example]) -> list[Example]:
    """The answers in the order of the prompts; a missing or foreign id is a mistake."""
    answers = {row["id"]: row for row in _io.read_jsonl(path)}
    missing = [example["id"] for example in examples if example["id"] not in answers]
    if missing or len(answers) != len(examples):
        raise StillhouseError(
            f"{path} has {len(answers)} answers for {len(examples)} prompts, {len(missing)} "
            f'prompts have none. Run "dvc repro answer" to answer the present test split.'
        )
    return [answers[example["id"]] for example in examples]


def main() -> None:
    """Run the stage on the project's own files."""
    inputs = {"test": TEST, "slots": SCHEMA, "answers": ANSWERS}
    outputs = {"reports": REPORTS, "kept": Path("scratch/vectors")}
    run_stage(evaluate, __doc__, inputs, outputs, spin=True)


if __name__ == "__main__":
    main()
