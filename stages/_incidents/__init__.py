"""The built-in data set `incidents`: records of operations incidents and how people report them.

A generator, deterministic by seed and free of global state: every row has its own random stream,
seeded with the data set's seed, its split and its number. Held-out splits are drawn first, so that
the size of train does not change what test asks. Prompts are unique over all splits.

Values and slot combinations that are held out (see `_incidents.choice`) never occur in train; the
held-out splits ask for a stated share of them. References are clean: each says every slot of its
record and claims nothing else, which `serving.slots` with configs/schemas/incidents.yaml checks.
"""

from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal

from stages._incidents.drift import Drift, Scenario, drifted_draw
from stages._incidents.grammar import Written, write_in_new_style, write_report
from stages._incidents.records import Draw, Record, draw_record, prompt_of

Split = Literal["train", "validation", "calibration", "test"]
Row = dict[str, Any]

_ORDER: Final[tuple[Split, ...]] = ("test", "calibration", "validation", "train")
MOST_TRIES: Final = 60  # to find references that differ from each other
TRAIN_DRAW: Final = Draw()
HELD_OUT_DRAW: Final = Draw(unseen=0.5, unseen_combinations=0.3)


@dataclass(frozen=True)
class IncidentCounts:
    """How much to generate.

    Attributes:
        train, validation, calibration, test: prompts per split.
        train_references, held_out_references: references per prompt.
    """

    train: int = 6_000
    validation: int = 300
    calibration: int = 500
    test: int = 640
    train_references: int = 2
    held_out_references: int = 5


def generate(
    seed: int, counts: IncidentCounts, drift: Drift | None = None
) -> dict[Split, list[Row]]:
    """The data set: per split a list of {prompt, references, slots, meta}.

    `meta` holds the plan of each reference and, in a changed row, the drift's scenario. With
    `drift`, every split changes at its share; without, no row does.
    """
    seen: set[str] = set()
    rows: dict[Split, list[Row]] = {}
    for split in _ORDER:
        how = TRAIN_DRAW if split == "train" else HELD_OUT_DRAW
        wanted = counts.train_references if split == "train" else counts.held_out_references
        rows[split] = [
            _row(f"{seed}/{split}/{number}", how, wanted, _change(drift, number), seen)
            for number in range(getattr(counts, split))
        ]
    return {split: rows[split] for split in reversed(_ORDER)}


def drifted(
    seed: int, rows: int, scenario: Scenario, share: float, references: int = 5
) -> list[Row]:
    """Fresh rows, drawn like the held-out splits, of which `share` (0..1) is changed.

    Row n is the same for every share in which it is not changed, and the same for every share in
    which it is, so that shares can be compared row by row.
    """
    drift, seen = Drift(scenario, share), set[str]()
    return [
        _row(f"{seed}/fresh/{number}", HELD_OUT_DRAW, references, _change(drift, number), seen)
        for number in range(rows)
    ]


def _change(drift: Drift | None, number: int) -> Scenario | None:
    return drift.scenario if drift and drift.changes(number) else None


def _row(key: str, how: Draw, wanted: int, change: Scenario | None, seen: set[str]) -> Row:
    """One example; its prompt is new to `seen`, which it joins."""
    rng = Random(key)  # noqa: S311  made-up data, not cryptography
    how = drifted_draw(how, change) if change else how
    record = _fresh_record(rng, how, change, seen)
    written = _write_differently(rng, record, change, wanted)
    meta: dict[str, Any] = {"plans": [one.plan for one in written]}
    return {
        "prompt": prompt_of(record),
        "references": [one.text for one in written],
        "slots": record,
        "meta": meta | ({"drift": change} if change else {}),
    }


def _write_differently(
    rng: Random, record: Record, change: Scenario | None, wanted: int
) -> list[Written]:
    """So many reports; they differ, unless a record leaves too little to vary."""
    write = write_in_new_style if change == "style" else write_report
    written: dict[str, Written] = {}
    for _ in range(MOST_TRIES):
        one = write(rng, record)
        written.setdefault(one.text, one)
        if len(written) == wanted:
            return list(written.values())
    kept = list(written.values())
    return [kept[place % len(kept)] for place in range(wanted)]


def _fresh_record(rng: Random, how: Draw, change: Scenario | None, seen: set[str]) -> Record:
    """A record whose prompt is not in `seen` yet."""
    while True:
        record = draw_record(rng, how)
        if change == "style":
            order = list(record)
            rng.shuffle(order)
            record = {slot: record[slot] for slot in order}
        if prompt_of(record) not in seen:
            seen.add(prompt_of(record))
            return record
