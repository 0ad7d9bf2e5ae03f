"""Verbs of the first clause, by aspect: over, going on, or going on for a stated time.

An incident that is over is told in the past. One that goes on is told in the present, and in the
present perfect where a start or a duration stands beside it ("has been at 1.8 s since 09:42 UTC").
"""

from typing import Final, Literal

from stages._incidents.choice import Options

Aspect = Literal[0, 1, 2]  # over, going on, going on for a stated time
ByAspect = tuple[Options, Options, Options]

# The metric comes to its value. In the past a stated duration asks for other verbs than a moment.
RISE: Final[ByAspect] = (
    (
        (7, "rose to"), (5, "reached"), (3, "climbed to"), (3, "hit"), (1.5, "jumped to"),
        (1.5, "went up to"), (1, "spiked to"), (1, "increased to"),
    ),
    ((6, "is at"), (3, "has risen to"), (3, "has reached"), (1, "stands at"),
     (1, "has climbed to")),
    ((7, "has been at"), (1.5, "has stayed at"), (1, "has stood at")),
)  # fmt: skip
RISE_FOR_A_TIME: Final[Options] = (
    (6, "rose to"), (4, "was at"), (3, "reached"), (1.5, "climbed to"), (1.5, "stood at"),
    (1, "stayed at"), (1, "ran at"),
)  # fmt: skip
FALL: Final[ByAspect] = (
    ((6, "fell to"), (6, "dropped to"), (2, "was down to"), (1, "sank to"), (1, "went down to")),
    ((5, "is at"), (4, "has fallen to"), (3, "has dropped to"), (2, "is down to")),
    RISE[2],
)
FALL_FOR_A_TIME: Final[Options] = (
    (5, "fell to"), (4, "dropped to"), (3, "was at"), (1, "stood at"),
)  # fmt: skip
BE: Final[ByAspect] = (((1, "was"),), ((1, "is"),), ((1, "has been"),))
# A cause brings the metric to its value; "{}" is the metric.
PUSH: Final[ByAspect] = (
    ((6, "pushed {} to"), (3, "drove {} to"), (2, "sent {} to"), (1, "took {} to")),
    ((6, "has pushed {} to"), (3, "has driven {} to"), (2, "has sent {} to")),
    ((3, "has kept {} at"), (1, "has held {} at")),
)
PULL: Final[ByAspect] = (
    ((4, "pulled {} down to"), (3, "brought {} down to"), (2, "dragged {} down to")),
    ((4, "has pulled {} down to"), (3, "has brought {} down to")),
    ((3, "has kept {} at"), (1, "has held {} at")),
)
# The service shows a metric; the service has a symptom.
SHOW: Final[ByAspect] = (
    ((7, "saw"), (3, "had"), (2, "showed")),
    ((6, "is seeing"), (3, "has"), (2, "is showing")),
    ((6, "has been seeing"), (3, "has had"), (2, "has been showing")),
)
SUFFER: Final[ByAspect] = (
    ((5, "had"), (3, "saw"), (2, "suffered"), (2, "experienced")),
    ((5, "is seeing"), (4, "has"), (2, "is experiencing")),
    ((5, "has been seeing"), (3, "has had"), (2, "has been experiencing")),
)
# Some symptoms have verbs of their own.
OF_SYMPTOM: Final[dict[str, ByAspect]] = {
    "return": (
        ((7, "returned"), (3, "had"), (2, "saw")),
        ((7, "is returning"), (2, "is seeing")),
        ((7, "has been returning"), (2, "has been seeing")),
    ),
    "serve": (
        ((7, "served"), (3, "had"), (2, "showed")),
        ((7, "is serving"), (2, "is showing")),
        ((7, "has been serving"), (2, "has been showing")),
    ),
}
CAUSE: Final[ByAspect] = (
    ((7, "caused"), (3, "led to"), (1, "triggered")),
    ((5, "is causing"), (3, "has led to"), (1, "has triggered")),
    ((1, "has been causing"),),
)
# Customers meet the fault; we note it.
MEET: Final[ByAspect] = (
    ((8, "saw"), (3, "experienced"), (1, "ran into")),
    ((8, "are seeing"), (3, "are experiencing")),
    ((8, "have been seeing"), (3, "have been experiencing")),
)
NOTE: Final[ByAspect] = (
    ((6, "saw"), (2, "observed"), (1, "recorded"), (1, "measured")),
    ((6, "are seeing"), (2, "are observing")),
    ((6, "have been seeing"), (2, "have been observing")),
)
AFFECT: Final[ByAspect] = (
    ((6, "affected"), (3, "hit")),
    ((1, "{} affecting"),),
    ((1, "{} been affecting"),),
)
# Whole clauses about an incident of which only the place is known.
HAPPEN: Final[ByAspect] = (
    (
        (4, "{service} had {kind}"),
        (4, "{kind} affected {service}"),
        (4, "there was {kind} on {service}"),
    ),
    (
        (4, "{service} has {kind}"),
        (4, "{kind} is affecting {service}"),
        (4, "there is {kind} on {service}"),
    ),
    (
        (4, "{service} has had {kind}"),
        (4, "{kind} has been affecting {service}"),
        (4, "there has been {kind} on {service}"),
    ),
)
