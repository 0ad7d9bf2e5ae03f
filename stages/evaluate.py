"""Evaluate: score every candidate's test answers, all in one run, so that comparisons are paired.

Reads   data/prepared/test.jsonl and slots.json, data/answers/<candidate>.test.jsonl,
        the candidates' model folders (contract and size only)
Writes  reports/evaluate/<candidate>.json (scores with interval and signature, slices),
        reports/evaluate/<candidate>.jsonl (a line per prompt: output, references, scores),
        reports/evaluate/summary.json (what `dvc metrics show` prints),
        reports/evaluate/comparison.json (paired differences to the reference candidate)
Run     python -m stages.evaluate
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving.contract import digest, read_contract
from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages import _io
from stages._evaluation import Example, compare, headline, per_prompt_rows, score, slices
from stages._params import Params
from stages._scores import bootstrap_weights
from stages._stage import run_stage

CANDIDATES = ("baseline",)
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
    names = [name.removeprefix("answers.") for name in inputs if name.startswith("answers.")]
    _check_reference(settings.reference, names)

    scored = {
        name: score(settings, examples, _aligned(inputs[f"answers.{name}"], examples), schema)
        for name in names
    }
    summary = {}
    for name, result in scored.items():
        report = {
            "candidate": name,
            "examples": len(examples),
            "data": {"name": params.prepare.source, "sha256": _io.sha256_file(inputs["test"])},
            "model": _describe_model(inputs[f"model.{name}"]),
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


def _describe_model(folder: Path) -> dict[str, Any]:
    contract = read_contract(folder, check_files=False)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "engine": contract.engine,
        "scheme": (contract.quantization or {}).get("scheme"),
        "size_mb": size / 1e6,
        "sha256": digest(folder),
    }


def main() -> None:
    """Run the stage on the project's own files."""
    inputs = {"test": TEST, "slots": SCHEMA}
    for name in CANDIDATES:
        inputs[f"answers.{name}"] = ANSWERS / f"{name}.test.jsonl"
        inputs[f"model.{name}"] = Path("models") / name
    run_stage(evaluate, __doc__, inputs, {"reports": REPORTS})


if __name__ == "__main__":
    main()
