"""Phrases: how one writer names the service, the metric, amounts, times, causes and customers.

The smallest pieces of the grammar. Each function says some slots of the record and nothing else;
clauses are made of them in `_incidents.openings` and `_incidents.clauses`.
"""

from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from stages._incidents.causes import ACTIONS, cause_of
from stages._incidents.choice import Options, choose
from stages._incidents.numbers import Spelling, say_quantity
from stages._incidents.world import REGIONS, SYMPTOMS

Register = Literal["plain", "formal", "customer", "terse"]


@dataclass(frozen=True)
class Scene:
    """One writer at work on one record.

    Attributes:
        rng: the writer's choices.
        record: what has to be said.
        register: how the writer writes.
        ongoing: whether the incident is still going on, so that it is told in the present.
        spelling: what the writer leans to for amounts.
    """

    rng: Random
    record: dict[str, str]
    register: Register
    ongoing: bool
    spelling: Spelling


_CAPITALS: Final[frozenset[str]] = frozenset({"api", "db", "sms", "kyc", "ocr", "dns"})
_TITLED: Final = (
    "api",
    "service",
    "gateway",
    "worker",
    "db",
    "cache",
    "store",
    "archive",
    "indexer",
)

_REGION: Final[Options] = ((9, "in {}"), (1, "in the {} region"))
_EVERYWHERE: Final[Options] = ((5, "in all regions"), (3, "across all regions"))
_EVENT_CAUSE: Final[Options] = (
    (8, "after {}"),
    (3, "because of {}"),
    (3, "due to {}"),
    (1.5, "following {}"),
)
_STATE_CAUSE: Final[Options] = (
    (6, "because of {}"),
    (6, "due to {}"),
    (1.5, "as a result of {}"),
)
_SHARE_OF: Final[Options] = ((7, "customers"), (2, "users"))


def service(scene: Scene) -> str:
    """The service as the register names it: "checkout-api", "the Checkout API", ..."""
    name = scene.record["service"]
    if " " in name:
        return f"the {name}"
    if scene.register == "customer" and name.endswith(_TITLED) and scene.rng.random() < 0.6:
        return f"the {title(name)}"
    if not name.endswith("-service") and scene.rng.random() < 0.05:
        return f"the {name} service"
    return name


def title(name: str) -> str:
    """A service's name as a heading: "sms-api" is "SMS API"."""
    return " ".join(
        part.upper() if part in _CAPITALS else part.capitalize() for part in name.split("-")
    )


def region(scene: Scene) -> str:
    """ "in eu-west-1", "in Ireland"; empty when the record names no region."""
    name = scene.record.get("region")
    if name is None:
        return ""
    if name == "all regions":
        return choose(scene.rng, _EVERYWHERE)
    place = REGIONS[name][1]
    if scene.rng.random() < (0.25 if scene.register == "customer" else 0.04):
        return f"in {place}"
    return choose(scene.rng, _REGION).format(name)


def spaced(phrase: str) -> str:
    """The phrase with a space before it, or nothing."""
    return f" {phrase}" if phrase else ""


def article(phrase: str) -> str:
    """ "a" or "an", by sound; enough for the words and numbers of the tables."""
    if phrase[0].isdigit():
        number = phrase.split("-")[0].split(" ")[0].split(".")[0]
        return "an" if number[0] == "8" or number in ("11", "18") else "a"
    return "an" if phrase[0].lower() in "aeio" or phrase.startswith("u") else "a"


def amount(scene: Scene, slot: str) -> str:
    """A slot's quantity in the writer's spelling."""
    return say_quantity(scene.rng, scene.record[slot], scene.spelling)


def symptom(scene: Scene) -> str:
    """The symptom as a noun phrase, with its article."""
    row = next(s for s in SYMPTOMS if s.name == scene.record["symptom"])
    return f"{row.article} {row.name}".strip()


def cause(scene: Scene) -> str:
    """The cause as a noun phrase, with its article."""
    text = scene.record["cause"]
    return f"{cause_of(text).article} {text}".strip()


def cause_adjunct(scene: Scene) -> str:
    """ "after a bad deploy", "because the connection pool ran dry"."""
    row = cause_of(scene.record["cause"])
    if row.because and row.head == scene.record["cause"] and scene.rng.random() < 0.15:
        word = "when" if row.event and not scene.ongoing else "because"
        return f"{word} {row.because}"
    return choose(scene.rng, _EVENT_CAUSE if row.event else _STATE_CAUSE).format(cause(scene))


def customers(scene: Scene) -> str:
    """Who was affected: "3% of customers", "1,240 merchants", "half of users"."""
    text = scene.record["customers"]
    if not text.endswith("%"):
        return amount(scene, "customers")
    who = choose(scene.rng, _SHARE_OF)
    special = {"100 %": f"all {who}", "50 %": f"half of {who}", "25 %": f"a quarter of {who}"}
    if text in special and scene.rng.random() < 0.6:
        return special[text]
    return f"{amount(scene, 'customers')} of {who}"


def agreeing(scene: Scene, text: str) -> str:
    """`text`, in which verbs follow the placeholder {cause}, with verbs that fit the cause."""
    if not cause_of(scene.record["cause"]).plural:
        return text
    for one, many in (("was", "were"), ("is", "are"), ("has", "have")):
        text = text.replace(f"{{cause}} {one} ", f"{{cause}} {many} ")
    return text


def action(scene: Scene) -> str:
    """What was done, as "we" did it: "rolled back the release"."""
    return scene.record["action"]


def action_passive(scene: Scene) -> str:
    """What was done, as a clause without a doer: "the release was rolled back"."""
    row = ACTIONS[scene.record["action"]]
    thing = row.thing or row.passive_thing
    rest = f" {row.rest}" if row.rest else ""
    return f"{thing} {'were' if row.plural else 'was'} {row.verb}{rest}"


def action_gerund(scene: Scene) -> str:
    """What was done, as a noun: "rolling back the release"."""
    row = ACTIONS[scene.record["action"]]
    return " ".join(part for part in (row.gerund, row.thing, row.rest) if part)


def agent(scene: Scene) -> str:
    """Who acts."""
    others = 3.0 if scene.register == "formal" else 1.0
    options = ((12, "we"), (others, "the team"), (others, "engineers"))
    return choose(scene.rng, options)
