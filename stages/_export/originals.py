"""What an export is compared with: the model that it is made from, and the model that serves."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.completion import Request
from serving.contract import read_contract
from serving.errors import StillhouseError
from serving.predictor import load
from stages import _io
from stages._export.agreement import Asked
from stages._export.shipped.generate import open_student


def read_asked(calibration: Path, count: int) -> list[Asked]:
    """The first `count` calibration prompts.

    Raises:
        StillhouseError: there are fewer.
    """
    rows = _io.read_jsonl(calibration)[:count]
    if len(rows) < count:
        raise StillhouseError(
            f"{calibration} has {len(rows)} prompts, expected at least {count} to compare the "
            f"export with. Prepare more data, or ask for fewer with --prompts."
        )
    return [
        Asked(str(row["id"]), Request(row["prompt"], row.get("slots"), row.get("context")))
        for row in rows
    ]


def load_original(source: Path) -> Any:
    """The predictor that the export must equal: float32, on the CPU, greedy.

    Raises:
        StillhouseError: the folder holds something that is no plain decoder.
    """
    contract = read_contract(source)
    if contract.engine != "transformers" or contract.quantization or contract.shots:
        raise StillhouseError(
            f"{source} is for engine {contract.engine!r}, quantized: "
            f"{bool(contract.quantization)}, shots: {contract.shots}; expected a plain model of "
            f"engine transformers, such as models/student. Name one with --model."
        )
    from serving.transformers_engine import TransformersPredictor

    greedy = {"max_new_tokens": contract.decoding["max_new_tokens"]}
    predictor = TransformersPredictor(source, replace(contract, decoding=greedy), "cpu")
    predictor.model.float()
    return predictor


def read_winner(path: Path) -> tuple[str, Path]:
    """Name and folder of the model that select chose for the CPU.

    Raises:
        StillhouseError: it chose none.
    """
    chosen = _io.read_json(path).get("cpu")
    if not chosen:
        raise StillhouseError(f'{path} names no winner for the CPU. Run "dvc repro select".')
    return chosen["candidate"], Path(chosen["folder"])


def compare_winner(
    winner: tuple[str, Path], folder: Path, asked: Sequence[Asked]
) -> dict[str, Any]:
    """How many answers of the model that serves are those of the graph; told, and no gate.

    The winner may be a quantized variant, and it may answer again what the slot check finds wrong.
    """
    name, place = winner
    student = open_student(folder)
    requests = [one.request for one in asked]
    texts = [student.answer([student.encode(r.prompt, r.context)])[0].text for r in requests]
    greedy = {"max_new_tokens": read_contract(place).decoding["max_new_tokens"]}
    found = {}
    for kind, decoding in (("greedy", greedy), ("as_served", None)):
        predictor = load(place, decoding, "cpu")
        answers = [predictor.answer([request])[0].text for request in requests]
        found[f"identical_{kind}"] = sum(a == b for a, b in zip(answers, texts, strict=True))
    return {"candidate": name, "prompts": len(asked), **found}
