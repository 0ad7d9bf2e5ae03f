"""Label: the teacher answers training prompts and a pool of prompts that have no reference.

Reads   data/prepared/ (prompts; held-out splits only to keep them out of the pool), models/teacher/
Writes  data/labels/ (texts, top-k log-probabilities, a manifest that binds them to what made them),
        data/labels/pool.jsonl (the pool's prompts), data/labels/validation/ (the same for
        validation prompts: what a student's fidelity is measured on),
        reports/label/label.json (kept and rejected by reason, size, cost)
Run     python -m stages.label

Shard by shard; a killed run goes on with the first shard that is missing, and what an endpoint has
answered is never asked again.
"""

from pathlib import Path
from typing import Any

import numpy as np

from serving.completion import Completion
from serving.slots import SlotSchema
from stages import _io
from stages._label_plan import POOL, LabelPlan, filters_of, plan_labels, plan_validation
from stages._labeller import Labeller, journal_path, make_labeller
from stages._labels import (
    Label,
    Rejected,
    Source,
    shard_count,
    shard_range,
    shards_done,
    sort_out,
    write_index,
    write_shard,
)
from stages._params import Params
from stages._progress import report_progress
from stages._stage import run_stage

NO_TOKENS = np.empty(0, np.int64)  # until the teacher's tokenizer has seen the text
SPLITS = ("train", "validation", "calibration", "test")
INPUTS = {f"{split}.jsonl": Path("data/prepared") / f"{split}.jsonl" for split in SPLITS}
INPUTS |= {"slots.json": Path("data/prepared/slots.json"), "teacher": Path("models/teacher")}
OUTPUTS = {"labels": Path("data/labels"), "reports": Path("reports/label")}


def label(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Label every shard that is not there yet; returns what was kept, rejected and paid."""
    plan, validation = plan_labels(params, inputs), plan_validation(params, inputs)
    folder = outputs["labels"]
    pool = plan.examples[plan.train_count :]
    _io.write_jsonl(folder / POOL, pool)
    report = {**_label_all(params, plan, inputs["teacher"], folder, "label"), "pool": plan.pool}
    faithful = folder / "validation"
    report["validation"] = _label_all(
        params, validation, inputs["teacher"], faithful, "label validation"
    )
    _io.write_json(outputs["reports"] / "label.json", report)
    return report


def _label_all(
    params: Params, plan: LabelPlan, teacher: Path, folder: Path, name: str
) -> dict[str, Any]:
    """Make the missing shards of one store and close it; returns its totals and cost."""
    done = shards_done(folder, plan.manifest)
    missing = [n for n in range(shard_count(plan.manifest)) if n not in done]
    cost: dict[str, Any] = {}
    if missing:
        labeller = make_labeller(params, teacher, plan.contract, plan.manifest, folder)
        prompts = sum(len(shard_range(plan.manifest, n)) for n in missing)
        progress, answered = report_progress(name, prompts), 0
        for number in missing:
            kept, rejected = _label_shard(params, plan, labeller, number)
            write_shard(folder, plan.manifest, number, kept, rejected)
            journal_path(folder, number).unlink(missing_ok=True)
            answered += len(shard_range(plan.manifest, number))
            progress(answered)
        cost = labeller.cost()
    index = write_index(folder, plan.manifest)
    return {**index.totals, "cost": cost}


def _label_shard(
    params: Params, plan: LabelPlan, labeller: Labeller, number: int
) -> tuple[list[Label], list[Rejected]]:
    """Answers and references of one shard that may be learned from, and the others."""
    positions = shard_range(plan.manifest, number)
    examples = [plan.examples[position] for position in positions]
    sources = [plan.source(position) for position in positions]
    schema = plan.contract.slot_schema
    slots = SlotSchema.from_dict(schema) if schema else None
    kept: list[Label] = []
    rejected: list[Rejected] = []
    for example, source, answers in zip(
        examples, sources, labeller.answer(examples, number), strict=True
    ):
        own = [_answer_label(example["id"], rank, c, source) for rank, c in enumerate(answers)]
        wanted = params.label.answers if source == "train" else params.label.pool_answers
        groups = [(own, wanted)]
        if params.label.gold and source == "train":
            groups.append((_gold_labels(example), len(example["references"])))
        for labels, count in groups:
            good, bad = sort_out(labels, filters_of(params), example.get("slots"), slots, count)
            kept += good
            rejected += bad
    return labeller.judge(examples, kept), rejected


def _answer_label(name: str, rank: int, answer: Completion, source: Source) -> Label:
    return Label(
        example_id=name,
        text=answer.text,
        token_ids=NO_TOKENS,
        finish_reason=answer.finish_reason,
        mean_logprob=answer.mean_logprob,
        rank=rank,
        source=source,
    )


def _gold_labels(example: dict[str, Any]) -> list[Label]:
    return [
        Label(example["id"], text, NO_TOKENS, "stop", None, rank, "gold")
        for rank, text in enumerate(example["references"])
    ]


def main() -> None:
    """Run the stage on the project's own files."""
    run_stage(label, __doc__, INPUTS, OUTPUTS)


if __name__ == "__main__":
    main()
