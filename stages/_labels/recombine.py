"""New records out of old ones: a pool of prompts that have no reference, for the teacher to answer.

A student learns from a teacher's answers to prompts nobody wrote a reference for. For records such
prompts are free: take the slots of one training record and draw their values from others. Values
that depend on each other (a metric and its unit, a cause and what was done about it) have to stay
together, or the pool asks what nobody would. Which slots do is measured: a dependence tree in the
manner of Chow and Liu (1968), each slot hanging on the earlier slot that tells most about it. The
mutual information is reduced by what shuffled values reach, since rare values seem to tell
everything (Vinh, Epps and Bailey, "Information Theoretic Measures for Clusterings Comparison:
Is a Correction for Chance Necessary?", ICML 2009).

Where values are rare, numbers in them count as equal: from "729 ms" and "731 ms" it is the unit
that depends on something.

Quantities that hang on the same slot (a value and its threshold) are drawn from one record: which
of two numbers is larger is a fact that answers speak of, and a tree does not see it.

Slot sets come only as training has them, and so do values: what was held out stays held out.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import StillhouseError
from serving.slots import SlotSchema, is_record, parse_record, render_record
from stages._duplicates import exact_key

Record = Mapping[str, str]
Example = Mapping[str, Any]

SHUFFLES = 3  # their mean information is stable to 1 % at a thousand records
LEAST_SHARE = 0.02  # of a slot's entropy; what tells less than this is taken for chance
RECORDS_MEASURED = 20_000  # enough to see which slot depends on which
ATTEMPTS_PER_RECORD = 20
RARE = 0.25  # distinct values per occurrence, from which on a slot's numbers count as equal
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


@dataclass(frozen=True)
class Parent:
    """The slot that another one hangs on, and the share (0..1) of its entropy that it explains."""

    slot: str
    share: float


Parents = Mapping[str, Parent | None]
Donor = tuple[Record, Record]
"""A training record as it is, and as `_fold_numbers` shows it."""
Donors = dict[str | None, list[Donor]]


@dataclass(frozen=True)
class Pool:
    """Prompts in the format of prepared examples, without references, and how they were made."""

    examples: list[dict[str, Any]]
    description: dict[str, Any]


def recombine(
    train: Sequence[Example],
    held_out: Sequence[Example],
    schema: SlotSchema | None,
    count: int,
    seed: int,
) -> Pool:
    """Draw up to `count` records that are neither in `train` nor in `held_out`, none twice.

    The same arguments give the same pool. Fewer come out where the training values don't combine
    into more; the description says how many attempts met what.

    Args:
        train: prepared training examples with slots.
        held_out: prepared examples of every split that is measured on.
        schema: tells which slots are quantities; None: none.
        count: records wanted.
        seed: any integer.

    Raises:
        StillhouseError: the training prompts are no records.
    """
    records = [_record(example) for example in train]
    if not records:
        raise StillhouseError('No training prompts to recombine (found 0). Run "dvc repro".')
    rng = Random(seed)  # noqa: S311  reproducible drawing, not cryptography
    donors = list(zip(records, _fold_numbers(records), strict=True))
    parents = find_parents([folded for _, folded in donors], rng)
    taken = {exact_key("", record): "equal_to_training" for record in records}
    # A held-out record counts as such even where training has it too.
    taken |= {exact_key("", e["slots"]): "equal_to_held_out" for e in held_out if e.get("slots")}
    met = Counter(made=0, equal_to_training=0, equal_to_held_out=0, repeated=0)
    examples: list[dict[str, Any]] = []
    for slots in islice(_candidates(donors, parents, schema, rng), ATTEMPTS_PER_RECORD * count):
        if len(examples) == count:
            break
        key = exact_key("", slots)
        if key in taken:
            met[taken[key]] += 1
        else:
            met["made"] += 1
            taken[key] = "repeated"
            examples.append(_example(slots))
    return Pool(examples, _describe(records, parents, seed) | {"asked": count} | dict(met))


def _describe(records: Sequence[Record], parents: Parents, seed: int) -> dict[str, Any]:
    return {
        "method": "slot sets of training records, values drawn along a dependence tree",
        "seed": seed,
        "training_records": len(records),
        "slot_sets": len({frozenset(record) for record in records}),
        "parents": {slot: p and {"slot": p.slot, "share": p.share} for slot, p in parents.items()},
    }


def _candidates(
    donors: Sequence[Donor], parents: Parents, schema: SlotSchema | None, rng: Random
) -> Iterator[dict[str, str]]:
    """Recombined records without end, copies among them."""
    slot_sets = {frozenset(record) for record, _ in donors}
    groups = {names: _groups(names, parents, schema) for names in slot_sets}
    fitting = {
        group: _by_parent(donors, group, parents[group[0]])
        for group in {group for several in groups.values() for group in several}
    }
    while True:
        base = rng.choice(donors)
        yield _draw(rng, base, groups[frozenset(base[0])], parents, fitting)


def _fold_numbers(records: Sequence[Record]) -> list[Record]:
    """The records with "0" for every number in the values of slots whose values are rare."""
    values: dict[str, list[str]] = {}
    for record in records:
        for slot, value in record.items():
            values.setdefault(slot, []).append(value)
    rare = {slot for slot, found in values.items() if len(set(found)) > RARE * len(found)}
    return [
        {slot: _NUMBER.sub("0", value) if slot in rare else value for slot, value in record.items()}
        for record in records
    ]


def find_parents(records: Sequence[Record], rng: Random) -> dict[str, Parent | None]:
    """For each slot the earlier one that tells most about its value; None if none tells enough.

    Earlier means: as records have them. That a slot is absent tells something as well.
    """
    step = -(-len(records) // RECORDS_MEASURED)
    measured = records[::step]
    slots = _slot_order(records)
    codes = {slot: _codes(measured, slot) for slot in slots}
    parents: dict[str, Parent | None] = {}
    for place, slot in enumerate(slots):
        shares = dict(_shares(slot, slots[:place], codes, rng))
        best = max(shares, key=shares.__getitem__, default=None)
        enough = best is not None and shares[best] >= LEAST_SHARE
        parents[slot] = Parent(best, round(shares[best], 4)) if best and enough else None
    return parents


def _shares(
    slot: str, earlier: Sequence[str], codes: Mapping[str, NDArray[np.int64]], rng: Random
) -> Iterator[tuple[str, float]]:
    """What each earlier slot tells about `slot` beyond chance, as share of its entropy."""
    rows = np.flatnonzero(codes[slot])
    child = codes[slot][rows]
    if len(np.unique(child)) < 2:  # constant, or absent from the records that are measured
        return
    entropy = _entropy(child)
    orders = [list(range(len(child))) for _ in range(SHUFFLES)]
    for order in orders:
        rng.shuffle(order)
    for name in earlier:
        parent = codes[name][rows]
        by_chance = sum(_information(parent, child[order]) for order in orders) / SHUFFLES
        yield name, (_information(parent, child) - by_chance) / entropy


def _information(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Mutual information of two columns in nats, from their counts."""
    pair = one * (int(other.max()) + 1) + other
    return _entropy(one) + _entropy(other) - _entropy(pair)


def _entropy(column: NDArray[np.int64]) -> float:
    counts = np.unique(column, return_counts=True)[1]
    return math.log(len(column)) - float((counts * np.log(counts)).sum()) / len(column)


def _codes(records: Sequence[Record], slot: str) -> NDArray[np.int64]:
    """A number per distinct value, 0 where the slot is absent."""
    numbers: dict[str | None, int] = {None: 0}
    return np.array([numbers.setdefault(r.get(slot), len(numbers)) for r in records], np.int64)


def _slot_order(records: Sequence[Record]) -> list[str]:
    """All slots by their mean relative place, as no record need have them all; ties by name."""
    places: dict[str, list[float]] = {}
    for record in records:
        for place, slot in enumerate(record):
            places.setdefault(slot, []).append(place / len(record))
    return sorted(places, key=lambda slot: (sum(places[slot]) / len(places[slot]), slot))


def _groups(
    names: Collection[str], parents: Parents, schema: SlotSchema | None
) -> list[tuple[str, ...]]:
    """Slots from the root of the tree on; a group's values come from one record."""
    groups: dict[str, list[str]] = {}
    for slot in (name for name in parents if name in names):
        parent = parents[slot]
        quantity = schema and schema.slots.get(slot, {}).get("kind") == "quantity"
        # No name of a slot holds a bracket, so the two kinds of keys stay apart.
        key = f"[{parent.slot}" if parent and quantity else slot
        groups.setdefault(key, []).append(slot)
    return [tuple(group) for group in groups.values()]


def _by_parent(donors: Sequence[Donor], group: Sequence[str], parent: Parent | None) -> Donors:
    """The donors that have all slots of `group`, by their value of the group's parent.

    That value is None where the parent is absent or there is no parent.
    """
    found: Donors = {}
    for donor in donors:
        if all(slot in donor[0] for slot in group):
            given = donor[1].get(parent.slot) if parent else None
            found.setdefault(given, []).append(donor)
    return found


def _draw(
    rng: Random,
    base: Donor,
    groups: Sequence[tuple[str, ...]],
    parents: Parents,
    donors: Mapping[tuple[str, ...], Donors],
) -> dict[str, str]:
    """A record with the slots of `base` in its order and values of other records."""
    drawn: dict[str, str] = {}
    folded: dict[str, str] = {}
    for group in groups:
        parent = parents[group[0]]
        fitting = donors[group].get(folded.get(parent.slot) if parent else None)
        # The parent's value was drawn from records that need not have this slot.
        donor = rng.choice(fitting) if fitting else base
        drawn |= {slot: donor[0][slot] for slot in group}
        folded |= {slot: donor[1][slot] for slot in group}
    return {slot: drawn[slot] for slot in base[0]}


def _record(example: Example) -> Record:
    slots: Record | None = example.get("slots")
    prompt = str(example["prompt"])
    if not slots or not is_record(prompt) or parse_record(prompt) != dict(slots):
        raise StillhouseError(
            f"Only records can be recombined; expected slot[value], slot[value] as prompt, found "
            f"{prompt[:60]!r}. Name a file of prompts for the pool, or ask for none."
        )
    return slots


def _example(slots: dict[str, str]) -> dict[str, Any]:
    """A prepared example; its id is made as `prepare` makes it, from the prompt alone."""
    prompt = render_record(slots)
    name = hashlib.sha256(f"{prompt}\x1f".encode()).hexdigest()[:16]
    return {"id": name, "prompt": prompt, "references": [], "slots": slots}
