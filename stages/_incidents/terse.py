"""The terse register: a report as people type it into a channel, in fragments.

"checkout-api (eu-west-1): p99 latency 1.8 s, threshold 400 ms, for 25 min. Bad deploy, rolled
back." Fragments come from the same phrases as sentences do; only their joining differs.
"""

from typing import Final

from stages._incidents.causes import ACTIONS
from stages._incidents.choice import Options, choose
from stages._incidents.metrics import metric_of, short_metric, value
from stages._incidents.numbers import say_quantity
from stages._incidents.phrases import Scene, customers, symptom
from stages._incidents.times import when

_PLACE: Final[Options] = ((5, "{service} ({region})"), (4, "{service} in {region}"))
_LIMIT: Final[Options] = ((5, " (threshold {})"), (3, ", threshold {}"), (2, " (limit {})"))
_SEVERITY: Final[Options] = ((4, "severity {}"), (3, "{} incident"))
_CUSTOMERS: Final[Options] = ((6, "{} affected"), (2, "impact: {}"))
_CAUSE: Final[Options] = ((6, "cause: {}"), (2, "root cause: {}"), (2, "caused by {}"))
_ACTION: Final[Options] = ((5, "{done}"), (2, "fix: {done}"), (2, "action: {done}"))
_FLAGS: Final[dict[str, Options]] = {
    "data_loss no": ((5, "no data loss"), (3, "no data lost")),
    "data_loss yes": ((5, "some data lost"), (3, "some data loss")),
    "workaround yes": ((5, "workaround available"), (2, "there is a workaround")),
    "workaround no": ((5, "no workaround"), (2, "no workaround available")),
}
_STATUS: Final[dict[str, Options]] = {
    "resolved": ((5, "resolved"), (3, "now resolved"), (1, "status: resolved")),
    "monitoring": ((5, "monitoring"), (3, "now monitoring"), (1, "status: monitoring")),
    "identified": ((4, "cause identified"), (2, "status: identified")),
    "investigating": ((5, "investigating"), (3, "still investigating")),
}


def write_terse(scene: Scene) -> str:
    """The whole report in fragments."""
    fragments = [*_impact(scene), *_repair(scene), *_flags(scene)]
    mark = choose(scene.rng, ((5, ". "), (3, ", "), (2, "; ")))
    head = _head(scene)
    if not fragments:
        return f"{head}."
    if mark == ". ":
        return " ".join(f"{part[:1].upper() + part[1:]}." for part in fragments).join(
            (f"{head}. ", "")
        )
    body = mark.join(fragments)
    return f"{head}. {body[:1].upper() + body[1:]}."


def _head(scene: Scene) -> str:
    """Where and what: "checkout-api (eu-west-1): p99 latency 1.8 s (threshold 400 ms)"."""
    record, rng = scene.record, scene.rng
    place = record["service"]
    if "region" in record:
        place = choose(rng, _PLACE).format(service=place, region=record["region"])
    if "metric" in record:
        thing = f"{'low' if metric_of(scene).low else 'high'} {short_metric(scene)}"
        if "value" in record:
            thing = short_metric(scene) + choose(rng, ((5, " {}"), (4, " at {}"))).format(
                value(scene)
            )
        if "threshold" in record:
            thing += choose(rng, _LIMIT).format(say_quantity(rng, record["threshold"], "short"))
    else:
        thing = symptom(scene).removeprefix("an ") if "symptom" in record else "incident"
    time = [slot for slot in ("start", "duration") if slot in record]
    span = when(scene, time, early=False).text
    return f"{place}: {thing}{',' if ', threshold' in thing and span else ''}{span}"


def _impact(scene: Scene) -> list[str]:
    record, rng, parts = scene.record, scene.rng, []
    if "symptom" in record and "metric" in record:
        parts.append(symptom(scene).removeprefix("an "))
    if "severity" in record:
        parts.append(choose(rng, _SEVERITY).format(record["severity"]))
    if "customers" in record:
        parts.append(choose(rng, _CUSTOMERS).format(customers(scene)))
    return parts


def _repair(scene: Scene) -> list[str]:
    record, rng, parts = scene.record, scene.rng, []
    if "cause" in record:
        parts.append(choose(rng, _CAUSE).format(record["cause"]))
    if "action" in record:
        parts.append(choose(rng, _ACTION).format(done=_done(scene)))
    return parts


def _done(scene: Scene) -> str:
    """ "pods restarted" or "restarted the pods"."""
    row = ACTIONS[scene.record["action"]]
    if row.thing and not row.rest and scene.rng.random() < 0.4:
        return f"{row.thing.removeprefix('the ').removeprefix('a ')} {row.verb}"
    return row.value


def _flags(scene: Scene) -> list[str]:
    record, rng = scene.record, scene.rng
    parts = [
        choose(rng, _FLAGS[f"{slot} {record[slot]}"])
        for slot in ("data_loss", "workaround")
        if slot in record
    ]
    return parts + ([choose(rng, _STATUS[record["status"]])] if "status" in record else [])
