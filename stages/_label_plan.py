"""What is to be labelled, in which order, and the manifest that binds labels to what made them.

The label stage plans before it asks the teacher anything; the distill stage plans again from its
own inputs and compares, so labels that something else made are refused by name of the field.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from serving.contract import Contract, digest, read_contract
from serving.errors import StillhouseError
from serving.slots import SlotSchema, is_record
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
class LabelPlan:
    """Prompts in labelling order and what binds their labels."""

    examples: list[Example]
    train_count: int
    """The first ones are training prompts, the others the pool."""
    manifest: Manifest
    contract: Contract
    pool: dict[str, Any]
    """How the pool was made, and what was turned away."""

    def source(self, position: int) -> Literal["train", "pool"]:
        """Where the prompt at a position comes from."""
        return "train" if position < self.train_count else "pool"


def plan_labels(params: Params, inputs: Mapping[str, Path]) -> LabelPlan:
    """Choose prompts and describe the labelling.

    Args:
        inputs: train.jsonl, the held-out splits, slots.json and the teacher's model folder.
    """
    train = _io.read_jsonl(inputs["train.jsonl"])[: params.label.train_prompts]
    schema = _io.read_json(inputs["slots.json"])
    held_out = [
        row
        for split in ("validation", "calibration", "test")
        for row in _io.read_jsonl(inputs[f"{split}.jsonl"])
    ]
    pool, description = _pool(params, train, held_out, schema)
    examples = [*train, *pool]
    contract = read_contract(inputs["teacher"], check_files=False)
    manifest = _manifest(params, inputs, contract, [e["id"] for e in examples])
    return LabelPlan(examples, len(train), manifest, contract, description)


def plan_validation(params: Params, inputs: Mapping[str, Path]) -> LabelPlan:
    """The same for validation prompts, which measure how faithful a student is."""
    examples = _io.read_jsonl(inputs["validation.jsonl"])
    contract = read_contract(inputs["teacher"], check_files=False)
    manifest = _manifest(params, inputs, contract, [e["id"] for e in examples])
    return LabelPlan(examples, len(examples), manifest, contract, {})


def _manifest(
    params: Params, inputs: Mapping[str, Path], contract: Contract, ids: list[str]
) -> Manifest:
    settings = params.label
    tokenizer = inputs["teacher"] / "tokenizer.json"
    known = tokenizer.is_file()
    return Manifest(
        teacher_sha256=digest(inputs["teacher"]),
        teacher_revision=contract.base_revision,
        tokenizer_sha256=_io.sha256_file(tokenizer) if known else NO_TOKENIZER,
        template_sha256=hashlib.sha256(contract.prompt_template.encode()).hexdigest(),
        decoding=settings.generation.model_dump(mode="json")
        | {"seed": params.seed, "answers_kept": settings.answers, "gold": settings.gold}
        | {"pool_answers_kept": settings.pool_answers},
        top_k=settings.top_k if known else 0,
        vocab_size=_vocabulary(tokenizer) if known else 1,
        example_ids_sha256=hash_ids(ids),
        example_count=len(ids),
        data_sha256=_io.sha256_file(inputs["train.jsonl"]),
        filters=asdict(filters_of(params)),
        shard_size=settings.shard_prompts,
    )


def filters_of(params: Params) -> Filters:
    """What an answer has to pass."""
    settings = params.label
    return Filters(max_tokens=settings.max_answer_tokens, max_slot_errors=settings.max_slot_errors)


def _vocabulary(path: Path) -> int:
    from tokenizers import Tokenizer

    size: int = Tokenizer.from_file(str(path)).get_vocab_size(with_added_tokens=True)
    return size


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
    slots = SlotSchema.from_dict(schema) if schema else None
    pool = recombine(train, held_out, slots, settings.pool_prompts, params.seed)
    noise = settings.pool_value_noise
    # Values are made up where a text has them word for word: here a text that has them all.
    said = [e | {"references": ["; ".join(e["slots"].values())]} for e in pool.examples]
    made = invent_values(said, noise, params.seed)
    # the id follows the prompt: the manifest binds ids, so it must see what was made up
    examples = [e | {"id": _pool_id(e["prompt"]), "references": []} for e in made]
    return examples, {**pool.description, "value_noise": noise}


def _pool_id(prompt: str) -> str:
    return f"pool-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}"


def _pool_of_file(
    path: Path, count: int, train: list[Example], held_out: list[Example]
) -> tuple[list[Example], dict[str, Any]]:
    """Prompts of a file, without those that training or a held-out split has."""
    rows = _io.read_jsonl(path)
    if wrong := [n for n, r in enumerate(rows, 1) if not (isinstance(r, dict) and r.get("prompt"))]:
        raise StillhouseError(
            f'{path}, line {wrong[0]}: expected {{"prompt": …}}, found something else '
            f"({len(wrong)} such lines). Correct the file."
        )
    seen = {exact_key(e["prompt"], None) for e in [*train, *held_out]}
    fresh: dict[str, Example] = {}
    for row in rows:
        if (key := exact_key(row["prompt"], None)) not in seen:
            fresh.setdefault(key, row)
    kept = list(fresh.values())
    matches = near_duplicate_sets(
        [shingles(r["prompt"]) for r in kept], [shingles(e["prompt"]) for e in held_out], NEAR
    )
    copies = {match.candidate_index for match in matches}
    chosen = [row for number, row in enumerate(kept) if number not in copies][:count]
    names = ("prompt", "context", "slots")
    examples = [
        {"id": _pool_id(r["prompt"]), "references": []}
        | {name: r[name] for name in names if r.get(name)}
        for r in chosen
    ]
    return examples, {
        "method": "file",
        "rows": len(rows),
        "copies_of_training_or_held_out": len(rows) - len(kept),
        "near_copies_of_held_out": len(copies),
        "made": len(examples),
    }
