"""Answer: one candidate answers the calibration and test prompts, reloaded in a fresh process.

Reads   the candidate's model folder, data/prepared/calibration.jsonl and test.jsonl
Writes  data/answers/<candidate>.calibration.jsonl and .test.jsonl: id, text, tokens, confidence;
        in test, where the engine can, how likely it finds the first reference,
        data/answers/<candidate>.model.json: which model it was
Run     python -m stages.answer <candidate>

Answers come from the predictor that production ships: what is measured is what is served.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving._answering import TokenPredictor
from serving.completion import Completion, Request
from serving.contract import digest, read_contract
from serving.predictor import Predictor, load
from stages import _io
from stages._params import Params
from stages._progress import report_progress
from stages._rescoring import rescore_references
from stages._stage import run_stage

SPLITS = ("calibration", "test")
PREPARED = Path("data/prepared")
ANSWERS = Path("data/answers")


def answer(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Answer every split; returns prompts and seconds."""
    device = None if params.run.device == "auto" else params.run.device
    predictor = load(inputs["model"], device=device)
    metrics: dict[str, Any] = {"model_sha256": digest(inputs["model"])}
    for split in SPLITS:
        examples = _io.read_jsonl(inputs[split])
        started = time.perf_counter()
        rows = _answer_rows(predictor, examples, params.answer.batch_size, split)
        count = _io.write_jsonl(outputs[split], rows)
        metrics[split] = {"prompts": count, "seconds": time.perf_counter() - started}
    model = describe_model(inputs["model"]) | {"device": str(getattr(predictor, "device", "cpu"))}
    _io.write_json(outputs["model"], model)
    return metrics


def describe_model(folder: Path) -> dict[str, Any]:
    """Which model answered: engine, scheme, size and digest, for reports."""
    contract = read_contract(folder, check_files=False)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "engine": contract.engine,
        "scheme": (contract.quantization or {}).get("scheme"),
        "parameters": (contract.quantization or {}).get("parameters") or count_parameters(folder),
        "size_mb": size / 1e6,
        "sha256": digest(folder),
    }


def count_parameters(folder: Path) -> int | None:
    """Numbers in the folder's safetensors files; None where there are none (an endpoint)."""
    from safetensors import safe_open

    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as arrays:
            names = list(arrays.keys())
            total += sum(math.prod(arrays.get_slice(name).get_shape()) for name in names)
    return total or None


def _answer_rows(
    predictor: Predictor, examples: Sequence[dict[str, Any]], batch_size: int, split: str
) -> Iterator[dict[str, Any]]:
    progress = report_progress(f"answer {split}", len(examples))
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        requests = [Request(e["prompt"], e.get("slots"), e.get("context")) for e in batch]
        likelihoods: list[dict[str, Any]] = [{} for _ in batch]
        if split == "test" and isinstance(predictor, TokenPredictor):
            likelihoods = rescore_references(predictor, batch)
        completions = predictor.answer(requests)
        for example, completion, more in zip(batch, completions, likelihoods, strict=True):
            yield {"id": example["id"], **_as_row(completion), **more}
        progress(start + len(batch))


def _as_row(completion: Completion) -> dict[str, Any]:
    return {name: value for name, value in asdict(completion).items() if value is not None}


def main() -> None:
    """Run the stage on the project's own files, for the candidate on the command line."""

    def inputs(candidate: str, params: Params) -> dict[str, Path]:
        prepared = {split: PREPARED / f"{split}.jsonl" for split in SPLITS}
        return {"model": params.answer.folder(candidate), **prepared}

    def outputs(candidate: str) -> dict[str, Path]:
        files = {split: ANSWERS / f"{candidate}.{split}.jsonl" for split in SPLITS}
        return {**files, "model": ANSWERS / f"{candidate}.model.json"}

    run_stage(answer, __doc__, inputs, outputs)


if __name__ == "__main__":
    main()
