"""The first clause of a report: what was wrong, where, and whatever the writer hangs on it.

An opening is chosen by what the record offers (a metric can rise, a cause can push it, customers
can see it, we can investigate it). It names the service, the region and the anomaly with its
limit; time, cause, customers and symptom may be attached before or behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from stages._incidents import verbs
from stages._incidents.choice import Options, choose, pick
from stages._incidents.metrics import limit, metric_at_value, metric_of, metric_on_service, value
from stages._incidents.numbers import say_before_noun
from stages._incidents.phrases import (
    Scene,
    action,
    agent,
    agreeing,
    article,
    cause,
    cause_adjunct,
    customers,
    region,
    service,
    spaced,
    symptom,
)
from stages._incidents.times import Time, when
from stages._incidents.verbs import Aspect
from stages._incidents.world import SYMPTOMS

Core = tuple[list[str], set[str]]  # the clause in pieces; slots that it says beyond the usual ones

# Plans whose subject is what affects customers, so that ", affecting ..." does not dangle.
_DOERS: Final = ("metric", "service", "cause", "severe", "symptom", "incident")
# Plans in which a time in front would be the time of what we do.
_NO_FRONT: Final = ("investigating", "identified", "action", "monitoring")


@dataclass(frozen=True)
class Opening:
    """The first clause, and which slots it has said."""

    plan: str
    text: str
    said: frozenset[str]


def open_report(scene: Scene, attached: Sequence[str], status_said: bool) -> Opening:
    """The first clause with `attached` slots (of start, duration, cause, customers, symptom)."""
    plans = _plans(scene, attached, "" if status_said else scene.record.get("status", ""))
    plan = pick(scene.rng, list(plans), list(plans.values()))
    early_region = "region" in scene.record and scene.rng.random() < 0.1
    attached = _fitting(plan, attached)
    early = not early_region and plan not in _NO_FRONT and scene.rng.random() < 0.3
    time = when(scene, attached, early, plan == "investigating")
    where = region(scene)
    core, more = _core(scene, plan, "" if early_region else where, time)
    front = where if early_region else time.text if time.early else ""
    text = _with_adjuncts(scene, plan, core, attached, front, time)
    said = {"service", "region", "metric", "value", "threshold", *attached, *more}
    return Opening(plan, text, frozenset(said) & frozenset(scene.record))


def _plans(scene: Scene, attached: Sequence[str], status: str) -> dict[str, float]:
    """Plans that fit the record, with their weights; `status` is empty when it need not be said."""
    record, free = scene.record, set(scene.record) - set(attached)
    measured, seen = "value" in record, "symptom" in free and "metric" not in record
    known = "metric" in record or seen
    plans: dict[str, float] = {"metric": 13} if "metric" in record else {}
    if known:
        plans |= {"service": 5 if measured else 8, "we": 1.5 if measured else 0.5}
    if seen:
        plans |= {"symptom": 3}
    if "cause" in free and (measured or seen):
        plans |= {"cause": 5}
        plans |= {"identified": 5} if status == "identified" else {}
    if "customers" in free and (seen or ("metric" in record and metric_of(scene).felt)):
        plans |= {"customers": 4 if seen else 1.5}
    if "severity" in free and known:
        plans |= {"severe": 2.5}
    if not known:
        plans |= {"incident": 8} | ({"cause of incident": 4} if "cause" in free else {})
    if status == "investigating":
        plans |= {"investigating": 8}
    if status == "monitoring" and not attached and (measured or seen):
        plans |= {"monitoring": 3}
    if "action" in free and "cause" not in record and measured and not scene.ongoing:
        plans |= {"action": 1}
    return plans


def _fitting(plan: str, attached: Sequence[str]) -> list[str]:
    """What may be attached to a plan: some say a thing themselves, some would grow a tail."""
    unfit = {"customers"} if plan in ("incident", "investigating", "symptom") else set[str]()
    if plan == "investigating" and {"start", "duration"} & set(attached):
        unfit.add("symptom")
    return [slot for slot in attached if slot not in unfit]


def _core(scene: Scene, plan: str, where: str, time: Time) -> Core:
    """The clause of a plan."""
    aspect = _aspect(scene, time)
    match plan:
        case "metric":
            return _metric_core(scene, plan, where, time)
        case "action" | "monitoring":
            return _response_core(scene, plan, where)
        case "symptom":
            return [_symptom_core(scene, spaced(where), aspect)], {"symptom"}
        case "cause" | "cause of incident":
            return _cause_core(scene, where, aspect)
        case "severe" | "incident":
            return _incident_core(scene, plan, where, time)
        case _:
            return _seen_core(scene, plan, spaced(where), aspect)


def _aspect(scene: Scene, time: Time) -> Aspect:
    if not scene.ongoing:
        return 0
    return 2 if time.text else 1


def _anomaly(scene: Scene) -> tuple[str, str, set[str]]:
    """What one sees: the metric at its value, else the symptom, else an incident; its limit."""
    if "metric" in scene.record:
        return metric_at_value(scene), limit(scene), set()
    if "symptom" in scene.record:
        return symptom(scene), "", {"symptom"}
    return "an incident", "", set()


def _seen_core(scene: Scene, plan: str, at: str, aspect: Aspect) -> Core:
    """Somebody or something sees the anomaly: "checkout-api saw a p99 latency of 1.8 s"."""
    thing, bound, more = _anomaly(scene)
    where = f" on {service(scene)}{at}"
    if plan == "service":
        forms = verbs.SHOW if "metric" in scene.record else _suffering(scene)
        return [f"{where[4:]} {choose(scene.rng, forms[aspect])} {thing}", bound], more
    if plan == "customers":
        head = f"{customers(scene)} {choose(scene.rng, verbs.MEET[aspect])} {thing}"
        return [head, bound, where], more | {"customers"}
    if plan == "investigating":
        return [f"we are investigating {thing}", bound, where], more | {"status"}
    if plan == "identified":
        reason = cause(scene)
        head = f"we have identified {reason} as the cause of {thing}"
        return [head, bound, where], more | {"status", "cause"}
    return [f"we {choose(scene.rng, verbs.NOTE[aspect])} {thing}", bound, where], more


def _suffering(scene: Scene) -> verbs.ByAspect:
    """How a service has the record's symptom; an incident is had as anything else."""
    row = next((s for s in SYMPTOMS if s.name == scene.record.get("symptom")), None)
    return verbs.OF_SYMPTOM.get(row.verb, verbs.SUFFER) if row else verbs.SUFFER


def _metric_core(scene: Scene, plan: str, where: str, time: Time) -> Core:
    """ "p99 latency on checkout-api rose to 1.8 s" and the limit."""
    inside = plan == "action"
    subject, bound = metric_on_service(scene, where, inside), limit(scene)
    low, aspect = metric_of(scene).low, _aspect(scene, time)
    if "value" in scene.record:
        return [f"{subject} {_verb_to_value(scene, time)} {value(scene)}", bound], set()
    if bound:  # the limit itself tells how far it went
        verb = choose(scene.rng, verbs.BE[aspect])
        verb = ("fell" if low else "rose") if aspect == 0 and not time.lasting else verb
        return [f"{subject} {verb}{bound.replace(', ', ' ', 1)}"], set()
    grade = "too low" if low else choose(scene.rng, ((4, "too high"), (2, "unusually high")))
    return [f"{subject} {choose(scene.rng, verbs.BE[aspect])} {grade}"], set()


def _verb_to_value(scene: Scene, time: Time) -> str:
    """The verb that brings the metric to its value."""
    low, aspect = metric_of(scene).low, _aspect(scene, time)
    if aspect == 0 and time.lasting:
        return choose(scene.rng, verbs.FALL_FOR_A_TIME if low else verbs.RISE_FOR_A_TIME)
    return choose(scene.rng, (verbs.FALL if low else verbs.RISE)[aspect])


def _response_core(scene: Scene, plan: str, where: str) -> Core:
    """ "we restarted the pods after p99 latency ..."; "we are monitoring x after ..."."""
    if plan == "action":
        pieces, _ = _metric_core(scene, plan, where, Time())
        return [f"{agent(scene)} {action(scene)} after {pieces[0]}", *pieces[1:]], {"action"}
    thing, bound, more = _anomaly(scene)
    return [f"we are monitoring {service(scene)}{spaced(where)} after {thing}", bound], more | {
        "status"
    }


def _symptom_core(scene: Scene, at: str, aspect: Aspect) -> str:
    """ "timeouts affected checkout-api", "there were timeouts on checkout-api"."""
    plural = next(s for s in SYMPTOMS if s.name == scene.record["symptom"]).plural
    be = (("was", "were"), ("is", "are"), ("has", "have"))[aspect][plural]
    target = f"{service(scene)}{at}"
    if scene.rng.random() < 0.5 or (scene.ongoing and "customers" in scene.record):
        return f"there {be}{' been' if aspect == 2 else ''} {symptom(scene)} on {target}"
    verb = choose(scene.rng, _unrepeated(scene, verbs.AFFECT[aspect])).format(be)
    return f"{symptom(scene)} {verb} {target}"


def _unrepeated(scene: Scene, options: Options) -> Options:
    """Without "affected" where customers will be affected a few words later."""
    if "customers" not in scene.record:
        return options
    return [option for option in options if "affect" not in option[1]] or options


def _cause_core(scene: Scene, where: str, aspect: Aspect) -> Core:
    """ "a bad deploy pushed p99 latency on checkout-api to 1.8 s"."""
    if "metric" in scene.record:
        head, *rest = _push(scene, "{cause}", where, aspect)
        more = set[str]()
    else:
        thing, _, more = _anomaly(scene)
        verb = choose(scene.rng, verbs.CAUSE[aspect])
        head, rest = f"{{cause}} {verb} {thing} on {service(scene)}{spaced(where)}", []
    return [agreeing(scene, head).replace("{cause}", cause(scene)), *rest], more | {"cause"}


def _push(scene: Scene, doer: str, where: str, aspect: Aspect) -> list[str]:
    """Something brings the metric to its value."""
    forms = verbs.PULL if metric_of(scene).low else verbs.PUSH
    verb = choose(scene.rng, forms[aspect]).format(metric_on_service(scene, where, inside=True))
    return [f"{doer} {verb} {value(scene)}", limit(scene)]


def _incident_core(scene: Scene, plan: str, where: str, time: Time) -> Core:
    """ "a critical incident on checkout-api caused timeouts"; or an incident of unknown nature."""
    at, record, more = spaced(where), scene.record, set[str]()
    kind, aspect = "incident", _aspect(scene, time)
    if "severity" in record and (plan == "severe" or scene.rng.random() < 0.8):
        kind, more = f"{record['severity']} {kind}", {"severity"}
    if "duration" in record and aspect == 0 and not time.text and scene.rng.random() < 0.35:
        kind, more = (
            f"{say_before_noun(scene.rng, record['duration'], long=True)} {kind}",
            more | {"duration"},
        )
    kind = f"{article(kind)} {kind}"
    if plan == "severe" and "value" in record:
        return _push(scene, kind, where, aspect), more
    if plan == "severe":
        thing, bound, seen = _anomaly(scene)
        verb = choose(scene.rng, verbs.CAUSE[aspect])
        return [f"{kind} on {service(scene)}{at} {verb} {thing}", bound], more | seen
    if "customers" in record and scene.rng.random() < 0.5:
        verb = ("affected", "is affecting", "has been affecting")[aspect]
        return [f"{kind} on {service(scene)}{at} {verb} {customers(scene)}"], more | {"customers"}
    happened = choose(scene.rng, _unrepeated(scene, verbs.HAPPEN[aspect]))
    return [happened.format(service=f"{service(scene)}{at}", kind=kind)], more


def _with_adjuncts(
    scene: Scene, plan: str, core: list[str], attached: Sequence[str], front: str, time: Time
) -> str:
    """The clause with what is attached to it; at most one addition stands in front."""
    tails = [time.text] if time.text and not time.early else []
    free = plan in _DOERS and not any("exceeding" in piece for piece in core)
    if "cause" in attached:
        reason = cause_adjunct(scene)
        if not front and scene.rng.random() < 0.3:
            front = reason
        else:
            tails.append(f" {reason}")
    if "symptom" in attached:
        tails.append(f"{_participle(scene, free, 'causing', 'led to')} {symptom(scene)}")
    if "customers" in attached:
        tails.append(f"{_participle(scene, free, 'affecting', 'affected')} {customers(scene)}")
    return (f"{front}, " if front else "") + glue([*core, *tails])


def _participle(scene: Scene, free: bool, present: str, past: str) -> str:
    """ ", affecting" where the clause itself is the doer, else ", which affected"."""
    if free and scene.rng.random() < 0.75:
        return f", {present}"
    return f", which is {present}" if scene.ongoing else f", which {past}"


def glue(pieces: Sequence[str]) -> str:
    """Joins the pieces; one that opens with a comma is closed with one where the clause goes on."""
    text, open_comma = "", False
    for piece in pieces:
        if not piece:
            continue
        text += "," if open_comma and not piece.startswith(",") else ""
        text += piece
        open_comma = piece.startswith(",")
    return text
