"""Quantize: one variant of the student, smaller or faster, checked after a reload.

Reads   models/student/, data/prepared/train.jsonl and validation.jsonl; models/teacher/ where the
        student drafts what the teacher verifies
Writes  models/variants/<name>/ (weights or engine files, tokenizer, contract),
        reports/quantize/<name>/quantize.json (coverage, bytes, round trip, agreement with the
        student, recovery)
Run     python -m stages.quantize <variant>

A variant is refused when too little of it is in low precision or when it answers differently after
a reload in a new process; nothing of it is left then. Answers here are greedy, whatever the
contract says: it is the weights that are checked.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serving._decoding import Decoding
from serving.completion import Request
from serving.contract import Contract, digest, read_contract, write_contract
from serving.errors import StillhouseError
from stages import _io
from stages._coverage import float32_bytes, measure_coverage, require_coverage, weight_bytes
from stages._params import Params, params_hash
from stages._params.quantize import Variant
from stages._roundtrip import answer_afresh, requests_of, require_identical, share_identical
from stages._stage import run_stage

INPUTS = {"student": Path("models/student"), "teacher": Path("models/teacher")}
INPUTS |= {f"{s}.jsonl": Path("data/prepared") / f"{s}.jsonl" for s in ("train", "validation")}
WEIGHTS = (".safetensors", ".safetensors.index.json")
CONFIGURATION = ("config.json", "generation_config.json")  # written with the weights


@dataclass(frozen=True)
class Task:
    """One variant to be made, and what it is checked on."""

    name: str
    variant: Variant
    source: Path
    """The student's folder."""
    teacher: Path
    """The teacher's, of which the student can be the drafter."""
    contract: Contract
    """The variant's, but for engine and quantization."""
    checked: Contract
    """The same with the decoding of the check."""
    requests: list[Request]
    train: list[dict[str, Any]]
    params: Params

    def afresh(self, folder: Path, threads: int) -> list[list[int]]:
        """Answers of a folder from a new process."""
        limit, device = self.checked.decoding["max_new_tokens"], self.params.run.device
        return answer_afresh(folder, self.requests, limit, device, threads)


def quantize(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Make and check the variant that is named like its model folder; returns its report."""
    task = read_task(params, inputs, outputs["model"].name)
    match task.variant.engine:
        case "ctranslate2":
            make = make_ctranslate2
        case "speculative":
            make = make_speculative
        case "transformers":
            make = make_transformers
    with _io.writing_folder(outputs["model"]) as folder:
        report = make(task, folder)
    _io.write_json(outputs["reports"] / "quantize.json", report)
    return report


def read_task(params: Params, inputs: dict[str, Path], name: str) -> Task:
    """Find the variant and check that its student can be quantized.

    Raises:
        StillhouseError: no such variant, no prompts, or a student that is no plain model.
    """
    settings, source = params.quantize, inputs["student"]
    if name not in settings.variants:
        raise StillhouseError(
            f"quantize.variants has no {name!r} (there are: {', '.join(settings.variants)}). "
            f"Correct the name, or add the variant to params.yaml."
        )
    contract = read_contract(source)
    if contract.engine != "transformers" or contract.quantization:
        raise StillhouseError(
            f"{source} must be an unquantized model of engine 'transformers', found engine "
            f"{contract.engine!r}, quantization {contract.quantization}. Name another student."
        )
    examples = _io.read_jsonl(inputs["validation.jsonl"])[: settings.prompts]
    if not examples:
        raise StillhouseError(f"{inputs['validation.jsonl']} has no prompts. Give it some data.")
    own = settings.model_copy(update={"variants": {name: settings.variants[name]}})
    hashed = params_hash(Params(seed=params.seed, quantize=own), "quantize")
    cache = settings.variants[name].cache
    contract = replace(
        contract,
        decoding=contract.decoding | ({"cache": cache} if cache else {}),
        params_hash=hashed,
        base_model=source.name,
        base_revision=digest(source),
        files={},
    )
    limit = min(settings.max_new_tokens, Decoding.from_dict(contract.decoding).max_new_tokens)
    return Task(
        name=name,
        variant=settings.variants[name],
        source=source,
        teacher=inputs["teacher"],
        contract=contract,
        checked=replace(contract, decoding={"max_new_tokens": limit}),
        requests=requests_of(examples),
        train=_io.read_jsonl(inputs["train.jsonl"]),
        params=params,
    )


def make_transformers(task: Task, folder: Path) -> dict[str, Any]:
    """Quantize, write, count, reload in a new process, compare."""
    import torch

    from stages import _bitsandbytes
    from stages._plain_student import PlainStudent

    variant = task.variant
    student = PlainStudent.read(task.source, task.checked, task.requests, task.params.run.device)
    model, recovery = student.changed(variant, task.train, task.params.seed)
    model = _bitsandbytes.quantize_model(model, variant)
    _bitsandbytes.save(model, folder)
    coverage = measure_coverage(folder, variant.scheme)
    check_coverage(task, coverage.share, coverage.skipped)
    dtype = str(_bitsandbytes.dtype_of(variant)).removeprefix("torch.")
    embeddings = "int8" if _bitsandbytes.embeddings_in_int8(variant) else dtype
    facts = {"dtype": dtype, "embeddings": embeddings, "parameters": coverage.parameters}
    finish(task, folder, facts | {"coverage": coverage.share})
    expected = student.answer(model)
    found = task.afresh(folder, torch.get_num_threads())
    require_identical(expected, found, task.name)
    same = share_identical(student.answers, found)
    return {
        **describe(task, folder),
        "coverage": {**coverage.to_dict(), "embeddings": embeddings},
        "round_trip": {"prompts": len(found), "identical": True, "with": "the model in memory"},
        "agreement": {"answers_identical": same, **student.compare(model)},
        "recovery": recovery,
    }


def make_ctranslate2(task: Task, folder: Path) -> dict[str, Any]:
    """Convert, count, load twice in new processes, compare."""
    from stages._ctranslate2 import convert
    from stages._plain_student import PlainStudent

    student = PlainStudent.read(task.source, task.checked, task.requests, task.params.run.device)
    asked = (task.variant, task.source, task.train, task.params.seed)
    with student.folder_of(*asked) as (source, recovery):
        made = convert(source, folder, task.variant.scheme)
    counted = made["coverage"]
    check_coverage(task, counted["parameters"], counted["skipped"])
    facts = {name: made[name] for name in ("dtype", "embeddings", "levels")}
    shares = {"parameters": counted["parameters_total"], "coverage": counted["parameters"]}
    finish(task, folder, facts | shares)
    first, second = (task.afresh(folder, task.params.run.threads) for _ in range(2))
    require_identical(first, second, task.name)
    return {
        **describe(task, folder),
        "coverage": {
            **counted,
            "skipped": sorted(counted["skipped"]),
            "embeddings": made["embeddings"],
        },
        "round_trip": {"prompts": len(first), "identical": True, "with": "another new process"},
        "agreement": {"answers_identical": share_identical(student.answers, first)},
        "recovery": recovery,
    }


def make_speculative(task: Task, folder: Path) -> dict[str, Any]:
    """Put teacher and student together; they must answer as the teacher does alone."""
    from stages._speculative import assemble

    assemble(task.teacher, task.source, folder)
    alone, both = (task.afresh(f, task.params.run.threads) for f in (task.teacher, folder))
    require_identical(alone, both, task.name)
    return {
        **describe(task, folder),
        "round_trip": {"prompts": len(both), "identical": True, "with": "the teacher alone"},
    }


def check_coverage(task: Task, share: float, skipped: dict[str, int]) -> None:
    """Refuse a scheme of at most 8 bits that leaves too much as it is."""
    if task.variant.is_low_precision:
        require_coverage(share, task.params.quantize.min_coverage, skipped, task.name)


def finish(task: Task, folder: Path, facts: dict[str, Any]) -> None:
    """Copy what the student has besides weights, and write the contract."""
    for name in read_contract(task.source, check_files=False).files:
        if not name.endswith(WEIGHTS) and name not in CONFIGURATION:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(task.source / name, folder / name)
    quantization = {"scheme": task.variant.scheme, **facts}
    contract = replace(task.contract, engine=task.variant.engine, quantization=quantization)
    write_contract(folder, contract)


def describe(task: Task, folder: Path) -> dict[str, Any]:
    """What was made, and its weight files' size against the student's in float32 [bytes]."""
    before, after = float32_bytes(task.source), weight_bytes(folder)
    return {
        "engine": task.variant.engine,
        "scheme": task.variant.scheme,
        "settings": task.variant.model_dump(mode="json"),
        "bytes": {"before": before, "after": after, "ratio": after / before},
    }


def main() -> None:
    """Run the stage on the project's own files, for the variant on the command line."""

    def outputs(name: str) -> dict[str, Path]:
        return {"model": Path("models/variants") / name, "reports": Path("reports/quantize") / name}

    run_stage(quantize, __doc__, lambda _, __: INPUTS, outputs)


if __name__ == "__main__":
    main()
