"""Weighted choices from tables, and which values are held out of training.

Choices take a `random.Random` that the caller made from a seed; hold-outs depend on the value
alone (SHA-256), so that they are the same for every seed, machine and run.
"""

import hashlib
from collections.abc import Iterable, Sequence
from random import Random
from typing import Final, TypeVar

Choice = TypeVar("Choice")
Options = Sequence[tuple[float, str]]

# Share of each slot's values that never occurs in training. Slots that are absent here are closed:
# a status page has one vocabulary for severity, status and the yes/no questions.
HELD_OUT: Final[dict[str, float]] = {
    "service": 0.35,
    "region": 0.15,
    "metric": 0.12,
    "symptom": 0.15,
    "value": 0.35,
    "threshold": 0.2,
    "start": 0.4,
    "duration": 0.35,
    "customers": 0.4,
    "cause": 0.35,
    "action": 0.2,
}
HELD_OUT_COMBINATIONS: Final = 0.15
# Which values fall out is chance; this salt was picked so that training keeps the likes of "bad
# deploy", "rolled back" and "p99 latency", and every cause keeps an action.
_SALT: Final = 4193


def names(listed: str) -> tuple[str, ...]:
    """The parts of a table row that is written with | between them."""
    return tuple(listed.split("|"))


def choose(rng: Random, options: Options) -> str:
    """One of the options, by weight."""
    point = rng.random() * sum(weight for weight, _ in options)
    for weight, text in options:
        point -= weight
        if point < 0:
            return text
    return options[-1][1]


def pick(rng: Random, items: Sequence[Choice], weights: Sequence[float]) -> Choice:
    """One of `items`, by weight; written out because `Random.choices` may change its steps."""
    point = rng.random() * sum(weights)
    for item, weight in zip(items, weights, strict=True):
        point -= weight
        if point < 0:
            return item
    return items[-1]


def held_out(slot: str, value: str) -> bool:
    """Whether training never shows this value in this slot."""
    return slot in HELD_OUT and _position(f"{slot}={value}") < HELD_OUT[slot]


def combination_held_out(slots: Iterable[str]) -> bool:
    """Whether training never shows this set of slots together."""
    return _position("+".join(sorted(slots))) < HELD_OUT_COMBINATIONS


def _position(text: str) -> float:
    """A fixed place of `text` in 0..1, evenly spread over texts."""
    return int.from_bytes(hashlib.sha256(f"{_SALT}|{text}".encode()).digest()[:8], "big") / 2**64
