"""Plant: a window in which something is new, so that drift always has one to look at.

Reads   data/prepared/train.jsonl (which slots are open), test.jsonl, slots.json; models/winner.json
        and the model folder that it names
Writes  data/windows/planted: rows.parquet, window.json, rejected.jsonl (empty) and gold.jsonl, as
        docs/windows.md describes every window
Run     python -m stages.plant

The built-in data gives fresh incidents, drawn as its held-out splits are, of which `plant.share` is
changed; other data gives its test prompts with made-up values or words in that share. The winner on
the CPU answers, and the answers are checked as the service checks them. Times are made up, a row a
minute; what only a running service knows (latency, cost) is null.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from serving.completion import Completion, Request
from serving.contract import digest, read_contract
from serving.errors import StillhouseError
from stages import _io
from stages._params import Params
from stages._progress import report_progress
from stages._stage import run_stage

if TYPE_CHECKING:
    from serving._live.checks import AnswerChecks
    from serving.predictor import Predictor

INPUTS = {
    "train": Path("data/prepared/train.jsonl"),
    "test": Path("data/prepared/test.jsonl"),
    "slots": Path("data/prepared/slots.json"),
    "winner": Path("models/winner.json"),
}
OUTPUTS = {"window": Path("data/windows/planted")}
START: Final = datetime(2026, 1, 1, tzinfo=UTC)
STEP: Final = timedelta(minutes=1)
RUNG: Final = "student"  # the cascade's name for the winner on the CPU
Example = dict[str, Any]
Row = dict[str, Any]


def plant(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Write the planted window; returns rows, changed rows, references, and slot errors of each.

    Raises:
        StillhouseError: no winner, or its folder is not the model that was chosen.
    """
    from serving._live.checks import AnswerChecks
    from serving.predictor import load
    from serving.slots import SlotSchema

    folder, sha256 = read_winner(inputs["winner"])
    schema = _io.read_json(inputs["slots"])
    checks = AnswerChecks(SlotSchema.from_dict(schema) if schema else None)
    examples = draw_examples(params, inputs)
    predictor = load(folder, device=None if params.run.device == "auto" else params.run.device)
    rows = list(_answer(predictor, checks, examples, sha256, params.answer.batch_size))
    changed = [bool((example.get("meta") or {}).get("drift")) for example in examples]
    gold = choose_gold(rows, examples, params.plant.gold_share, params.seed)
    incidents = params.prepare.source == "incidents"
    planted = {
        "scenario": "+".join(params.plant.scenario) if incidents else "made_up",
        "share": params.plant.share,
        "changed": sum(changed),
    }
    _write(outputs["window"], rows, gold, planted)
    return {
        "rows": len(rows),
        "changed": sum(changed),
        "gold": len(gold),
        "slot_errors_per_slot": {
            name: _error_rate([row for row, new in zip(rows, changed, strict=True) if new == flag])
            for name, flag in (("changed", True), ("unchanged", False))
        },
    }


def read_winner(path: Path) -> tuple[Path, str]:
    """Folder and digest of the winner on the CPU.

    Raises:
        StillhouseError: there is none, or the folder holds another model.
    """
    winner = _io.read_json(path).get("cpu")
    if not winner:
        raise StillhouseError(f'{path} names no winner for the CPU. Run "dvc repro select".')
    folder = Path(winner["folder"])
    read_contract(folder)
    if (found := digest(folder)) != winner["model_sha256"]:
        raise StillhouseError(
            f"{folder} holds model {found[:12]}, and {path} chose {winner['model_sha256'][:12]}. "
            f'Run "dvc repro select".'
        )
    return folder, winner["model_sha256"]


def draw_examples(params: Params, inputs: dict[str, Path]) -> list[Example]:
    """Prompts with references, a share of them changed."""
    from stages._windows.planting import plant_changes, plant_incidents

    wanted = params.plant
    if params.prepare.source == "incidents":
        return plant_incidents(params.seed, wanted.rows, wanted.scenario, wanted.share)
    train, test = _io.read_jsonl(inputs["train"]), _io.read_jsonl(inputs["test"])
    rng = np.random.default_rng([params.seed, 11])
    return plant_changes(test, train, wanted.rows, wanted.share, rng)


def _answer(
    predictor: "Predictor",
    checks: "AnswerChecks",
    examples: Sequence[Example],
    sha256: str,
    batch_size: int,
) -> Iterator[Row]:
    """A window's rows."""
    progress = report_progress("plant", len(examples))
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        requests = [Request(e["prompt"], e.get("slots"), e.get("context")) for e in batch]
        answers = predictor.answer(requests)
        for number, (example, answer) in enumerate(zip(batch, answers, strict=True), start):
            yield make_row(number, example, answer, checks) | {"model_sha256": sha256}
        progress(start + len(batch))


def make_row(number: int, example: Example, answer: Completion, checks: "AnswerChecks") -> Row:
    """What the service would have kept of an answer; its columns are those of a window."""
    from serving._items import Item
    from serving._live.checks import record_of
    from serving._live.uncertainty import uncertainty_of

    name, context = f"planted-{number:05d}", example.get("context")
    item = Item(id=name, prompt=example["prompt"], context=context, slots=example.get("slots"))
    slots = record_of(item)
    found = checks.check(item, answer.text)
    known = checks.schema.slots if checks.schema else {}
    uncertainty = uncertainty_of(answer, found)
    slots_ran, grounding_ran = found.slots != "not_run", found.grounding != "not_run"
    return {
        "id": name,
        "time": START + number * STEP,
        "prompt": example["prompt"],
        "context": context,
        "slots": json.dumps(slots, sort_keys=True, ensure_ascii=False) if slots else None,
        "answer": answer.text,
        "rung": RUNG,
        "cache": "off",
        "slot_names": [slot for slot in slots or {} if slot in known],
        "prompt_chars": len(example["prompt"]),
        "answer_chars": len(answer.text),
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "finish_reason": answer.finish_reason,
        "confidence": answer.confidence,
        "mean_logprob": answer.mean_logprob,
        "min_logprob": answer.min_logprob,
        "uncertainty": uncertainty.score if uncertainty else None,
        "slots_asked": found.slots_asked if slots_ran else None,
        "slot_errors": found.count("slots") if slots_ran else None,
        "claims": found.claims if grounding_ran else None,
        "ungrounded": found.count("grounding") if grounding_ran else None,
    }


def choose_gold(
    rows: Sequence[Row], examples: Sequence[Example], share: float, seed: int
) -> list[dict[str, Any]]:
    """References of a share of the rows, drawn at random among those that have any."""
    can = [place for place, example in enumerate(examples) if example["references"]]
    wanted = min(round(share * len(rows)), len(can))
    chosen = sorted(np.random.default_rng([seed, 12]).permutation(can)[:wanted].tolist())
    return [{"id": rows[at]["id"], "references": examples[at]["references"]} for at in chosen]


def _write(
    window: Path, rows: list[Row], gold: list[dict[str, Any]], planted: dict[str, Any]
) -> None:
    import pyarrow as pa

    from stages._windows.columns import COLUMNS
    from stages._windows.freezing import REJECTED, describe, write_rows
    from stages._windows.gold import GOLD
    from stages._windows.reading import INFO, ROWS

    with _io.writing_folder(window) as folder:
        written = write_rows(folder / ROWS, [pa.RecordBatch.from_pylist(rows, schema=COLUMNS)])
        _io.write_json(folder / INFO, describe(window.name, written, planted=planted))
        _io.write_jsonl(folder / REJECTED, [])
        _io.write_jsonl(folder / GOLD, gold)


def _error_rate(rows: Sequence[Row]) -> float:
    """Slot errors per asked slot; 0 where none was asked."""
    asked = sum(row["slots_asked"] or 0 for row in rows)
    return sum(row["slot_errors"] or 0 for row in rows) / max(asked, 1)


def main() -> None:
    """Run the stage on the project's own files."""
    run_stage(plant, __doc__, INPUTS, OUTPUTS)


if __name__ == "__main__":
    main()
