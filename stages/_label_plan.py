"""What is to be labelled, in which order, and the manifest that binds labels to what made them.

The label stage plans before it asks the teacher anything; the distill stage plans again from its
own inputs and compares, so labels that something else made are refused by name of the field.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from serving._shots import prompt_digest
from serving.contract import Contract, digest, read_contract
from serving.errors import StillhouseError
from serving.slots import SlotSchema, is_record, parse_record
from stages import _io
from stages._duplicates import exact_key, near_duplicate_sets, shingles
from stages._labels import Filters, Manifest, hash_ids, recombine
from stages._params import Params
from stages._value_noise import invent_values

Example = dict[str, Any]
NEAR = 0.6  # Jaccard similarity of word 3-shingles from which a pool prompt counts as a copy
POOL = "pool.jsonl"  # the pool's prompts, beside the labels
NO_TOKENIZER = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Rules:
    """Which answers are kept, and whether references are judged too."""

    filters: Filters
    """What an answer has to pass."""
    answers: int
    """Answers kept per training prompt, the first ones that pass."""
    pool_answers: int
    """The same per prompt of the pool."""
    gold: bool
    """Whether references get the teacher's distribution."""


# Wrong answers too: a student's fidelity is to the teacher as it is. What is no answer (unfinished,
# empty, broken) is left out.
AS_THEY_ARE = Rules(Filters(max_slot_errors=None, distinct=False), 1, 0, gold=False)


@dataclass(frozen=True)
class LabelPlan:
    """Prompts in labelling order and what binds their labels."""

    examples: list[Example]
    train_count: int
    """The first ones are training prompts, the others the pool."""
    manifest: Manifest
    contract: Contract
    rules: Rules
    pool: dict[str, Any]
    """How the pool was made, and what was turned away."""

    def source(self, position: int) -> Literal["train", "pool"]:
        """Where the prompt at a position comes from."""
        return "train" if position < self.train_count else "pool"


def plan_labels(params: Params, inputs: Mapping[str, Path]) -> LabelPlan:
    """Choose prompts and describe the labelling.

    Args:
        inputs: those of the label stage; without windows.jsonl there are no windows.
    """
    settings = params.label
    train = _first_prompts(_io.read_jsonl(inputs["train.jsonl"]), settings.train_prompts)
    schema = _io.read_json(inputs["slots.json"])
    held_out = [
        row
        for split in ("validation", "calibration", "test")
        for row in _io.read_jsonl(inputs[f"{split}.jsonl"])
    ]
    pool, description = _pool(params, train, held_out, schema)
    if "windows.jsonl" in inputs and (asked := _io.read_jsonl(inputs["windows.jsonl"])):
        taken = [*train, *held_out, *pool]
        more, told = _window_pool(params, asked, taken, held_out, schema)
        pool, description = [*pool, *more], {**description, "windows": told}
    examples = [*train, *pool]
    filters = Filters(
        max_tokens=settings.max_answer_tokens, max_slot_errors=settings.max_slot_errors
    )
    rules = Rules(filters, settings.answers, settings.pool_answers, settings.gold)
    teacher = inputs["teacher"]
    contract = read_contract(teacher, check_files=False)
    manifest = _manifest(params, teacher, contract, inputs["train.jsonl"], examples, rules)
    return LabelPlan(examples, len(train), manifest, contract, rules, description)


def _first_prompts(train: list[Example], count: int | None) -> list[Example]:
    """The first ones, and all that windows have added behind them."""
    return train[:count] + [e for e in train[count:] if e.get("window")] if count else train


def plan_validation(params: Params, inputs: Mapping[str, Path]) -> LabelPlan:
    """The teacher's likeliest answers to validation prompts, which measure a student's fidelity.

    Without distributions (`manifest.top_k` 0) they measure nothing, and nothing reads them.
    """
    examples = _io.read_jsonl(inputs["validation.jsonl"])
    contract = read_contract(inputs["teacher"], check_files=False)
    manifest = _manifest(
        params, inputs["teacher"], contract, inputs["validation.jsonl"], examples, AS_THEY_ARE
    )
    return LabelPlan(examples, len(examples), manifest, contract, AS_THEY_ARE, {})


def _manifest(
    params: Params,
    teacher: Path,
    contract: Contract,
    data: Path,
    examples: list[Example],
    rules: Rules,
) -> Manifest:
    settings = params.label
    tokenizer = teacher / "tokenizer.json"
    known = tokenizer.is_file()
    return Manifest(
        teacher_sha256=_teacher_digest(teacher, contract),
        teacher_revision=contract.base_revision,
        tokenizer_sha256=_io.sha256_file(tokenizer) if known else NO_TOKENIZER,
        template_sha256=hashlib.sha256(contract.prompt_template.encode()).hexdigest(),
        prompt_sha256=prompt_digest(contract.prompt_template, contract.shots),
        decoding=settings.generation.model_dump(mode="json")
        | {"seed": params.seed, "answers_kept": rules.answers, "gold": rules.gold}
        | {"pool_answers_kept": rules.pool_answers},
        top_k=settings.top_k if known else 0,
        vocab_size=_vocabulary(tokenizer) if known else 1,
        example_ids_sha256=hash_ids([e["id"] for e in examples]),
        example_count=len(examples),
        data_sha256=_io.sha256_file(data),
        filters=asdict(rules.filters),
        shard_size=settings.shard_prompts,
    )


def _teacher_digest(folder: Path, contract: Contract) -> str:
    """Digest of the model folder; of an endpoint, digest of what decides its answers.

    A price, a timeout or the number of requests at once change no answer, so labels that were paid
    for outlive them.
    """
    if contract.engine != "endpoint":
        return digest(folder)
    return hash_json([asked_of(folder, contract), contract.slot_schema])


def asked_of(folder: Path, contract: Contract) -> dict[str, Any]:
    """What of an endpoint's model folder decides its answers."""
    from serving.endpoint_settings import identity, read_settings

    return {
        "endpoint": identity(read_settings(folder)),
        "prompt": prompt_digest(contract.prompt_template, contract.shots),
        "shots": {name: sha for name, sha in contract.files.items() if name.startswith("shots/")},
    }


def hash_json(value: Any) -> str:
    """SHA-256 of a value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _vocabulary(path: Path) -> int:
    """Rows of vocabulary in use; more than there are tokens where ids have gaps."""
    from tokenizers import Tokenizer

    vocabulary: dict[str, int] = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    return max(vocabulary.values()) + 1


def _pool(
    params: Params, train: list[Example], held_out: list[Example], schema: dict[str, Any] | None
) -> tuple[list[Example], dict[str, Any]]:
    settings = params.label
    if settings.pool_prompts == 0:
        return [], {"method": "none"}
    if settings.pool_file is not None:
        return _pool_of_file(Path(settings.pool_file), settings.pool_prompts, train, held_out)
    if not all(is_record(example["prompt"]) for example in train[:100]):
        return [], {"method": "none", "reason": "prompts are no records; label.pool_file is null"}
    return _recombined(params, train, held_out, schema, settings.pool_prompts)


def _recombined(
    params: Params,
    donors: list[Example],
    taken: list[Example],
    schema: dict[str, Any] | None,
    count: int,
) -> tuple[list[Example], dict[str, Any]]:
    """Records made of those of `donors`, a share of their values made up, none of them `taken`."""
    slots = SlotSchema.from_dict(schema) if schema else None
    pool = recombine(donors, taken, slots, count, params.seed)
    noise = params.label.pool_value_noise
    # Values are made up where a text has them word for word: here a text that has them all.
    said = [e | {"references": ["; ".join(e["slots"].values())]} for e in pool.examples]
    made = invent_values(said, noise, params.seed)
    # the id follows the prompt: the manifest binds ids, so it must see what was made up
    examples = [e | {"id": _pool_id(e), "references": []} for e in made]
    return examples, {**pool.description, "value_noise": noise}


def _window_pool(
    params: Params,
    asked: list[Example],
    taken: list[Example],
    held_out: list[Example],
    schema: dict[str, Any] | None,
) -> tuple[list[Example], dict[str, Any]]:
    """Prompts of frozen windows that nothing else asks, and records recombined from theirs."""
    seen = {exact_key(_said(e), e.get("slots")) for e in taken}
    fresh = [e for e in asked if exact_key(_said(e), e.get("slots")) not in seen]
    texts = [frozenset() if e.get("slots") else shingles(_said(e)) for e in fresh]
    near = near_duplicate_sets(texts, [shingles(_said(e)) for e in held_out], NEAR)
    copies = {match.candidate_index for match in near}
    kept = [e for number, e in enumerate(fresh) if number not in copies]
    told: dict[str, Any] = {"prompts": len(asked), "used": len(kept)}
    count = params.label.window_prompts
    if not count or not kept or not all(e.get("slots") for e in kept):
        return kept, told
    more, description = _recombined(params, kept, taken, schema, count)
    return [*kept, *more], told | {"recombined": description}


def _pool_id(example: Mapping[str, Any]) -> str:
    """Follows from all that an answer is made from and checked against."""
    said = [example["prompt"], example.get("context"), example.get("slots")]
    return f"pool-{hash_json(said)[:16]}"


def _pool_of_file(
    path: Path, count: int, train: list[Example], held_out: list[Example]
) -> tuple[list[Example], dict[str, Any]]:
    """Prompts of a file, without those that training or a held-out split has."""
    rows = _read_pool(path)
    seen = {_text_key(e) for e in [*train, *held_out]}
    fresh: dict[str, Example] = {}
    for row in rows:
        if (key := _text_key(row)) not in seen:
            fresh.setdefault(key, row)
    kept = list(fresh.values())
    matches = near_duplicate_sets(
        [shingles(_said(r)) for r in kept], [shingles(_said(e)) for e in held_out], NEAR
    )
    copies = {match.candidate_index for match in matches}
    chosen = [row for number, row in enumerate(kept) if number not in copies][:count]
    return [{"id": _pool_id(row), "references": [], **row} for row in chosen], {
        "method": "file",
        "rows": len(rows),
        "copies_of_training_or_held_out": len(rows) - len(kept),
        "near_copies_of_held_out": len(copies),
        "made": len(chosen),
    }


def _read_pool(path: Path) -> list[Example]:
    """The file's prompts, with context and record where there is one."""
    if not path.is_file():
        raise StillhouseError(f"label.pool_file: there is no {path}. Correct the path.")
    rows = _io.read_jsonl(path)
    if wrong := [n for n, r in enumerate(rows, 1) if not (_has_prompt(r))]:
        raise StillhouseError(
            f'{path}, line {wrong[0]}: expected {{"prompt": …}}, found something else '
            f"({len(wrong)} such lines). Correct the file."
        )
    found = []
    for row in rows:
        if is_record(row["prompt"]) and not row.get("slots"):
            row["slots"] = parse_record(row["prompt"])
        names = ("prompt", "context", "slots")
        found.append({name: row[name] for name in names if row.get(name)})
    return found


def _has_prompt(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("prompt"), str) and bool(row["prompt"])


def _said(example: Mapping[str, Any]) -> str:
    return (
        f"{example['context']}\n{example['prompt']}"
        if example.get("context")
        else example["prompt"]
    )


def _text_key(example: Mapping[str, Any]) -> str:
    return exact_key(_said(example), None)
