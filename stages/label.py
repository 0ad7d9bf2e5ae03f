"""Label: the teacher answers training prompts and a pool of prompts that have no reference.

Reads   data/prepared/ (prompts; held-out splits only to keep them out of the pool; windows.jsonl,
        the prompts of frozen windows), models/teacher/
Writes  data/labels/ (texts, top-k log-probabilities, a manifest that binds them to what made them),
        data/labels/pool.jsonl (the pool's prompts), data/labels/validation/ (the teacher's answers
        to validation prompts as they are: what a student's fidelity is measured on),
        data/labels/paid.jsonl (every answer that an endpoint was paid for),
        reports/label/label.json (kept and rejected by reason, size, cost)
Run     python -m stages.label

Shard by shard; a killed run goes on with the first shard that is missing, and what an endpoint has
answered is never asked again.
"""

import shutil
from pathlib import Path
from typing import Any

from serving.completion import Completion
from serving.slots import SlotSchema
from stages import _io
from stages._label_plan import POOL, LabelPlan, plan_labels, plan_validation
from stages._labeller import Labeller, Tell, make_labeller
from stages._labels import (
    Label,
    Rejected,
    Source,
    must_take,
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

SPLITS = ("train", "validation", "calibration", "test")
INPUTS = {f"{split}.jsonl": Path("data/prepared") / f"{split}.jsonl" for split in SPLITS}
INPUTS |= {"slots.json": Path("data/prepared/slots.json"), "teacher": Path("models/teacher")}
INPUTS |= {"windows.jsonl": Path("data/prepared/windows.jsonl")}
OUTPUTS = {"labels": Path("data/labels"), "reports": Path("reports/label")}


def label(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Label every shard that is not there yet; returns what was kept, rejected and paid."""
    plan, validation = plan_labels(params, inputs), plan_validation(params, inputs)
    folder, teacher = outputs["labels"], inputs["teacher"]
    with must_take(folder, POOL):
        _io.write_jsonl(folder / POOL, plan.examples[plan.train_count :])
    report = {**_label_all(params, plan, teacher, folder, "label"), "pool": plan.pool}
    faithful = folder / "validation"
    if validation.manifest.top_k:
        report["validation"] = _label_all(params, validation, teacher, faithful, "label validation")
    elif faithful.is_dir():  # of an earlier teacher; without distributions nothing reads it
        shutil.rmtree(faithful)
    with must_take(outputs["reports"], "label.json"):
        _io.write_json(outputs["reports"] / "label.json", report)
    return report


def _label_all(
    params: Params, plan: LabelPlan, teacher: Path, folder: Path, name: str
) -> dict[str, Any]:
    """Make the missing shards of one store and close it; returns its totals and cost."""
    done = shards_done(folder, plan.manifest)
    missing = [n for n in range(shard_count(plan.manifest)) if n not in done]
    labeller = make_labeller(params, teacher, plan, folder)
    if missing:
        try:
            _label_missing(plan, labeller, missing, folder, name)
        finally:
            labeller.close()
    index = write_index(folder, plan.manifest)
    return {**index.totals, "cost": labeller.cost()}


def _label_missing(
    plan: LabelPlan, labeller: Labeller, missing: list[int], folder: Path, name: str
) -> None:
    prompts = {number: shard_range(plan.manifest, number) for number in missing}
    labeller.open([plan.examples[place] for places in prompts.values() for place in places])
    report, answered = report_progress(name, sum(map(len, prompts.values()))), 0

    def tell(more: int) -> None:
        nonlocal answered
        answered += more
        report(answered)

    for number, places in prompts.items():
        finished = answered + len(places)
        kept, rejected = _label_shard(plan, labeller, number, tell)
        write_shard(folder, plan.manifest, number, kept, rejected)
        tell(finished - answered)


def _label_shard(
    plan: LabelPlan, labeller: Labeller, number: int, tell: Tell
) -> tuple[list[Label], list[Rejected]]:
    """Answers and references of one shard that may be learned from, and the others."""
    places, rules = shard_range(plan.manifest, number), plan.rules
    examples = [plan.examples[place] for place in places]
    schema = plan.contract.slot_schema
    slots = SlotSchema.from_dict(schema) if schema else None
    kept: list[Label] = []
    rejected: list[Rejected] = []
    for place, example, answers in zip(
        places, examples, labeller.answer(examples, tell), strict=True
    ):
        source = plan.source(place)
        own = [_answer_label(labeller, example, n, c, source) for n, c in enumerate(answers)]
        groups = [(own, rules.answers if source == "train" else rules.pool_answers)]
        if rules.gold and source == "train":
            groups.append((_gold_labels(labeller, example), len(example["references"])))
        for labels, count in groups:
            good, bad = sort_out(labels, rules.filters, example.get("slots"), slots, count)
            kept += good
            rejected += bad
    return labeller.judge(examples, kept), rejected


def _answer_label(
    labeller: Labeller, example: dict[str, Any], rank: int, answer: Completion, source: Source
) -> Label:
    return Label(
        example_id=example["id"],
        text=answer.text,
        token_ids=labeller.token_ids(answer.text),
        finish_reason=answer.finish_reason,
        mean_logprob=answer.mean_logprob,
        rank=rank,
        source=source,
        counted=answer.completion_tokens,
    )


def _gold_labels(labeller: Labeller, example: dict[str, Any]) -> list[Label]:
    return [
        Label(example["id"], text, labeller.token_ids(text), "stop", None, rank, "gold")
        for rank, text in enumerate(example["references"])
    ]


def main() -> None:
    """Run the stage on the project's own files."""
    run_stage(label, __doc__, INPUTS, OUTPUTS)


if __name__ == "__main__":
    main()
