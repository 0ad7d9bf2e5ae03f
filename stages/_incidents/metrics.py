"""Phrases about what is measured: the metric, where it is measured, its value and its limit."""

from typing import Final

from stages._incidents.choice import Options, choose
from stages._incidents.numbers import Spelling, in_seconds, say_before_noun, say_quantity
from stages._incidents.numbers import split_quantity as split
from stages._incidents.phrases import Scene, article, service, spaced
from stages._incidents.world import METRICS, NEW_UNIT_METRICS, Metric

_ROWS: Final[dict[str, Metric]] = {row.name: row for row in (*NEW_UNIT_METRICS, *METRICS)}
_METRIC_WAYS: Final[dict[str, Options]] = {
    "p99 latency": ((12, "p99 latency"), (1, "p99 response time"), (1, "99th percentile latency")),
    "p95 latency": ((12, "p95 latency"), (1, "p95 response time"), (1, "95th percentile latency")),
    "p50 latency": ((10, "p50 latency"), (1, "p50 response time")),
    "median latency": ((10, "median latency"), (1, "median response time")),
    "5xx rate": ((5, "5xx rate"), (2, "5xx error rate"), (1, "rate of 5xx errors")),
    "error rate": ((12, "error rate"), (1, "rate of failed requests")),
    "timeout rate": ((8, "timeout rate"), (1, "rate of timeouts")),
    "job failure rate": ((6, "job failure rate"), (1, "rate of failed jobs")),
    "success rate": ((6, "success rate"), (1, "request success rate")),
    "CPU usage": ((6, "CPU usage"), (2, "CPU utilisation"), (1, "CPU load")),
    "memory usage": ((8, "memory usage"), (1, "memory utilisation")),
    "disk usage": ((8, "disk usage"), (1, "disk utilisation")),
    "queue depth": ((6, "queue depth"), (1, "queue length")),
    "job backlog": ((4, "job backlog"), (1, "backlog of jobs")),
    "replication lag": ((8, "replication lag"), (1, "replica lag")),
    "message age": ((4, "message age"), (1, "age of the oldest message")),
    "cache hit rate": ((6, "cache hit rate"), (1, "cache hit ratio")),
    "free disk space": ((6, "free disk space"), (1, "available disk space")),
    "certificate lifetime": ((4, "certificate lifetime"), (1, "remaining certificate lifetime")),
}
_ON_METRIC: Final[Options] = (
    (9, "{metric} on {service}{region}"),
    (2.5, "{metric} for {service}{region}"),
    (2, "{service} {metric}{region}"),
    (1.5, "{owner} {metric}{region}"),
    (1.5, "the {metric} of {service}{region}"),
)
_LIMIT_HIGH: Final[Options] = (
    (9, " against a threshold of {plain}"),
    (5, ", above the {short} threshold"),
    (3, " (threshold {plain})"),
    (2, ", over the {short} limit"),
    (1.5, ", exceeding the {short} threshold"),
    (1.5, ", past its {short} alert threshold"),
    (1, " versus a limit of {plain}"),
    (1, ", where the threshold is {plain}"),
)
_LIMIT_LOW: Final[Options] = (
    (9, " against a threshold of {plain}"),
    (6, ", below the {short} threshold"),
    (3, " (threshold {plain})"),
    (2, ", under the {short} limit"),
    (1, ", short of the {short} threshold"),
    (1, ", where the threshold is {plain}"),
)
_WELL: Final[Options] = ((1.5, ", well {side} the {short} threshold"),)


def metric_of(scene: Scene) -> Metric:
    """The table row of the record's metric, known or from a drift scenario."""
    return _ROWS[scene.record["metric"]]


def metric(scene: Scene) -> str:
    """The metric's name in one of its wordings."""
    name = scene.record["metric"]
    return choose(scene.rng, _METRIC_WAYS.get(name, ((1, name),)))


def short_metric(scene: Scene) -> str:
    """A wording that an amount can follow: no "rate of failed requests"."""
    wording = metric(scene)
    return scene.record["metric"] if " of " in wording else wording


def metric_on_service(scene: Scene, where: str, inside: bool = False) -> str:
    """ "p99 latency on checkout-api in eu-west-1".

    `where` is the region's phrase or empty; `inside` when the phrase does not begin its clause.
    """
    named, wording = service(scene), metric(scene)
    pattern = choose(scene.rng, _ON_METRIC)
    stutters = named.rpartition("-")[2] == wording.partition(" ")[0]  # "x-consumer consumer lag"
    bare = not named.startswith("the ") and not stutters
    if " of " in wording or (pattern.startswith("{service} ") and not bare):
        pattern = _ON_METRIC[0][1]
    if pattern.startswith("{metric}") and (" of " in wording or _wants_the(scene, inside)):
        wording = f"the {wording}"
    return pattern.format(metric=wording, service=named, owner=f"{named}'s", region=spaced(where))


def _wants_the(scene: Scene, inside: bool) -> bool:
    """Latencies and mass nouns go without "the" ("p99 latency rose"); rates and counts want it."""
    row = metric_of(scene)
    if not row.article:
        return False
    bare = row.name.endswith(("latency", "lag", "byte"))
    return scene.rng.random() < ((0.1 if bare else 0.95) if inside else (0.08 if bare else 0.4))


def metric_at_value(scene: Scene) -> str:
    """The metric as something one sees, without its limit: "a p99 latency of 1.8 s"."""
    row, wording = metric_of(scene), short_metric(scene)
    lead = article(wording) if row.article else ""
    if "value" in scene.record:
        if row.name.endswith(("latency", "lag", "byte")) and scene.rng.random() < 0.4:
            lead = ""
        return f"{lead} {wording} of {value(scene)}".strip()
    grade = "low" if row.low else choose(scene.rng, ((3, "high"), (1, "raised")))
    return f"{'a ' if lead else ''}{grade} {wording}"


def value(scene: Scene) -> str:
    """The measured value; words are kept for times and counts that people would spell out."""
    spelling: Spelling = "long" if scene.spelling == "words" else scene.spelling
    return say_quantity(scene.rng, scene.record["value"], spelling)


def limit(scene: Scene) -> str:
    """The threshold as an addition with its own punctuation; empty when there is none."""
    if "threshold" not in scene.record:
        return ""
    row = metric_of(scene)
    options = [*(_LIMIT_LOW if row.low else _LIMIT_HIGH)]
    if "value" in scene.record and _far(scene):
        options += _WELL
    if "value" not in scene.record:
        options = [(1, ", below the {short} threshold" if row.low else ", above the {short} limit")]
    spelling: Spelling = "long" if scene.spelling == "words" else scene.spelling
    return choose(scene.rng, options).format(
        plain=say_quantity(scene.rng, scene.record["threshold"], spelling),
        short=say_before_noun(scene.rng, scene.record["threshold"]),
        side="below" if row.low else "above",
    )


def _far(scene: Scene) -> bool:
    """Whether the value is at least twice (or at most half) its threshold."""
    measured, bound = (scene.record[slot] for slot in ("value", "threshold"))
    if split(measured)[1] == split(bound)[1]:
        ratio = split(measured)[0] / split(bound)[0]
    else:
        ratio = in_seconds(measured) / in_seconds(bound)
    return not 0.5 < ratio < 2
