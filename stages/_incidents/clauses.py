"""Clauses about an incident whose anomaly has been told: impact, cause, repair, data, status.

Every message can take several shapes: a clause of its own ("3% of customers were affected"), a
verb phrase about the incident ("affected 3% of customers"), which several messages share as one
coordinated predicate, or an addition to another clause (", affecting 3% of customers").
"""

from typing import Final

from stages._incidents.choice import Options, choose
from stages._incidents.phrases import (
    Scene,
    action,
    action_gerund,
    action_passive,
    agent,
    agreeing,
    amount,
    cause,
    customers,
    symptom,
)

# Own clauses: (told in the past, told in the present).
_OWN: Final[dict[str, tuple[Options, Options]]] = {
    "customers": (
        ((8, "{customers} were affected"), (2, "{customers} were impacted"),
         (2, "this affected {customers}"), (1, "{customers} felt the impact"),
         (1, "as a result, {customers} were affected")),
        ((8, "{customers} are affected"), (2, "{customers} are impacted"),
         (2, "this affects {customers}")),
    ),
    "severity": (
        ((6, "this was a {severity} incident"), (3, "the incident was rated {severity}"),
         (2, "severity was {severity}"), (1, "we rated it {severity}"),
         (1, "the incident was classified as {severity}")),
        ((6, "this is a {severity} incident"), (3, "the incident is rated {severity}"),
         (2, "severity is {severity}"), (1, "we have rated it {severity}"),
         (1, "the incident is classified as {severity}")),
    ),
    "duration": (
        ((8, "the incident lasted {duration}"), (3, "it lasted {duration}"),
         (1, "this went on for {duration}")),
        ((4, "this has been going on for {duration}"), (3, "the incident has lasted {duration}"),
         (2, "it has lasted {duration} so far")),
    ),
    "start": (
        ((5, "the incident began at {start}"), (4, "it started at {start}"),
         (3, "the incident started at {start}")),
        ((5, "the incident began at {start}"), (4, "it started at {start}"),
         (3, "the incident started at {start}")),
    ),
    "cause": (
        ((8, "the cause was {cause}"), (3, "it was caused by {cause}"),
         (2, "{agent} traced this to {cause}"), (2, "{cause} was the cause"),
         (1, "{cause} was to blame"), (1, "the root cause was {cause}"),
         (1, "this came down to {cause}")),
        ((7, "the cause is {cause}"), (3, "it is caused by {cause}"),
         (2, "we have traced it to {cause}"), (2, "{cause} is the cause"),
         (1, "{cause} is to blame"), (1, "the root cause is {cause}")),
    ),
    "action": (
        ((8, "{agent} {action}"), (5, "{passive}"), (1, "in response, {agent} {action}")),
    ) * 2,
    "symptom": (
        ((5, "customers saw {symptom}"), (3, "the result was {symptom}"),
         (2, "this led to {symptom}")),
        ((5, "customers are seeing {symptom}"), (3, "the result is {symptom}"),
         (2, "this is leading to {symptom}")),
    ),
    "no data_loss": (
        ((7, "no data was lost"), (3, "there was no data loss"), (1, "no data loss occurred"),
         (1, "all data is safe")),
        ((7, "no data has been lost"), (3, "there has been no data loss"),
         (1, "all data is safe")),
    ),
    "yes data_loss": (
        ((5, "some data was lost"), (3, "there was some data loss"),
         (2, "the incident caused data loss")),
        ((5, "some data has been lost"), (3, "there has been some data loss"),
         (2, "the incident has caused data loss")),
    ),
    "yes workaround": (
        ((6, "a workaround was available"), (2, "there was a workaround")),
        ((7, "a workaround is available"), (3, "there is a workaround"),
         (1, "a workaround exists")),
    ),
    "no workaround": (
        ((5, "no workaround was available"), (4, "there was no workaround")),
        ((5, "no workaround is available"), (5, "there is no workaround"),
         (1, "no workaround exists"), (1, "there is no known workaround")),
    ),
    "resolved": (
        ((7, "the incident is resolved"), (4, "the incident has been resolved"),
         (3, "this is now resolved"), (2, "the incident is now resolved")),
    ) * 2,
    "monitoring": (
        ((6, "we are monitoring"), (4, "we are monitoring the service"),
         (2, "we continue to monitor"), (2, "monitoring continues"),
         (1, "the incident is being monitored")),
    ) * 2,
    "identified": (
        ((6, "the cause has been identified"), (4, "we have identified the cause")),
    ) * 2,
    "investigating": (
        ((8, "we are investigating"), (3, "we are still investigating"),
         (2, "the incident is under investigation"), (2, "engineers are investigating")),
    ) * 2,
    "identified cause": (
        ((5, "we have identified the cause as {cause}"), (4, "the cause was identified as {cause}"),
         (3, "{cause} has been identified as the cause"),
         (2, "we have identified {cause} as the cause")),
    ) * 2,
}  # fmt: skip

# Predicates of "the incident": (past, present).
_PREDICATES: Final[dict[str, tuple[Options, Options]]] = {
    "start": (((5, "began at {start}"), (5, "started at {start}")),) * 2,
    "duration": (
        ((9, "lasted {duration}"), (1, "went on for {duration}")),
        ((5, "has lasted {duration}"), (4, "has been going on for {duration}")),
    ),
    "severity": (
        ((6, "was rated {severity}"), (3, "was {severity}"), (1, "was classified as {severity}")),
        ((6, "is rated {severity}"), (3, "is {severity}"), (1, "is classified as {severity}")),
    ),
    "customers": (
        ((9, "affected {customers}"), (2, "impacted {customers}")),
        ((8, "is affecting {customers}"), (2, "affects {customers}"),
         (1, "is impacting {customers}")),
    ),
    "cause": (
        ((8, "was caused by {cause}"), (2, "was traced to {cause}"), (2, "was due to {cause}")),
        ((8, "is caused by {cause}"), (2, "has been traced to {cause}"), (2, "is due to {cause}")),
    ),
    "no data_loss": (
        ((5, "caused no data loss"), (2, "did not cause data loss")),
        ((5, "has caused no data loss"), (2, "has not caused data loss")),
    ),
    "yes data_loss": (((5, "caused data loss"),), ((5, "has caused data loss"),)),
    "resolved": (((6, "is now resolved"), (4, "has been resolved")),) * 2,
}  # fmt: skip

_CAUSE_AND_ACTION: Final[Options] = (
    (6, "the cause was {cause}, so {agent} {action}"),
    (3, "{agent} traced this to {cause} and {action}"),
    (2, "{agent} traced it to {cause} and {action}"),
    (3, "the cause was {cause}, and {passive}"),
    (2, "{agent} {action} after tracing it to {cause}"),
    (2, "after tracing it to {cause}, {agent} {action}"),
    (2, "it was caused by {cause}; {passive}"),
    (2, "{cause} was the cause; {agent} {action}"),
    (1.5, "{cause} was to blame, so {agent} {action}"),
)
_ACTION_RESOLVED: Final[Options] = (
    (5, "{agent} {action}, and the incident is resolved"),
    (3, "{agent} {action}, which resolved the incident"),
    (2, "{agent} resolved it by {gerund}"),
    (2, "{passive}, and the incident is now resolved"),
    (1.5, "it was resolved by {gerund}"),
)
_ACTION_MONITORING: Final[Options] = (
    (6, "we {action} and are monitoring the service"),
    (4, "we {action} and are now monitoring"),
    (2, "{passive}, and we are monitoring"),
    (1, "after {gerund}, we are monitoring the service"),
)
_ACTION_SAFE: Final[Options] = (
    (5, "{agent} {action}, and no data was lost"),
    (3, "{passive} with no data loss"),
    (2, "{agent} {action} without data loss"),
)
_SEVERITY_FIRST: Final[Options] = (
    (5, "this was a {severity} incident that {predicates}"),
    (4, "the {severity} incident {predicates}"),
)
_SEVERITY_FIRST_NOW: Final[Options] = (
    (5, "this is a {severity} incident that {predicates}"),
    (4, "the {severity} incident {predicates}"),
)
_INCIDENT: Final[Options] = ((7, "the incident"), (3, "it"))


def own_clause(scene: Scene, message: str) -> str:
    """One message as a clause of its own."""
    past, present = _OWN[message]
    return _fill(scene, choose(scene.rng, present if _now(scene, message) else past))


def predicate(scene: Scene, message: str) -> str:
    """One message as a predicate of "the incident"."""
    past, present = _PREDICATES[message]
    return _fill(scene, choose(scene.rng, present if scene.ongoing else past))


def can_be_predicate(message: str) -> bool:
    """Whether the message has a predicate shape."""
    return message in _PREDICATES


def incident_clause(scene: Scene, messages: list[str]) -> str:
    """Several messages as one clause: "the incident lasted 25 minutes and affected 3% of ..."."""
    if "severity" in messages and scene.rng.random() < 0.7:
        rest = [message for message in messages if message != "severity"]
        options = _SEVERITY_FIRST_NOW if scene.ongoing else _SEVERITY_FIRST
        text = choose(scene.rng, options).replace("{predicates}", _shared(scene, rest))
        return _fill(scene, text)
    return f"{choose(scene.rng, _INCIDENT)} {_shared(scene, messages)}"


def cause_and_action(scene: Scene) -> str:
    """Cause and repair told together."""
    return _fill(scene, choose(scene.rng, _CAUSE_AND_ACTION))


def action_and_status(scene: Scene, status: str) -> str:
    """Repair and what it led to, told together."""
    options = _ACTION_RESOLVED if status == "resolved" else _ACTION_MONITORING
    return _fill(scene, choose(scene.rng, options))


def action_and_safety(scene: Scene) -> str:
    """Repair, and that no data was lost, told together."""
    return _fill(scene, choose(scene.rng, _ACTION_SAFE))


def series(parts: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _shared(scene: Scene, messages: list[str]) -> str:
    return series([predicate(scene, message) for message in messages])


def _now(scene: Scene, message: str) -> bool:
    """Workarounds matter now unless the incident is over; the rest follows the incident."""
    if message.endswith("workaround"):
        return scene.record.get("status") != "resolved"
    return scene.ongoing


def _severity(scene: Scene) -> str:
    return scene.record["severity"]


def _start(scene: Scene) -> str:
    return scene.record["start"]


def _duration(scene: Scene) -> str:
    return amount(scene, "duration")


def _fill(scene: Scene, pattern: str) -> str:
    """The pattern with its phrases; only those that it names are made."""
    pattern = agreeing(scene, pattern) if "{cause}" in pattern else pattern
    makers = {
        "customers": customers,
        "cause": cause,
        "agent": agent,
        "action": action,
        "passive": action_passive,
        "gerund": action_gerund,
        "symptom": symptom,
        "severity": _severity,
        "start": _start,
        "duration": _duration,
    }
    for name, make in makers.items():
        if "{" + name + "}" in pattern:
            pattern = pattern.replace("{" + name + "}", make(scene))
    return pattern
