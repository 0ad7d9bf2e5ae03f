"""Writes one report for a record: plans what to say where, makes the clauses, joins them.

Content planning (what is attached to the first clause, what follows and in which order), clause
realisation (`_incidents.openings`, `_incidents.clauses`), aggregation (several messages share a
subject, a predicate or a sentence) and surface (punctuation, capitals). Every slot of the record is
said once; nothing that the record does not hold is claimed. The pipeline is the classical one of
Reiter and Dale, Building Natural Language Generation Systems (2000).
"""

import re
from dataclasses import dataclass
from random import Random
from typing import Final

from stages._incidents.choice import pick
from stages._incidents.clauses import (
    action_and_safety,
    action_and_status,
    can_be_predicate,
    cause_and_action,
    incident_clause,
    own_clause,
)
from stages._incidents.numbers import Spelling, in_words
from stages._incidents.openings import open_report
from stages._incidents.phrases import Register, Scene
from stages._incidents.styles import write_chat, write_ticket
from stages._incidents.terse import write_terse

_REGISTERS: Final[dict[Register, float]] = {"plain": 60, "formal": 14, "customer": 14, "terse": 12}
_SPELLINGS: Final[dict[Register, dict[Spelling, float]]] = {
    "plain": {"short": 3, "long": 6, "words": 0.7},
    "formal": {"short": 1, "long": 8, "words": 1.5},
    "customer": {"short": 1, "long": 8, "words": 1.5},
    "terse": {"short": 1, "long": 0, "words": 0},
}
_ORDERS: Final[dict[tuple[str, ...], float]] = {
    ("severity", "start", "duration", "customers", "symptom", "cause", "action"): 6,
    ("customers", "severity", "start", "duration", "symptom", "cause", "action"): 3,
    ("start", "duration", "cause", "action", "severity", "customers", "symptom"): 3,
    ("symptom", "start", "duration", "customers", "cause", "action", "severity"): 1,
}
_LABELS: Final[dict[str, tuple[str, ...]]] = {
    "resolved": ("Resolved: ", "[Resolved] "),
    "monitoring": ("Monitoring: ", "[Monitoring] "),
    "identified": ("Identified: ", "[Identified] "),
    "investigating": ("Investigating: ", "[Investigating] "),
}
# What reads better as a sentence of its own.
_ALONE: Final = (
    "it ",
    "this was ",
    "this is ",
    "severity ",
    "after ",
    "because ",
    "as a ",
    "in ",
)
_ABOUT_INCIDENT: Final = (
    "the incident",
    "it ",
    "this was a",
    "this is a",
    "the major incident",
    "the minor incident",
    "the critical incident",
)
_FIRST_NUMBER: Final = re.compile(r"(\d{1,2})( ?%| percent)?(?= )")
MOST_WORDS_JOINED: Final = 26  # longer than this, two clauses become two sentences


@dataclass(frozen=True)
class Written:
    """One report and how it was planned."""

    text: str
    plan: str


def write_report(rng: Random, record: dict[str, str]) -> Written:
    """One reference text for a record."""
    scene = _scene(rng, record)
    if scene.register == "terse":
        return Written(write_terse(scene), "terse")
    label = _label(scene)
    attached = _attached(scene)
    opening = open_report(scene, attached, status_said=bool(label))
    rest = [slot for slot in _order(scene) if slot in record and slot not in opening.said]
    clauses = [opening.text, *_follow(scene, rest, status_said=bool(label))]
    plan = "/".join([scene.register, opening.plan, *attached])
    return Written(label + _sentences(scene, clauses), plan)


def write_in_new_style(rng: Random, record: dict[str, str]) -> Written:
    """One reference text in a register that the data set never has."""
    scene = _scene(rng, record)
    if rng.random() < 0.5:
        return Written(write_ticket(scene), "ticket")
    return Written(write_chat(scene), "chat")


def _scene(rng: Random, record: dict[str, str]) -> Scene:
    register = pick(rng, list(_REGISTERS), list(_REGISTERS.values()))
    leanings = _SPELLINGS[register]
    spelling = pick(rng, list(leanings), list(leanings.values()))
    ongoing = record.get("status") in ("investigating", "identified")
    return Scene(rng, record, register, ongoing, spelling)


def _label(scene: Scene) -> str:
    """A status label in front of the whole report, or nothing."""
    status = scene.record.get("status")
    share = {"plain": 0.06, "formal": 0.2, "customer": 0.4}.get(scene.register, 0.0)
    if status is None or scene.rng.random() > share:
        return ""
    return scene.rng.choice(_LABELS[status])


def _attached(scene: Scene) -> list[str]:
    """What hangs on the first clause: the time mostly, sometimes cause, customers, symptom."""
    record, rng = scene.record, scene.rng
    chosen: list[str] = []
    if {"start", "duration"} & set(record) and rng.random() < 0.72:
        chosen += [slot for slot in ("start", "duration") if slot in record]
    if "cause" in record and rng.random() < (0.3 if "action" in record else 0.5):
        chosen.append("cause")
    if "symptom" in record and "metric" in record and rng.random() < 0.7:
        chosen.append("symptom")
    elif "customers" in record and rng.random() < 0.4:
        chosen.append("customers")
    return chosen if len(chosen) < 4 else chosen[:3]


def _order(scene: Scene) -> tuple[str, ...]:
    """The order in which what is left is told."""
    front = pick(scene.rng, list(_ORDERS), list(_ORDERS.values()))
    back = ("data_loss", "workaround", "status")
    return front + (back if scene.rng.random() < 0.85 else ("status", "data_loss", "workaround"))


def _follow(scene: Scene, rest: list[str], status_said: bool) -> list[str]:
    """The clauses that say the slots in `rest`."""
    messages = [_message(scene, slot) for slot in rest if slot != "status" or not status_said]
    clauses: list[str] = []
    while messages:
        clause, said = _next_clause(scene, messages)
        clauses.append(_referring(scene, clauses[-1] if clauses else "", clause))
        messages = [message for message in messages if message not in said]
    return clauses


def _referring(scene: Scene, before: str, clause: str) -> str:
    """The clause with "it" or "the incident", whichever is clear after the clause before it."""
    subject = before.startswith(_ABOUT_INCIDENT)
    if subject and clause.startswith("this "):
        return "it" + clause.removeprefix("this")
    if subject and clause.startswith("the incident ") and scene.rng.random() < 0.7:
        return "it" + clause.removeprefix("the incident")
    unclear = not subject and (before or "symptom" in scene.record)
    if unclear:
        clause = clause.replace(" it ", " the incident ", 1)
    for pronoun in ("it ", "this affect", "this went", "this is now"):
        if unclear and clause.startswith(pronoun):
            return clause.replace(pronoun.split()[0], "the incident", 1)
    return clause


def _message(scene: Scene, slot: str) -> str:
    """What a slot asks to be said: flags and status by their value, others by their name."""
    if slot == "status":
        return scene.record[slot]
    return f"{scene.record[slot]} {slot}" if slot in ("data_loss", "workaround") else slot


def _next_clause(scene: Scene, messages: list[str]) -> tuple[str, set[str]]:
    """A clause that says the first message, alone or together with others."""
    lead, chance = messages[0], scene.rng.random()
    if lead in ("cause", "action") and {"cause", "action"} <= set(messages) and chance < 0.9:
        return cause_and_action(scene), {"cause", "action"}
    if lead == "action":
        status = next((m for m in ("resolved", "monitoring") if m in messages), "")
        if status and chance < 0.6:
            return action_and_status(scene, status), {"action", status}
        if "no data_loss" in messages and chance > 0.5:
            return action_and_safety(scene), {"action", "no data_loss"}
    if lead == "cause" and "identified" in messages and chance < 0.85:
        return own_clause(scene, "identified cause"), {"cause", "identified"}
    mates = _mates(scene, messages)
    if mates and chance < 0.8:
        return incident_clause(scene, [lead, *mates]), {lead, *mates}
    return own_clause(scene, lead), {lead}


def _mates(scene: Scene, messages: list[str]) -> list[str]:
    """Up to two further messages that can share the predicate of the first."""
    if not can_be_predicate(messages[0]):
        return []
    told_together = {"cause"} if {"action", "identified"} & set(messages) else set()
    if messages[0] == "cause":  # "was caused by ... and caused no data loss"
        told_together |= {"no data_loss", "yes data_loss"}
    mates = [m for m in messages[1:] if can_be_predicate(m) and m not in told_together]
    return mates[: 1 if scene.rng.random() < 0.65 else 2]


def _sentences(scene: Scene, clauses: list[str]) -> str:
    """Clauses as sentences: neighbours are joined where the result stays easy to read."""
    sentences: list[str] = []
    joined = False
    for clause in clauses:
        if sentences and not joined and _joinable(scene, sentences[-1], clause):
            mark = "; " if " and " in sentences[-1] or " and " in clause else ", and "
            sentences[-1] += f"{mark}{clause}"
            joined = True
        else:
            sentences.append(clause)
            joined = False
    return " ".join(f"{capitalised(sentence, scene.record)}." for sentence in sentences)


def _joinable(scene: Scene, before: str, clause: str) -> bool:
    words = len(before.split()) + len(clause.split())
    short = words <= MOST_WORDS_JOINED and ";" not in before + clause and ", so " not in clause
    return short and scene.rng.random() < 0.35 and not clause.startswith(_ALONE)


def capitalised(sentence: str, record: dict[str, str]) -> str:
    """The sentence with a capital, unless it starts with an identifier, which keeps its case.

    A small number at the beginning is written out.
    """
    if sentence.startswith((record["service"], record.get("region", "\n"))):
        return sentence
    number = _FIRST_NUMBER.match(sentence)
    if number:
        share = " percent" if number[2] else ""
        sentence = f"{in_words(int(number[1]))}{share}{sentence[number.end() :]}"
    return sentence[:1].upper() + sentence[1:]
