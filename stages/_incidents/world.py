"""The world that incidents happen in: services, regions, metrics and symptoms, as tables.

Everything here is invented, in the manner of the public incident reports and alert rules that
people on call write. Tables only; `_incidents.records` draws records from them.
"""

from dataclasses import dataclass
from typing import Final, Literal

from stages._incidents.choice import names

Kind = Literal["api", "worker", "database", "cache", "storage", "batch", "edge", "product"]
Family = Literal["latency", "lag", "percent", "count", "bytes", "rate", "days"]

# A service's name is <domain>-<suffix>; the suffix says what kind of thing it is.
SUFFIXES: Final[dict[Kind, tuple[str, ...]]] = {
    "api": ("api", "service", "gateway", "backend"),
    "worker": ("worker", "consumer", "dispatcher", "processor"),
    "database": ("db", "postgres", "mysql", "replica"),
    "cache": ("cache", "redis"),
    "storage": ("store", "bucket", "archive"),
    "batch": ("export", "importer", "indexer", "sync"),
    "edge": ("proxy", "edge", "router"),
    "product": ("Portal", "Console", "Dashboard", "App"),
}
KIND_WEIGHTS: Final[dict[Kind, float]] = {
    "api": 34,
    "worker": 14,
    "database": 13,
    "cache": 6,
    "storage": 7,
    "batch": 9,
    "edge": 7,
    "product": 10,
}

DOMAINS: Final[tuple[str, ...]] = names(
    "checkout|orders|cart|catalog|pricing|inventory|shipping|refunds|payouts|"
    "payments|invoice|billing|ledger|tax|coupon|loyalty|subscription|wallet|"
    "settlement|dispute|login|session|profile|identity|token|consent|invite|signup|"
    "password|search|ranking|recommendation|feed|timeline|comments|reviews|ratings|"
    "notification|email|sms|push|webhook|chat|presence|contacts|calendar|booking|"
    "availability|ticket|seat|fare|itinerary|checkin|baggage|dispatch|driver|"
    "courier|route|geocode|maps|tracking|warehouse|picking|returns|supplier|"
    "procurement|media|image|video|thumbnail|upload|transcode|playlist|subtitle|"
    "document|signature|template|contract|claims|policy|quote|underwriting|fraud|"
    "risk|kyc|sanctions|audit|report|metrics|usage|quota|telemetry|clickstream|"
    "events|experiment|feature-flags|config|secrets|certificate|dns|scheduler|cron|"
    "workflow|approval|onboarding|payroll|timesheet|roster|expense|budget|forecast|"
    "tenant|workspace|license|partner|merchant|marketplace|ads|campaign|audience|"
    "attribution|survey|helpdesk|knowledge|translation|speech|ocr|face|barcode|"
    "voucher|gift-card"
)
PRODUCT_DOMAINS: Final[tuple[str, ...]] = names(
    "Partner|Merchant|Customer|Admin|Developer|Analytics|Seller|Supplier|Support|"
    "Billing|Booking|Learning|Patient|Member|Driver|Fleet|Retail|Travel|Investor|"
    "Community|Donor|Campus|Payroll|Recruiting|Reporting|Warehouse|Claims|Trading|"
    "Banking|Loyalty"
)

# Region -> (how common, the place it stands in, as customers know it; "" if it has none).
REGIONS: Final[dict[str, tuple[float, str]]] = {
    "eu-west-1": (9, "Ireland"),
    "eu-central-1": (8, "Frankfurt"),
    "us-east-1": (11, "Northern Virginia"),
    "us-west-2": (8, "Oregon"),
    "eu-west-2": (5, "London"),
    "eu-west-3": (3, "Paris"),
    "eu-north-1": (3, "Stockholm"),
    "us-east-2": (4, "Ohio"),
    "ca-central-1": (3, "Montreal"),
    "sa-east-1": (3, "São Paulo"),
    "ap-south-1": (3, "Mumbai"),
    "ap-southeast-1": (5, "Singapore"),
    "ap-southeast-2": (4, "Sydney"),
    "ap-northeast-1": (5, "Tokyo"),
    "ap-northeast-2": (2, "Seoul"),
    "me-south-1": (2, "Bahrain"),
    "af-south-1": (2, "Cape Town"),
    "all regions": (5, ""),
}


@dataclass(frozen=True)
class Metric:
    """What an alert watches.

    Attributes:
        name: the record's value.
        article: what precedes it in "of" constructions ("a p99 latency of"), "" for mass nouns.
        kinds: the services that have it.
        family: how its values are written.
        thresholds: alert limits as people set them.
        low: true when falling is the fault.
        spread: a fault lies up to this factor past its threshold.
        felt: true when customers notice it themselves.
        causes: cause families (see `_incidents.causes`) that explain it.
    """

    name: str
    article: str
    kinds: tuple[Kind, ...]
    family: Family
    thresholds: tuple[str, ...]
    causes: tuple[str, ...]
    low: bool = False
    spread: float = 8.0
    felt: bool = False
    weight: float = 1.0


_FRONT: Final[tuple[Kind, ...]] = ("api", "edge", "product")
_ANY: Final[tuple[str, ...]] = ("deploy", "load", "infra", "upstream", "query", "secret", "renewal")
_FAST = ("100 ms", "150 ms", "200 ms", "250 ms", "300 ms", "400 ms", "500 ms", "600 ms", "750 ms")
_SLOW = ("800 ms", "1 s", "1.2 s", "1.5 s", "2 s", "2.5 s", "3 s", "4 s", "5 s", "8 s")
_LAGS = ("5 s", "10 s", "15 s", "20 s", "30 s", "45 s", "60 s", "90 s", "2 min", "5 min", "10 min")
_FULL = ("70 %", "75 %", "80 %", "85 %", "90 %", "92 %", "95 %")
_FAIL = ("0.1 %", "0.2 %", "0.5 %", "0.8 %", "1 %", "1.5 %", "2 %", "3 %", "5 %")
_DEPTH = tuple(f"{n} messages" for n in ("500", "1,000", "2,000", "2,500", "5,000", "10,000"))
_JOBS = tuple(f"{n} jobs" for n in ("50", "100", "200", "250", "400", "500", "1,000", "1,500"))
_EVENTS = tuple(f"{n} events" for n in ("10,000", "20,000", "25,000", "50,000", "100,000"))
_GB = ("2 GB", "4 GB", "6 GB", "8 GB", "12 GB", "16 GB", "24 GB", "32 GB")
_FREE = ("5 GB", "10 GB", "15 GB", "20 GB", "25 GB", "40 GB", "50 GB", "100 GB")
_RATE = tuple(f"{n} req/s" for n in ("40", "60", "80", "120", "150", "200", "300", "450", "600"))
_HOURS = ("30 min", "45 min", "1 h", "2 h", "3 h", "4 h", "6 h", "8 h")

METRICS: Final[tuple[Metric, ...]] = (
    Metric("p99 latency", "a", _FRONT, "latency", _FAST + _SLOW, _ANY, felt=True, weight=4),
    Metric("p95 latency", "a", _FRONT, "latency", _FAST + _SLOW, _ANY, felt=True, weight=3),
    Metric("p50 latency", "a", ("api", "edge"), "latency", _FAST, _ANY, felt=True),
    Metric("median latency", "a", _FRONT, "latency", _FAST, _ANY, felt=True),
    Metric("page load time", "a", ("product",), "latency", _SLOW, _ANY, felt=True, weight=4),
    Metric("time to first byte", "a", ("edge", "product"), "latency", _FAST, _ANY, felt=True),
    Metric("query time", "a", ("database",), "latency", _FAST + _SLOW, ("load", "query", "deploy")),
    Metric("write latency", "a", ("database", "storage", "cache"), "latency", _FAST, ("load",
           "query", "infra")),
    Metric("read latency", "a", ("database", "storage", "cache"), "latency", _FAST, ("load",
           "query", "infra")),
    Metric("error rate", "an", _FRONT, "percent", _FAIL, _ANY, felt=True, weight=4),
    Metric("5xx rate", "a", _FRONT, "percent", _FAIL, _ANY, felt=True, weight=2),
    Metric("timeout rate", "a", ("api", "edge", "database"), "percent", _FAIL, _ANY, felt=True),
    Metric("job failure rate", "a", ("worker", "batch"), "percent", _FAIL, ("deploy", "queue",
           "upstream")),
    Metric("packet loss", "", ("edge",), "percent", _FAIL, ("infra",), felt=True),
    Metric("success rate", "a", _FRONT, "percent", ("95 %", "97 %", "98 %", "99 %", "99.5 %"),
           _ANY, low=True, spread=1.7, felt=True),
    Metric("cache hit rate", "a", ("cache",), "percent", ("60 %", "70 %", "75 %", "80 %", "90 %"),
           ("deploy", "load"), low=True, spread=6, weight=3),
    Metric("CPU usage", "", ("api", "worker", "database", "batch"), "percent", _FULL,
           ("deploy", "load")),
    Metric("memory usage", "", ("api", "worker", "cache", "database"), "percent", _FULL,
           ("deploy", "load")),
    Metric("disk usage", "", ("database", "storage"), "percent", _FULL, ("disk",), weight=3),
    Metric("heap usage", "", ("api", "worker"), "bytes", _GB, ("deploy",), spread=2),
    Metric("free disk space", "", ("database", "storage"), "bytes", _FREE, ("disk",),
           low=True),
    Metric("queue depth", "a", ("worker",), "count", _DEPTH, ("queue", "load", "deploy",
           "upstream"),
           spread=60, weight=4),
    Metric("job backlog", "a", ("worker", "batch"), "count", _JOBS, ("queue", "load", "deploy"),
           spread=30, weight=2),
    Metric("consumer lag", "a", ("worker",), "count", _EVENTS, ("queue", "load", "deploy"),
           spread=40,
           weight=2),
    Metric("replication lag", "a", ("database",), "lag", _LAGS, ("load", "infra", "query", "disk"),
           spread=20, weight=4),
    Metric("message age", "a", ("worker",), "lag", _LAGS, ("queue", "load", "upstream"), spread=15),
    Metric("delivery delay", "a", ("worker",), "lag", _LAGS, ("queue", "upstream", "deploy"),
           spread=15, felt=True),
    Metric("data delay", "a", ("batch", "product"), "lag", _HOURS, ("queue", "query", "deploy",
           "upstream"), spread=7,
           felt=True),
    Metric("job runtime", "a", ("batch",), "lag", _HOURS, ("query", "load", "deploy"), spread=5,
           weight=2),
    Metric("backup age", "a", ("database", "storage"), "lag", ("24 h", "26 h", "36 h", "48 h"),
           ("disk", "infra"), spread=3),
    Metric("throughput", "", ("api", "edge", "worker"), "rate", _RATE, _ANY, low=True, spread=9),
    Metric("certificate lifetime", "a", ("edge", "api"), "days",
           ("7 days", "10 days", "14 days", "21 days", "30 days"), ("renewal",), low=True,
           spread=9, weight=0.6),
)  # fmt: skip
# Metrics in hours: an incident about them lasts hours, not seconds.
SLOW_METRICS: Final = frozenset({"backup age", "data delay", "job runtime"})

# What the drift scenario "units" measures: metrics and units that the data set never has.
_ALL: Final[tuple[Kind, ...]] = tuple(SUFFIXES)
_MICRO = ("80 µs", "120 µs", "150 µs", "200 µs", "250 µs", "400 µs", "500 µs")
_FLOW = ("20 MiB/s", "40 MiB/s", "60 MiB/s", "80 MiB/s", "120 MiB/s", "250 MiB/s", "400 MiB/s")
_PER_MINUTE = ("600 req/min", "900 req/min", "1,200 req/min", "2,400 req/min", "6,000 req/min")
_IOPS = ("800 IOPS", "1,500 IOPS", "2,000 IOPS", "3,000 IOPS", "6,000 IOPS", "12,000 IOPS")
_MIB = ("256 MiB", "512 MiB", "768 MiB", "1,024 MiB", "1,536 MiB", "2,048 MiB")
NEW_UNIT_METRICS: Final[tuple[Metric, ...]] = (
    Metric("p99 latency", "a", _ALL, "latency", _MICRO, _ANY, felt=True),
    Metric("lookup latency", "a", _ALL, "latency", _MICRO, _ANY),
    Metric("lock wait time", "a", _ALL, "latency", _MICRO, ("load", "query")),
    Metric("network throughput", "", _ALL, "rate", _FLOW, ("load", "infra"), low=True),
    Metric("disk throughput", "", _ALL, "rate", _FLOW, ("load", "infra"), low=True),
    Metric("request rate", "a", _ALL, "rate", _PER_MINUTE, ("load",)),
    Metric("disk operations", "", _ALL, "rate", _IOPS, ("load", "query")),
    Metric("resident memory", "", _ALL, "bytes", _MIB, ("deploy",), spread=4),
)

# Cause families that explain a fault of a kind of service when no metric is named.
KIND_CAUSES: Final[dict[Kind, tuple[str, ...]]] = {
    "api": _ANY,
    "edge": ("deploy", "load", "infra", "secret", "renewal"),
    "product": _ANY,
    "worker": ("deploy", "load", "upstream", "queue"),
    "batch": ("deploy", "upstream", "queue", "query"),
    "database": ("load", "infra", "query", "disk"),
    "cache": ("deploy", "load", "infra"),
    "storage": ("deploy", "infra", "disk"),
}


@dataclass(frozen=True)
class Symptom:
    """What customers see when no metric is named, as a noun phrase that follows "saw"."""

    name: str
    kinds: tuple[Kind, ...]
    plural: bool = True
    article: str = ""
    verb: str = ""  # what a service does when it has it; see `_incidents.verbs.OF_SYMPTOM`


_SEEN: Final[tuple[Kind, ...]] = ("api", "product", "edge")
_BACK: Final[tuple[Kind, ...]] = ("worker", "batch")
SYMPTOMS: Final[tuple[Symptom, ...]] = (
    Symptom("timeouts", ("api", "product", "edge", "database", "cache")),
    Symptom("failed logins", _SEEN),
    Symptom("slow page loads", ("product", "edge", "api")),
    Symptom("502 responses", _SEEN, verb="return"),
    Symptom("503 responses", _SEEN, verb="return"),
    Symptom("connection errors", ("database", "cache", "api")),
    Symptom("failed uploads", ("storage", "product")),
    Symptom("failed writes", ("database", "storage")),
    Symptom("stale data", ("cache", "batch", "product", "database"), plural=False, verb="serve"),
    Symptom("stale search results", ("batch", "cache"), verb="serve"),
    Symptom("missing images", ("storage", "edge", "product")),
    Symptom("delayed notifications", _BACK),
    Symptom("delayed reports", _BACK),
    Symptom("duplicate emails", ("worker",)),
    Symptom("missed deliveries", ("worker",)),
    Symptom("stuck jobs", _BACK),
    Symptom("incomplete exports", ("batch",)),
    Symptom("blank pages", ("product", "edge"), verb="serve"),
    Symptom("failed searches", ("api", "product")),
    Symptom("dropped connections", ("edge", "database", "cache")),
    Symptom("outage", (*_SEEN, "database", "storage"), plural=False, article="an"),
    Symptom("degraded performance", (*_SEEN, "database", "storage", "cache"), plural=False),
)
