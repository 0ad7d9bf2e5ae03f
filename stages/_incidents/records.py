"""Draws incident records: which slots are there, and values that belong together as in life.

The kind of service decides what is measured, the metric its unit, limits and likely causes, the
cause what was done about it, the severity how many customers felt it, what was done the status.
Training draws only values and slot combinations that are not held out; held-out splits ask for a
stated share of held-out ones.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, TypeVar

from stages._incidents.causes import CAUSES, Cause, cause_of, place_phrase
from stages._incidents.choice import combination_held_out, held_out, pick
from stages._incidents.values import clock, customers, duration, measured
from stages._incidents.world import (
    DOMAINS,
    KIND_CAUSES,
    KIND_WEIGHTS,
    METRICS,
    PRODUCT_DOMAINS,
    REGIONS,
    SLOW_METRICS,
    SUFFIXES,
    SYMPTOMS,
    Kind,
    Metric,
)

Item = TypeVar("Item")
Record = dict[str, str]

SLOTS: Final[tuple[str, ...]] = (
    "service",
    "symptom",
    "metric",
    "value",
    "threshold",
    "region",
    "start",
    "duration",
    "severity",
    "customers",
    "cause",
    "action",
    "data_loss",
    "workaround",
    "status",
)
LEAST_SLOTS: Final = 3
MOST_SLOTS: Final = 9
# Few values of a short list are held out; asked for as often as others, they would be everywhere.
LISTED_UNSEEN: Final = 0.5
HOME_REGIONS: Final = 3  # a service runs in few regions; most of its incidents happen there


@dataclass(frozen=True)
class ProductLine:
    """Services apart from the known ones: their names <domain>-<suffix>, and what they are."""

    domains: tuple[str, ...]
    suffixes: tuple[str, ...]
    kinds: tuple[Kind, ...]


@dataclass(frozen=True)
class Draw:
    """How records are drawn.

    Attributes:
        unseen: share of open slots that ask for a value held out of training, 0..1; slots whose
            values are a short list ask at `LISTED_UNSEEN` of it.
        unseen_combinations: share of records whose set of slots is held out of training, 0..1.
        least, most: number of slots of a record.
        line: services come from this product line instead of the known ones.
        metrics: the metrics to draw from.
        needs: slots that every record has.
    """

    unseen: float = 0.0
    unseen_combinations: float = 0.0
    least: int = LEAST_SLOTS
    most: int = MOST_SLOTS
    line: ProductLine | None = None
    metrics: tuple[Metric, ...] = METRICS
    needs: frozenset[str] = frozenset()


def draw_record(rng: Random, how: Draw) -> Record:
    """One record, its slots in canonical order."""
    names = _draw_slot_set(rng, how)
    kinds = how.line.kinds if how.line else tuple(KIND_WEIGHTS)
    kind = pick(rng, kinds, [KIND_WEIGHTS[kind] for kind in kinds])
    record = {"service": _draw_service(rng, kind, how)}
    family = _draw_observation(rng, kind, names, record, how)
    if "region" in names:
        record["region"] = _draw_region(rng, record["service"], how)
    if "start" in names:
        record["start"] = _open(rng, "start", lambda: clock(rng), how)
    if "duration" in names:
        slow = record.get("metric") in SLOW_METRICS
        record["duration"] = _open(rng, "duration", lambda: duration(rng, slow), how)
    _draw_impact(rng, names, record, how)
    _draw_story(rng, names, family, record, how)
    return {slot: record[slot] for slot in SLOTS if slot in record}


def prompt_of(record: Record) -> str:
    """The record as a prompt: `service[checkout-api], metric[p99 latency], ...`."""
    return ", ".join(f"{slot}[{value}]" for slot, value in record.items())


def _draw_slot_set(rng: Random, how: Draw) -> frozenset[str]:
    """Slot names that fit the wanted size and, if so drawn, a combination held out of training."""
    want = rng.random() < how.unseen_combinations
    while True:
        names = _slot_set(rng, stretch=how.least > MOST_SLOTS)
        fits = how.least <= len(names) <= how.most and how.needs <= names
        if fits and combination_held_out(names) == want:
            return names


def _slot_set(rng: Random, stretch: bool) -> frozenset[str]:
    """Slots as they come together in life; `stretch` fills records beyond the usual."""

    def chance(usual: float) -> bool:
        return rng.random() < (1 - (1 - usual) * 0.4 if stretch else usual)

    names = {"service"}
    if chance(0.76):
        names.add("metric")
        has_value = chance(0.93)
        names |= {"value"} if has_value else set()
        names |= {"threshold"} if chance(0.48 if has_value else 0.55) else set()
    observed = "metric" in names
    if (stretch and observed) or (not stretch and not observed and chance(0.93)) or chance(0.06):
        names.add("symptom")
    if chance(0.52):
        names.add("cause")
    if chance(0.6 if "cause" in names else 0.16):
        names.add("action")
    usual = {
        "region": 0.45,
        "start": 0.25,
        "duration": 0.45,
        "severity": 0.32,
        "customers": 0.38,
        "data_loss": 0.14,
        "workaround": 0.1,
        "status": 0.26,
    }
    return frozenset(names | {slot for slot, share in usual.items() if chance(share)})


def _open(rng: Random, slot: str, draw: Callable[[], str], how: Draw) -> str:
    """A value of an open slot, held out of training or not as the draw wants it."""
    want = rng.random() < how.unseen
    for _ in range(200):
        value = draw()
        if held_out(slot, value) == want:
            return value
    while held_out(slot, value := draw()):
        pass
    return value


def _listed(rng: Random, slot: str, items: Sequence[Item], name: Callable[[Item], str],
            weight: Callable[[Item], float], how: Draw) -> Item:  # fmt: skip
    """One of a short list; falls back to the values training knows when none is held out."""
    want = rng.random() < how.unseen * LISTED_UNSEEN
    kept = [item for item in items if held_out(slot, name(item)) == want]
    kept = kept or [item for item in items if not held_out(slot, name(item))] or list(items)
    return pick(rng, kept, [weight(item) for item in kept])


def _draw_service(rng: Random, kind: Kind, how: Draw) -> str:
    if how.line:
        line = how.line
        return f"{rng.choice(line.domains)}-{rng.choice(line.suffixes)}"

    def name() -> str:
        suffix = rng.choice(SUFFIXES[kind])
        if kind == "product":
            return f"{rng.choice(PRODUCT_DOMAINS)} {suffix}"
        return f"{rng.choice(DOMAINS)}-{suffix}"

    return _open(rng, "service", name, how)


def _draw_region(rng: Random, service: str, how: Draw) -> str:
    """Mostly one of the service's home regions, which its name decides."""
    digest = hashlib.sha256(service.encode()).digest()
    names = list(REGIONS)
    homes = {names[digest[place] % len(names)] for place in range(HOME_REGIONS)}
    return _listed(
        rng, "region", names, str, lambda n: REGIONS[n][0] * (12 if n in homes else 1), how
    )


def _draw_observation(
    rng: Random, kind: Kind, names: frozenset[str], record: Record, how: Draw
) -> Sequence[str]:
    """Fills symptom, metric, value and threshold; returns the cause families that explain them."""
    if "symptom" in names:
        seen = [symptom for symptom in SYMPTOMS if kind in symptom.kinds]
        record["symptom"] = _listed(rng, "symptom", seen, lambda s: s.name, lambda _: 1, how).name
    if "metric" not in names:
        return KIND_CAUSES[kind]
    known = [metric for metric in how.metrics if kind in metric.kinds]
    if "duration" in names:  # nobody says for how many minutes a certificate had four days left
        known = [metric for metric in known if metric.family != "days"]
    metric = _listed(rng, "metric", known, lambda m: m.name, lambda m: m.weight, how)
    record["metric"] = metric.name
    limit = _listed(rng, "threshold", metric.thresholds, str, lambda _: 1, how)
    if "threshold" in names:
        record["threshold"] = limit
    if "value" in names:
        record["value"] = limit
        while record["value"] == limit:  # rounded onto it: nobody would call that past the limit
            record["value"] = _open(rng, "value", lambda: measured(rng, metric, limit), how)
    return metric.causes


def _draw_impact(rng: Random, names: frozenset[str], record: Record, how: Draw) -> None:
    """Severity and the customers who felt it: the worse, the more."""
    severity = pick(rng, ("critical", "major", "minor"), (3, 5, 4))
    if "severity" in names:
        record["severity"] = severity
    if "customers" in names:
        record["customers"] = _open(rng, "customers", lambda: customers(rng, severity), how)


def _draw_story(
    rng: Random, names: frozenset[str], families: Sequence[str], record: Record, how: Draw
) -> None:
    """Cause, what was done about it, what that means for data and customers, and the status."""
    possible = [cause for cause in CAUSES if cause.family in families and _answerable(cause)]
    cause = _open(rng, "cause", lambda: _cause(rng, possible), how)
    if "cause" in names:
        record["cause"] = cause
    if "action" in names:
        record["action"] = _listed(
            rng, "action", cause_of(cause).actions, str, lambda _: 1, how
        )  # fmt: skip
    if "data_loss" in names:
        record["data_loss"] = pick(rng, ("no", "yes"), (5, 1))
    if "workaround" in names:
        record["workaround"] = pick(rng, ("yes", "no"), (5, 4))
    if "status" in names:
        record["status"] = _status(rng, record)


def _answerable(cause: Cause) -> bool:
    """Whether training knows an action that answers this cause."""
    return any(not held_out("action", action) for action in cause.actions)


def _cause(rng: Random, possible: Sequence[Cause]) -> str:
    cause = rng.choice(possible)
    if cause.place and (not cause.bare or rng.random() < 0.6):
        return f"{cause.head} {place_phrase(cause.place, rng)}"
    return cause.head


def _status(rng: Random, record: Record) -> str:
    """Where the incident stands, which what is known and done so far limits."""
    if "action" in record:
        return pick(rng, ("resolved", "monitoring"), (6, 4))
    if "cause" in record:
        return pick(rng, ("identified", "resolved"), (6, 4))
    return pick(rng, ("investigating", "resolved"), (7, 3))
