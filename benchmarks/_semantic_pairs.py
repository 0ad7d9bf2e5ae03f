"""Pairs of prompts: the same asked twice, and near misses planted by rules that no check reads.

Records get theirs here, texts from stages/_planted_errors, questions from semantic_pairs.json.
"""

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import NamedTuple

from serving.slots import is_record, parse_record
from stages import _io
from stages._incidents import IncidentCounts, generate
from stages._planted_errors import KINDS, Clean, Pools, plant_one, pool_values

QUESTIONS = Path(__file__).with_name("semantic_pairs.json")
SAME = "same"
SEED = 6
YES_NO = {"yes": "no", "no": "yes"}
TOWNS = (
    *("Leeds", "York", "Hull", "Bristol", "Derby", "Exeter"),
    *("Lincoln", "Durham", "Oxford", "Bath", "Dover", "Wigan"),
)
# {a} and {b} change places, which turns the question round.
TURNED = (
    "What is the fastest route from {a} to {b}?",
    "How much is a single ticket from {a} to {b} on a Friday?",
    "Does {a} have more schools than {b}?",
    "Did {a} beat {b} in the final?",
    "Why did the council of {a} sue the council of {b}?",
    "Move all orders of {a} to the warehouse in {b}.",
    "Is {a} further north than {b}?",
    "{a} sold its bus company to {b}. What did it get for it?",
    "forward mail that comes for {a} to {b}",
    "how many people who work in {a} live in {b}",
)


class Pair(NamedTuple):
    """Two prompts; of kind "same", or of the kind of its near miss."""

    source: str
    kind: str
    one: str
    other: str


class Row(NamedTuple):
    """A record with texts that say all of it."""

    record: dict[str, str]
    texts: list[str]


def read_pairs(count: int) -> list[Pair]:
    """At most `count` pairs of each source and kind, the same ones each time; hand-made ones all.

    E2E records come with their split's references, which are people's, so that no text of E2E is
    held to mean the same as another.
    """
    e2e, incidents = _e2e(), _incidents(count)
    pairs = [*_questions(), *islice(_turned(), count)]
    for name, rows in (("e2e", e2e), ("incidents", incidents)):
        pools = pool_values(row.record for row in rows)
        for kind, change in RECORD_KINDS.items():
            pairs += islice(_records(f"{name} records", kind, change, rows, pools), count)
        for planted in KINDS:
            pairs += islice(_texts(f"{name} texts", planted, rows, pools), count)
    said_twice = (Pair("incidents texts", SAME, *row.texts[:2]) for row in incidents)
    return [*pairs, *islice(said_twice, count)]


def _questions() -> Iterator[Pair]:
    for question in _io.read_json(QUESTIONS)["questions"]:
        for kind, others in question.items():
            if kind != "ask":
                yield from (Pair("questions", kind, question["ask"], other) for other in others)


def _turned() -> Iterator[Pair]:
    rng = Random(SEED)
    while True:
        form = rng.choice(TURNED)
        a, b = rng.sample(TOWNS, 2)
        yield Pair("templates", "roles", form.format(a=a, b=b), form.format(a=b, b=a))


def _e2e() -> list[Row]:
    """Meaning representations of the E2E development set, in an order of our own."""
    rows: dict[str, Row] = {}
    with (Path(os.environ["E2E_DIR"]) / "devset.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if is_record(row["mr"]):
                rows.setdefault(row["mr"], Row(parse_record(row["mr"]), [])).texts.append(
                    row["ref"]
                )
    found = list(rows.values())
    Random(SEED).shuffle(found)
    return found


def _incidents(count: int) -> list[Row]:
    counts = IncidentCounts(2 * count, 1, 1, 1, train_references=2, held_out_references=1)
    rows = generate(SEED, counts)["train"]
    return [Row(row["slots"], row["references"]) for row in rows]


def _texts(source: str, kind: str, rows: Sequence[Row], pools: Pools) -> Iterator[Pair]:
    for number, row in enumerate(rows):
        clean = Clean(str(number), _write(row.record), row.texts[0], row.record)
        changed = plant_one(kind, clean, pools, SEED)  # type: ignore[arg-type]
        if changed:
            yield Pair(source, kind, clean.text, changed)


Change = Callable[[dict[str, str], Pools, Random], dict[str, str] | None]


def _records(
    source: str, kind: str, change: Change, rows: Sequence[Row], pools: Pools
) -> Iterator[Pair]:
    for number, row in enumerate(rows):
        changed = change(dict(row.record), pools, Random(f"{SEED} {kind} {number}"))
        if changed and _write(changed) != _write(row.record):
            yield Pair(source, kind, _write(row.record), _write(changed))


def _permute(record: dict[str, str], _pools: Pools, rng: Random) -> dict[str, str] | None:
    return {slot: record[slot] for slot in rng.sample(list(record), len(record))}


def _drop(record: dict[str, str], _pools: Pools, rng: Random) -> dict[str, str] | None:
    record.pop(rng.choice(list(record)))
    return record or None


def _change_value(record: dict[str, str], pools: Pools, rng: Random) -> dict[str, str] | None:
    slot = rng.choice(list(record))
    others = [value for value in pools[slot] if value != record[slot]]
    return record | {slot: rng.choice(others)} if others else None


def _flip(record: dict[str, str], _pools: Pools, _rng: Random) -> dict[str, str] | None:
    flags = [slot for slot, value in record.items() if value in YES_NO]
    return record | {flags[0]: YES_NO[record[flags[0]]]} if flags else None


def _digit(record: dict[str, str], _pools: Pools, rng: Random) -> dict[str, str] | None:
    slots = [slot for slot, value in record.items() if any(c.isdigit() for c in value)]
    if not slots:
        return None
    value = record[slots[0]]
    place = rng.choice([n for n, c in enumerate(value) if c.isdigit()])
    digit = str((int(value[place]) + rng.randint(1, 9)) % 10)
    return record | {slots[0]: value[:place] + digit + value[place + 1 :]}


def _exchange(record: dict[str, str], _pools: Pools, rng: Random) -> dict[str, str] | None:
    """Two slots with each other's values: the same words, another meaning."""
    if len(record) < 2:
        return None
    one, other = rng.sample(list(record), 2)
    return record | {one: record[other], other: record[one]}


RECORD_KINDS: Mapping[str, Change] = {
    SAME: _permute,
    "drop_slot": _drop,
    "value": _change_value,
    "negation": _flip,
    "number": _digit,
    "roles": _exchange,
}


def _write(record: Mapping[str, str]) -> str:
    return ", ".join(f"{slot}[{value}]" for slot, value in record.items())
