"""Decision records: what was released, on what evidence, by whom, and what is in force now.

releases/<n>.json are numbered from 1 without gaps, never rewritten, and each holds the SHA-256 of
the file before it, so that no record can be changed or taken out unseen. releases/current.json is a
copy of the last one, `{}` while there is none: the incumbent that `select` compares with. All lie
in Git; a registry is told what they say and never asked.

A record is written first and current.json after it: what a crash leaves between the two is known by
a current.json that lags behind, and `repair` ends it.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypedDict, cast, get_args

from serving.errors import StillhouseError
from stages import _io

SCHEMA_VERSION = 2  # 1 had neither images nor canary
CURRENT = "current.json"
Device = Literal["cpu", "cuda"]
DEVICES: tuple[Device, ...] = get_args(Device)


class Winner(TypedDict):
    """A model that won on a device, as models/winner.json names it."""

    candidate: str
    """Name in reports/evaluate/ and reports/benchmark/."""
    folder: str
    """Model folder, from the project's root."""
    model_sha256: str
    """Digest of the folder's contract (serving/contract.py)."""


Winners = dict[Device, Winner | None]


class Git(TypedDict):
    """The commit and whether files differed from it; None outside of Git."""

    commit: str | None
    dirty: bool | None


class Image(TypedDict):
    """A container image that serves a winner."""

    image: str
    """Repository and digest: name@sha256:… (stages/_images.py)."""
    bento_tag: str
    """Tag of the Bento that is in it."""
    bento_sha256: str
    """SHA-256 of that Bento's file."""


Images = dict[Device, Image]


class Incumbent(TypedDict):
    """What was in force before."""

    release: int
    """Number of the release that had put it there."""
    winners: Winners


class Decision(TypedDict):
    """What is known of a decision before it has a number."""

    kind: Literal["release", "rollback"]
    time: str
    """Universal time, ISO 8601."""
    by: str
    """Who ran the command, as Git or the CI names them."""
    command: str
    reason: str
    git: Git
    winners: Winners
    """`cpu` always, `cuda` a winner or None."""
    scores: dict[Device, dict[str, Any]]
    """Of each winner on the test split: {metric: {score, low, high, signature}}."""
    benchmark: dict[Device, dict[str, Any]]
    """Of each winner: latency, throughput, memory, cost, under the keys of its report."""
    data: dict[str, Any]
    """The test split: name, sha256, examples [count]."""
    candidates: dict[str, dict[str, str]]
    """Every model that was registered, with its digest and lineage, by name."""
    decision: dict[str, Any]
    """reports/select/decision.json as it was: gates, failures, retention, Pareto front."""
    bento: str | None
    """Tag of the Bento that packages the CPU winner, where there was one."""
    images: Images
    """What to deploy, per device; empty where nobody named an image. Read it with `images_of`."""
    canary: dict[str, Any]
    """`verdict` (promote, waived, not_asked) and `reason`; of a promotion also what was compared,
    by which tests, when, and the SHA-256 of the report (stages/_canary_verdict.py)."""


class Record(Decision):
    """A decision in its place in the chain: releases/<release>.json."""

    schema_version: int
    release: int
    """Number of this record."""
    serves: int
    """Number of the release whose models are in force: its own, or the one rolled back to."""
    incumbent: Incumbent | None
    previous_sha256: str | None
    """SHA-256 of the record before; None for the first."""


FIELDS = frozenset(Record.__annotations__)
SINCE_2 = frozenset({"images", "canary"})


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Keep every other release and rollback of this checkout waiting; makes the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_chain(folder: Path) -> list[Record]:
    """All records in their order.

    Raises:
        StillhouseError: a gap in the numbers, or a record that is not what the next one says.
    """
    numbers = sorted(int(path.stem) for path in folder.glob("*.json") if path.stem.isdecimal())
    if numbers != list(range(1, len(numbers) + 1)):
        missing = next(n for n in count(1) if n not in numbers)
        raise StillhouseError(
            f"{folder} has {numbers[-1]}.json but no {missing}.json, and records are never taken "
            f'out. Run "git log -- {folder}" to find it and restore it.'
        )
    chain, before = [], None
    for number in numbers:
        path = _path(folder, number)
        record = _parse(path)
        if record["release"] != number or record["previous_sha256"] != before:
            changed = _path(folder, number - 1) if number > 1 else path
            raise StillhouseError(
                f"{path} does not follow on {changed}: one of them was changed after it was "
                f'written. Run "git checkout -- {folder}" to restore them.'
            )
        chain.append(record)
        before = _io.sha256_file(path)
    return chain


def read_current(path: Path) -> Record | None:
    """The record that is in force, from releases/current.json; None before the first release.

    Raises:
        StillhouseError: the file is absent or no decision record.
    """
    if not path.is_file():
        raise StillhouseError(
            f'{path} is missing; it holds {{}} before the first release. Run "git checkout -- '
            f'{path}" to restore it.'
        )
    return None if _read(path) == {} else _parse(path)


def repair(folder: Path, chain: Sequence[Record]) -> bool:
    """Bring current.json up to the last record; returns whether it lagged behind.

    Raises:
        StillhouseError: current.json is a copy of no record.
    """
    path = folder / CURRENT
    found = _read(path) if path.is_file() else {}
    last: Mapping[str, Any] = chain[-1] if chain else {}
    if found == last and path.is_file():
        return False
    if found and found not in chain:
        raise StillhouseError(
            f"{path} is a copy of no record in {folder}. "
            f'Run "git checkout -- {path}" to restore it, or put {{}} into it to have it made.'
        )
    _io.write_json(path, last)
    return bool(chain)


def next_record(
    folder: Path, chain: Sequence[Record], decision: Decision, serves: int | None = None
) -> Record:
    """`decision` in its place behind `chain`; `serves` is the release that a rollback goes to."""
    number, serving = len(chain) + 1, in_force(chain)
    left: Incumbent | None = None
    if serving:
        left = {"release": serving["release"], "winners": chain[-1]["winners"]}
    return {
        "schema_version": SCHEMA_VERSION,
        "release": number,
        "serves": serves or number,
        **decision,
        "incumbent": left,
        "previous_sha256": _io.sha256_file(_path(folder, number - 1)) if chain else None,
    }


def append(folder: Path, record: Record) -> None:
    """Write the record, then current.json."""
    _io.write_json(_path(folder, record["release"]), record)
    _io.write_json(folder / CURRENT, record)


def in_force(chain: Sequence[Record]) -> Record | None:
    """The release whose models serve: the last one, or the one last rolled back to."""
    return chain[chain[-1]["serves"] - 1] if chain else None


def before(chain: Sequence[Record]) -> Record | None:
    """The release that the one in force took over from: where a rollback goes."""
    serving = in_force(chain)
    incumbent = serving["incumbent"] if serving else None
    return chain[incumbent["release"] - 1] if incumbent else None


def same_winners(one: Winners, other: Winners) -> bool:
    """Whether the same models win on the same devices, whatever their names and folders."""
    return digests(one) == digests(other)


def images_of(record: Decision) -> Images:
    """The images of a record; none in one of schema version 1."""
    return record.get("images") or {}


def references(images: Images) -> dict[Device, str]:
    """Names with digests by device."""
    return {device: image["image"] for device, image in images.items()}


def has(record: Record, winners: Winners, images: Mapping[Device, str]) -> bool:
    """Whether a record has these winners in these images; where none is named, in any."""
    there = references(images_of(record)).items()
    return same_winners(record["winners"], winners) and images.items() <= there


def withdrawn(
    chain: Sequence[Record], winners: Winners, images: Mapping[Device, str]
) -> Record | None:
    """The rollback that took these out of force, unless they were released again since."""
    for record in chain[::-1]:
        if has(record, winners, images):
            return None
        left = record["incumbent"] if record["kind"] == "rollback" else None
        if left is not None and has(chain[left["release"] - 1], winners, images):
            return record
    return None


def digests(winners: Winners) -> dict[Device, str]:
    """The winners' models by device; devices without one are left out."""
    return {device: winner["model_sha256"] for device, winner in winners.items() if winner}


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number}.json"


def _read(path: Path) -> Any:
    try:
        return _io.read_json(path)
    except StillhouseError:  # whose advice is for what a stage can make again
        raise StillhouseError(
            f'{path} is not JSON. Run "git checkout -- {path}" to restore it.'
        ) from None


def _parse(path: Path) -> Record:
    data = _read(path)
    version = data.get("schema_version") if isinstance(data, dict) else None
    needed = FIELDS - SINCE_2 if version == 1 else FIELDS
    if type(version) is not int or not data.keys() >= needed:
        lacking = sorted(needed - data.keys()) if isinstance(data, dict) else "everything"
        raise StillhouseError(
            f"{path} is no decision record (it lacks {lacking}). "
            f'Run "git checkout -- {path}" to restore it.'
        )
    if version > SCHEMA_VERSION:
        raise StillhouseError(
            f"{path} has schema version {version}, this program reads up to {SCHEMA_VERSION}. "
            f"Update Stillhouse."
        )
    return cast(Record, data)
