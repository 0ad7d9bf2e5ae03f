"""Evaluate: score every candidate's test answers, all in one run, so that comparisons are paired.

Reads   data/prepared/test.jsonl and slots.json; of every candidate that params.yaml names,
        data/answers/<candidate>.test.jsonl and .model.json
Writes  reports/evaluate/<candidate>.json (scores with interval and signature, slices),
        reports/evaluate/<candidate>.jsonl (a line per prompt: output, references, scores),
        reports/evaluate/rungs/ (the same for candidates that only the ladder compares),
        reports/evaluate/summary.json (what `dvc metrics show` prints),
        reports/evaluate/comparison.json (paired differences to the reference candidate)
Run     python -m stages.evaluate
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages import _io
from stages._evaluation import Example, compare, headline, per_prompt_rows, score, slices
from stages._params import Params
from stages._scores import bootstrap_weights
from stages._stage import run_stage

NAMED = ("baseline", "teacher", "student", "control")  # each a file of its own in dvc.yaml
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
    names = params.answer.candidates
    _check_reference(settings.reference, names)

    answers = {name: inputs["answers"] / f"{name}.test.jsonl" for name in names}
    scored = {
        name: score(settings, examples, _aligned(answers[name], examples), schema) for name in names
    }
    summary = {}
    rungs = outputs["reports"] / "rungs"
    rungs.mkdir(parents=True, exist_ok=True)
    for name, result in scored.items():
        report = {
            "candidate": name,
            "examples": len(examples),
            "data": {"name": params.prepare.source, "sha256": _io.sha256_file(inputs["test"])},
            "model": _io.read_json(inputs["answers"] / f"{name}.model.json"),
            **headline(settings, examples, result, schema_data, params.seed),
            "slices": slices(settings, examples, result, params.seed),
        }
        folder = outputs["reports"] if name in NAMED else rungs
        _io.write_json(folder / f"{name}.json", report)
        _io.write_jsonl(folder / f"{name}.jsonl", per_prompt_rows(examples, result))
        summary[name] = {metric: report[metric]["score"] for metric in result.statistics}
    comparison = compare(settings, scored, weights)
    _io.write_json(outputs["reports"] / "comparison.json", comparison)
    _io.write_json(outputs["reports"] / "summary.json", summary)
    return summary


def _check_reference(reference: str, names: Sequence[str]) -> None:
    if reference not in names:
        raise StillhouseError(
            f"evaluate.reference is {reference!r}, but the candidates are {', '.join(names)}. "
            f"Set evaluate.reference to one of them."
        )


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
    run_stage(evaluate, __doc__, inputs, {"reports": REPORTS})


if __name__ == "__main__":
    main()
