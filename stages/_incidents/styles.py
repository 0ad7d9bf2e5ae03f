"""Two registers that the data set never has, for the drift scenario "style".

A ticket lists labelled facts; a chat message is typed in lower case to colleagues. Both say the
same slots as every other report, in words that training did not show.
"""

from typing import Final

from stages._incidents.choice import Options, choose
from stages._incidents.metrics import metric_of, short_metric
from stages._incidents.numbers import say_quantity
from stages._incidents.phrases import Scene, action_passive, cause, customers, symptom

_GREETINGS: Final[Options] = (
    (3, "heads-up: "), (2, "hey all, "), (2, "fyi, "), (1, "morning folks, "), (1, "ok so "),
)  # fmt: skip
_TROUBLE: Final[Options] = (
    (3, "{where} is having a rough time"),
    (2, "{where} is acting up"),
    (2, "{where} is struggling"),
)
_TROUBLE_OVER: Final[Options] = (
    (3, "{where} had a rough time"),
    (2, "{where} was acting up"),
    (2, "{where} was struggling"),
)
_CHAT_FLAGS: Final[dict[str, Options]] = {
    "no data_loss": ((2, "no data lost btw"), (1, "didn't lose any data")),
    "yes data_loss": ((1, "and yeah, we lost some data"),),
    "yes workaround": ((1, "there's a workaround if you need it"),),
    "no workaround": ((1, "no workaround, sorry"),),
}
_CHAT_STATUS: Final[dict[str, str]] = {
    "resolved": "all resolved now",
    "monitoring": "monitoring for a bit",
    "identified": "cause is identified at least",
    "investigating": "still investigating",
}
_LABELS: Final[tuple[tuple[str, str], ...]] = (
    ("service", "Service"), ("region", "Region"), ("symptom", "Symptom"), ("signal", "Signal"),
    ("start", "Start"), ("duration", "Duration"), ("severity", "Severity"),
    ("customers", "Impact"), ("cause", "Root cause"), ("action", "Mitigation"),
    ("data_loss", "Data loss"), ("workaround", "Workaround"), ("status", "Status"),
)  # fmt: skip


def write_ticket(scene: Scene) -> str:
    """Labelled facts in a line: "Service: checkout-api | Signal: p99 latency 1.8 s | ..."."""
    facts = dict(scene.record)
    if "customers" in facts:
        facts["customers"] = customers(scene)
    if "metric" in facts:
        facts["signal"] = _signal(scene)
    mark = choose(scene.rng, ((3, " | "), (2, "; ")))
    return mark.join(f"{label}: {facts[slot]}" for slot, label in _LABELS if slot in facts)


def write_chat(scene: Scene) -> str:
    """A message to colleagues, in lower case and short sentences."""
    record, rng = scene.record, scene.rng
    where = record["service"] + (f" in {record['region']}" if "region" in record else "")
    trouble = choose(rng, _TROUBLE if scene.ongoing else _TROUBLE_OVER).format(where=where)
    parts = [choose(rng, _GREETINGS) + trouble + _chat_anomaly(scene) + _chat_time(scene)]
    if "severity" in record:
        parts.append(f"calling it {record['severity']}")
    if "customers" in record:
        parts.append(f"{customers(scene)} hit")
    if "cause" in record:
        parts.append(f"looks like {cause(scene)}")
    if "action" in record:
        parts.append(action_passive(scene))
    for slot in ("data_loss", "workaround"):
        if slot in record:
            parts.append(choose(rng, _CHAT_FLAGS[f"{record[slot]} {slot}"]))
    if "status" in record:
        parts.append(_CHAT_STATUS[record["status"]])
    return ". ".join(parts)


def _signal(scene: Scene) -> str:
    """ "p99 latency 1.8 s (limit 400 ms)"."""
    record = scene.record
    text = short_metric(scene) if "value" in record else f"{_grade(scene)} {short_metric(scene)}"
    text += f" {say_quantity(scene.rng, record['value'], 'short')}" if "value" in record else ""
    if "threshold" in record:
        text += f" (limit {say_quantity(scene.rng, record['threshold'], 'short')})"
    return text


def _chat_anomaly(scene: Scene) -> str:
    record = scene.record
    seen = [_signal(scene)] if "metric" in record else []
    seen += [symptom(scene)] if "symptom" in record else []
    return f" - {' and '.join(seen)}" if seen else ""


def _chat_time(scene: Scene) -> str:
    record = scene.record
    since = "since" if scene.ongoing else "from"
    text = f" {since} {record['start']}" if "start" in record else ""
    if "duration" in record:
        text += f" for {say_quantity(scene.rng, record['duration'], 'short')}"
    return text


def _grade(scene: Scene) -> str:
    return "low" if metric_of(scene).low else "high"
