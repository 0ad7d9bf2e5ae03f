"""A service's /metrics as a tally of what is compared, and tallies as counts. Pure.

A tally holds counters only, by kind and label: requests by outcome, latencies by the upper bound of
their bucket (cumulative, as Prometheus has them), checked answers by what the slot check said.
Requests that ask for no answer are left out.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from serving._metric_series import ROUTES
from serving._metrics import NAMESPACE
from serving.errors import StillhouseError
from stages._canary.evidence import Counts
from stages._params.canary import Metric

Kind = Literal["requests", "seconds", "slots"]
Key = tuple[Kind, str]
Tally = Mapping[Key, int]
ANSWERS = frozenset(route for route in ROUTES if not route.startswith("/v1/models"))
LABELS: Mapping[str, tuple[Kind, str]] = {
    f"{NAMESPACE}_requests_total": ("requests", "outcome"),
    f"{NAMESPACE}_request_seconds_bucket": ("seconds", "le"),
    f"{NAMESPACE}_live_checks_total": ("slots", "state"),
}
MODEL = f"{NAMESPACE}_model_info"
UNDER_WAY = f"{NAMESPACE}_requests_under_way"


class UnreadableError(StillhouseError):
    """A service that tells nothing at the moment; it may do so at the next look."""


@dataclass(frozen=True)
class Seen:
    """What one look at one service has shown."""

    tally: Tally
    under_way: int
    """Requests that have begun and not ended [count]."""
    model: str | None
    """What is shown of the digest of the model that answers (12 characters); None: nothing, as of
    an entry whose models run apart."""


def read_series(text: str) -> Seen:
    """What /metrics says.

    Raises:
        UnreadableError: this is no exposition, or not Stillhouse's.
    """
    try:
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    except ValueError as error:
        raise UnreadableError(f"/metrics is no text of Prometheus ({error}).") from None
    missing = {*LABELS, UNDER_WAY} - {sample.name for sample in samples}
    if missing:
        raise UnreadableError(
            f"/metrics has no {', '.join(sorted(missing))}. Is this a Stillhouse service of this "
            f"version?"
        )
    tally: Counter[Key] = Counter()
    for sample in samples:
        if sample.name in LABELS and _is_compared(sample):
            kind, label = LABELS[sample.name]
            tally[kind, _plain(sample.labels[label])] += round(sample.value)
    under_way = sum(round(sample.value) for sample in samples if sample.name == UNDER_WAY)
    return Seen(tally, under_way, _student(samples))


def _is_compared(sample: Sample) -> bool:
    if "check" in sample.labels:
        return sample.labels["check"] == "slots"
    return sample.labels["route"] in ANSWERS


def _plain(label: str) -> str:
    """The bound of a bucket in one spelling, as 0.1 may be 1e-1; other labels as they are."""
    try:
        return repr(float(label))
    except ValueError:
        return label


def _student(samples: Sequence[Sample]) -> str | None:
    found = {
        s.labels["digest"]
        for s in samples
        if s.name == MODEL and s.labels["model"] == "student" and s.value == 1.0
    }
    return " and ".join(sorted(found)) or None


def counts_of(metric: Metric, tally: Tally, limit_s: float) -> Counts:
    """Bad and all requests of one metric.

    Args:
        limit_s: what takes longer is slow: the bound of a bucket [s].
    """
    if metric == "slow":
        total = tally.get(("seconds", repr(math.inf)), 0)
        return Counts(total - tally.get(("seconds", repr(limit_s)), 0), total)
    if metric == "slot_errors":
        found = tally.get(("slots", "found"), 0)
        return Counts(found, found + tally.get(("slots", "ok"), 0))
    total = sum(value for (kind, _), value in tally.items() if kind == "requests")
    outcome = "failed" if metric == "errors" else "refused"
    return Counts(tally.get(("requests", outcome), 0), total)


def choose_limit(tally: Tally, slow_share: float) -> float:
    """The bucket's bound [s] that a share nearest to `slow_share` of requests is slower than."""
    bounds = [float(label) for kind, label in tally if kind == "seconds"]
    finite = sorted(bound for bound in bounds if math.isfinite(bound))

    def distance(bound: float) -> float:
        return abs((counts_of("slow", tally, bound).share or 0.0) - slow_share)

    return min(finite, key=distance)


class Meter:
    """What one process tree has counted since the first reading, over its restarts.

    A counter that falls began anew, as in Prometheus' rate(): what it shows was counted since. What
    ended between the last reading and the restart is lost, so that restarts are told.
    """

    def __init__(self, first: Tally) -> None:
        """`first` is where counting begins."""
        self._last, self.restarts = first, 0
        self.counted: Counter[Key] = Counter()

    def read(self, tally: Tally) -> None:
        """One more reading."""
        restarted = any(tally.get(key, 0) < value for key, value in self._last.items())
        before: Tally = {} if restarted else self._last
        self.restarts += restarted
        self.counted.update({key: value - before.get(key, 0) for key, value in tally.items()})
        self._last = tally
