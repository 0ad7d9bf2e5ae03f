"""Why incidents happen and what people on call do about it, with how English says each.

A cause is a noun phrase. Some are whole ("bad deploy"), some take a place ("memory leak in the PDF
renderer"), which makes the slot an open class. An action is a verb with its object, from which the
active, the passive and the -ing form are made.
"""

from dataclasses import dataclass
from random import Random
from typing import Final, Literal

from stages._incidents.choice import names

Place = Literal["", "version", "component", "table", "topic", "endpoint", "provider", "traffic"]


@dataclass(frozen=True)
class Cause:
    """One cause or the head of a family of causes.

    Attributes:
        head: the record's value, or its first words.
        article: "a", "an", "the" or "".
        family: which metrics and kinds of service it explains; see `_incidents.world`.
        actions: the values of the actions that answer it.
        place: what may follow the head, "" when nothing does.
        bare: true when the head may stand alone.
        because: a finite past clause that says the same (only for the head alone), "" if none.
        event: true for what happens at a moment, so that things happen "after" it.
        plural: true when the head is plural.
    """

    head: str
    article: str
    family: str
    actions: tuple[str, ...]
    place: Place = ""
    bare: bool = True
    because: str = ""
    event: bool = False
    plural: bool = False


@dataclass(frozen=True)
class Action:
    """What was done: `verb object rest`, as in "moved / the job / off-peak"."""

    verb: str
    gerund: str
    thing: str = ""
    rest: str = ""
    plural: bool = False
    passive_thing: str = ""  # subject of the passive where the active names no object

    @property
    def value(self) -> str:
        """The record's value: the past tense said by "we"."""
        return " ".join(part for part in (self.verb, self.thing, self.rest) if part)


_ROLL = ("rolled back", "rolled back the release", "reverted the change")
_FLAG = ("disabled the feature flag", "rolled back", "reverted the change")
_GROW = ("scaled out", "added capacity", "enabled rate limiting")
_QUERY = ("killed the query", "added the index", "failed over to the standby")
_MOVE = ("failed over to the standby", "rerouted traffic", "drained the node")
_QUEUE = ("purged the queue", "skipped the message", "restarted the consumers")

CAUSES: Final[tuple[Cause, ...]] = (
    Cause("bad deploy", "a", "deploy", _ROLL, "version", because="a deploy went wrong", event=True),
    Cause("faulty release", "a", "deploy", _ROLL, "version", event=True),
    Cause("bad config push", "a", "deploy", ("reverted the change", "rolled back"),
          because="a config push went wrong", event=True),
    Cause("config error", "a", "deploy", ("reverted the change", "corrected the settings"),
          "component"),
    Cause("misconfigured feature flag", "a", "deploy", _FLAG),
    Cause("regression", "a", "deploy", _ROLL, "component", bare=False),
    Cause("bug", "a", "deploy", (*_FLAG, "deployed a hotfix"), "component", bare=False),
    Cause("race condition", "a", "deploy", (*_FLAG, "deployed a hotfix"), "component"),
    Cause("memory leak", "a", "deploy", ("restarted the pods", "rolled back", "deployed a hotfix"),
          "component"),
    Cause("thread pool starvation", "", "deploy", ("restarted the pods", "raised the pool limit")),
    Cause("connection pool exhaustion", "", "load",
          ("raised the pool limit", "restarted the pods", "added capacity"),
          because="the connection pool ran dry"),
    Cause("traffic spike", "a", "load", _GROW, because="traffic spiked", event=True),
    Cause("surge", "a", "load", (*_GROW, "blocked the offending clients"), "traffic",
          bare=False, event=True),
    Cause("retry storm", "a", "load", ("enabled rate limiting", "disabled retries",
          "scaled out"), event=True),
    Cause("cache stampede", "a", "load", ("warmed the cache", "added capacity"), event=True),
    Cause("slow query", "a", "query", _QUERY, "table", bare=False),
    Cause("missing index", "a", "query", _QUERY, "table", because="an index was missing"),
    Cause("lock contention", "", "query", _QUERY, "table"),
    Cause("slow migration", "a", "query", ("paused the migration", "reverted the change"),
          "table", event=True),
    Cause("runaway backfill", "a", "load", ("paused the backfill", "enabled rate limiting")),
    Cause("hot partition", "a", "queue", ("rebalanced the partitions", "added capacity"), "topic"),
    Cause("expensive call", "an", "load", ("enabled rate limiting", "warmed the cache"),
          "endpoint", bare=False),
    Cause("noisy neighbour", "a", "infra", ("drained the node", "moved the workload")),
    Cause("network partition", "a", "infra", _MOVE, event=True),
    Cause("failed disk", "a", "infra", ("replaced the disk", "failed over to the standby"),
          because="a disk failed", event=True),
    Cause("hardware fault", "a", "infra", _MOVE, event=True),
    Cause("kernel panic", "a", "infra", ("rebooted the host", "drained the node"), event=True),
    Cause("power loss in one rack", "a", "infra", _MOVE, event=True),
    Cause("DNS misconfiguration", "a", "infra", ("corrected the DNS record", "rerouted traffic")),
    Cause("clock skew", "", "infra", ("restarted the time daemon", "drained the node")),
    Cause("stuck failover", "a", "infra", ("rebooted the host", "promoted the replica"),
          event=True),
    Cause("congested transit link", "a", "infra", ("rerouted traffic",)),
    Cause("failure", "a", "upstream",
          ("switched to the backup provider", "disabled retries", "queued the requests"),
          "provider", bare=False, event=True),
    Cause("throttling", "", "upstream", ("queued the requests", "raised the quota"), "provider",
          bare=False),
    Cause("exhausted quota", "an", "upstream", ("raised the quota", "queued the requests"),
          "provider", because="the quota ran out"),
    Cause("poison message", "a", "queue", _QUEUE, "topic", event=True),
    Cause("malformed events", "", "queue", (*_QUEUE, "replayed the events"), "topic", plural=True),
    Cause("stuck consumer", "a", "queue", ("restarted the consumers", "rebalanced the partitions"),
          "topic", because="a consumer got stuck"),
    Cause("full disk", "a", "disk", ("extended the volume", "deleted old logs"),
          because="a disk filled up"),
    Cause("corrupt index", "a", "disk", ("rebuilt the index", "promoted the replica"), "table",
          event=True),
    Cause("oversized batch", "an", "queue", ("split the batch", "restarted the consumers")),
    Cause("log flood", "a", "disk", ("deleted old logs", "extended the volume"), event=True),
    Cause("failed snapshot", "a", "disk", ("restarted the backup", "extended the volume"),
          event=True),
    Cause("expired certificate", "an", "secret", ("renewed the certificate",), "endpoint",
          because="a certificate expired"),
    Cause("failed certificate renewal", "a", "renewal", ("renewed the certificate",), event=True),
    Cause("revoked API key", "a", "secret", ("rotated the credentials",), "provider",
          because="an API key was revoked", event=True),
    Cause("expired credentials", "", "secret", ("rotated the credentials",), plural=True),
)  # fmt: skip

_ACTIONS: Final[tuple[Action, ...]] = (
    Action("rolled back", "rolling back", passive_thing="the change"),
    Action("rolled back", "rolling back", "the release"),
    Action("reverted", "reverting", "the change"),
    Action("disabled", "disabling", "the feature flag"),
    Action("corrected", "correcting", "the settings", plural=True),
    Action("deployed", "deploying", "a hotfix"),
    Action("restarted", "restarting", "the pods", plural=True),
    Action("raised", "raising", "the pool limit"),
    Action("scaled out", "scaling out", passive_thing="the service"),
    Action("added", "adding", "capacity"),
    Action("enabled", "enabling", "rate limiting"),
    Action("disabled", "disabling", "retries", plural=True),
    Action("blocked", "blocking", "the offending clients", plural=True),
    Action("warmed", "warming", "the cache"),
    Action("killed", "killing", "the query"),
    Action("added", "adding", "the index"),
    Action("paused", "pausing", "the migration"),
    Action("paused", "pausing", "the backfill"),
    Action("rebalanced", "rebalancing", "the partitions", plural=True),
    Action("failed over", "failing over", rest="to the standby", passive_thing="traffic"),
    Action("rerouted", "rerouting", "traffic"),
    Action("drained", "draining", "the node"),
    Action("moved", "moving", "the workload"),
    Action("replaced", "replacing", "the disk"),
    Action("rebooted", "rebooting", "the host"),
    Action("corrected", "correcting", "the DNS record"),
    Action("restarted", "restarting", "the time daemon"),
    Action("promoted", "promoting", "the replica"),
    Action("switched", "switching", rest="to the backup provider", passive_thing="traffic"),
    Action("queued", "queueing", "the requests", plural=True),
    Action("raised", "raising", "the quota"),
    Action("purged", "purging", "the queue"),
    Action("skipped", "skipping", "the message"),
    Action("restarted", "restarting", "the consumers", plural=True),
    Action("replayed", "replaying", "the events", plural=True),
    Action("extended", "extending", "the volume"),
    Action("deleted", "deleting", "old logs", plural=True),
    Action("rebuilt", "rebuilding", "the index"),
    Action("split", "splitting", "the batch"),
    Action("restarted", "restarting", "the backup"),
    Action("renewed", "renewing", "the certificate"),
    Action("rotated", "rotating", "the credentials", plural=True),
)
ACTIONS: Final[dict[str, Action]] = {action.value: action for action in _ACTIONS}

_PREPOSITIONS: Final[dict[str, str]] = {
    "version": "of {}",
    "component": "in the {}",
    "table": "on the {} table",
    "topic": "in the {} topic",
    "endpoint": "on the {} endpoint",
    "provider": "at the {} provider",
    "traffic": "in {} traffic",
}
_PLACES: Final[dict[str, tuple[str, ...]]] = {
    "component": names(
        "PDF renderer|image resizer|query planner|rate limiter|session handler|"
        "retry logic|tax calculator|address parser|currency converter|template engine|"
        "price importer|search parser|token validator|webhook signer|batch scheduler|"
        "geocoder|spell checker|barcode reader|discount engine|seat map|export writer|"
        "CSV parser|audit logger|connection handler|health check|load balancer|"
        "request router|access filter|mail formatter|checksum routine|date parser|"
        "permission check|login form|cart merger|upload handler|thumbnail encoder|"
        "schema validator|stock counter|refund logic"
    ),
    "table": names(
        "orders|users|sessions|payments|line items|events|audit|products|prices|"
        "invoices|addresses|bookings|seats|tickets|shipments|refunds|messages|contacts|"
        "devices|tokens|coupons|subscriptions|entitlements|claims|policies|transfers|"
        "ledger entries|stock"
    ),
    "topic": names(
        "orders|clicks|emails|payments|shipments|page views|audit|invoices|refunds|"
        "signups|stock updates|price changes|bookings|webhooks|device status|chat|"
        "transfers|uploads"
    ),
    "endpoint": names(
        "search|login|export|upload|report|token|quote|status|webhook|admin|partner|"
        "mobile|pricing|availability|download|refund|callback|internal"
    ),
    "provider": names(
        "SMS|email|card|identity|maps|address|tax|shipping|push|video|currency|DNS|"
        "fraud|bank|translation|storage|analytics|voice"
    ),
    "traffic": names(
        "holiday|bot|partner|mobile|crawler|campaign|weekend|search|scraper|checkout|"
        "import|login|lunchtime|payday|webhook|test"
    ),
}


def place_phrase(place: Place, rng: Random) -> str:
    """What follows a cause's head, as in "in the PDF renderer"; versions are drawn freely."""
    if place == "version":
        name = f"{rng.randint(1, 9)}.{rng.randint(0, 60)}.{rng.randint(0, 12)}"
    else:
        name = rng.choice(_PLACES[place])
    return _PREPOSITIONS[place].format(name)


def cause_of(value: str) -> Cause:
    """The cause whose head begins `value`; the longest head wins.

    Raises:
        KeyError: no cause begins so, which is a fault of the tables.
    """
    heads = [cause for cause in CAUSES if value == cause.head or value.startswith(cause.head + " ")]
    if not heads:
        raise KeyError(value)
    return max(heads, key=lambda cause: len(cause.head))
