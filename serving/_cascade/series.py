"""The series of the cascade, its caches, its guard and its costs."""

from typing import get_args

from serving._cascade.route import RungName
from serving._cascade.running import Outcome
from serving._guard.findings import State
from serving._guard.policy import Direction
from serving._metric_series import Series
from serving._responses.tiers import Event, TierName

RUNGS = {"rung": get_args(RungName)}
SOURCES = ("miss", "memory", "redis", "object", "shared", "semantic")
TENANT = {"tenant": ()}
"""Those of the keyring that have asked, 50 at most, and "other"."""

CASCADE_SERIES = (
    Series(
        "rung_answers_total",
        "counter",
        "Rungs that were tried, and what became of it.",
        {**RUNGS, "outcome": get_args(Outcome)},
    ),
    Series("rung_cost_usd_total", "counter", "What they cost, at the route's prices.", RUNGS),
    Series(
        "cache_total",
        "counter",
        "What happened at each tier of the caches.",
        {"tier": ("cache", *get_args(TierName)), "event": get_args(Event)},
    ),
    Series(
        "cache_requests_total",
        "counter",
        "Requests by where their answer was from.",
        {"source": SOURCES},
    ),
    Series(
        "guard_total",
        "counter",
        "Texts that the guard has looked at; not_run is not clean.",
        {"direction": get_args(Direction), "state": get_args(State)},
    ),
    Series("tenant_requests_total", "counter", "Requests to the cascade, answered or not.", TENANT),
    Series(
        "tenant_cost_usd_total",
        "counter",
        "What they cost.",
        {**TENANT, "rung": get_args(RungName)},
    ),
)
