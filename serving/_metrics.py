"""What /metrics shows: every series of the service, bounded in labels and zero from the start.

The processes of a service write to one folder (PROMETHEUS_MULTIPROC_DIR, which `bentoml serve` sets
for each of them), and any of them shows the sum of all. BentoML's own series and route are off:
their label is the raw path, so that anybody could add series without end.

A series is added in serving/_metric_series.py, those of the cascade and of live quality beside
what tells them.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from serving._cascade.series import CASCADE_SERIES
from serving._items import Refusal
from serving._live.series import LIVE_SERIES
from serving._memory_use import gpu_memory, service_root, tree_memory
from serving._metric_series import SCRAPED, SERIES, Cancelled, Model, Outcome, Series
from serving.errors import StillhouseError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NAMESPACE = "stillhouse"


class Metrics:
    """The series of this process; one per process, or they overwrite each other's values."""

    def __init__(self, usd_per_hour: float = 0.0, folder: Path | None = None) -> None:
        """Declare every series, at zero.

        `usd_per_hour`: price of the machine, by which compute seconds are charged. `folder`: that
        of PROMETHEUS_MULTIPROC_DIR; None for one process alone.

        Raises:
            StillhouseError: `folder` was not in the environment when prometheus_client was loaded.
        """
        self.usd_per_hour = usd_per_hour
        self._folder = folder
        self._registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for series in (*SERIES, *CASCADE_SERIES, *LIVE_SERIES):
            self._declare(series)
        self._check_folder()
        self._gauges["usd_per_hour"].set(usd_per_hour)

    def count_request(self, route: str, outcome: Outcome, seconds: float) -> None:
        """One request ended; `route` from `route_of`."""
        self._counters["requests_total"].labels(route, outcome).inc()
        self._histograms["request_seconds"].labels(route).observe(seconds)

    def count_refusal(self, reason: Refusal) -> None:
        """One request was refused."""
        self._counters["refusals_total"].labels(reason).inc()

    @contextmanager
    def request_under_way(self) -> Iterator[None]:
        """Count a request for as long as it lasts."""
        with self._gauges["requests_under_way"].track_inprogress():
            yield

    @contextmanager
    def stream_alive(self) -> Iterator[None]:
        """Count a stream for as long as it lasts."""
        with self._gauges["streams_alive"].track_inprogress():
            yield

    def set_queue(self, model: Model, items: int, tokens: int) -> None:
        """What waits now."""
        self._gauges["queue_items"].labels(model).set(items)
        self._gauges["queue_tokens"].labels(model).set(tokens)

    def observe_batch(
        self,
        model: Model,
        *,
        rows: int,
        real_tokens: int,
        padded_tokens: int,
        seconds: float,
        queue_s: Iterable[float] = (),
    ) -> None:
        """One micro-batch, whose cost its `rows` share; `padded_tokens` hold the real ones."""
        waits = self._histograms["queue_seconds"].labels(model)
        for waited in queue_s:
            waits.observe(waited)
        if rows == 0:
            return
        padding = max(padded_tokens - real_tokens, 0)
        self._histograms["compute_seconds"].labels(model).observe(seconds)
        self._histograms["micro_batch_rows"].labels(model).observe(rows)
        self._histograms["padded_share"].labels(model).observe(padding / max(padded_tokens, 1))
        self._counters["padding_tokens_total"].labels(model).inc(padding)
        self.charge(model, seconds, rows)

    def observe_stream(
        self,
        model: Model,
        first_token_s: float | None,
        gaps_s: Iterable[float] = (),
        *,
        queue_s: float,
        compute_s: float,
    ) -> None:
        """One stream that ended, and its cost; `first_token_s` is None where there was no token."""
        if first_token_s is not None:
            self._histograms["first_token_seconds"].labels(model).observe(first_token_s)
        gaps = self._histograms["token_gap_seconds"].labels(model)
        for gap in gaps_s:
            gaps.observe(gap)
        self._histograms["queue_seconds"].labels(model).observe(queue_s)
        self._histograms["compute_seconds"].labels(model).observe(compute_s)
        self.charge(model, compute_s)

    def observe_items(self, model: Model, items: int) -> None:
        """A batch as BentoML made it, before it is cut."""
        self._histograms["batch_items"].labels(model).observe(items)

    def count_tokens(self, model: Model, prompt: int, completion: int, wasted: int = 0) -> None:
        """Of answers that were given, and those made for callers who left."""
        self._counters["prompt_tokens_total"].labels(model).inc(prompt)
        self._counters["completion_tokens_total"].labels(model).inc(completion)
        self._counters["wasted_tokens_total"].labels(model).inc(wasted)

    def count_cancelled(self, model: Model, stage: Cancelled, items: int = 1) -> None:
        """Items whose caller left before they cost anything, or when they had."""
        self._counters["cancelled_total"].labels(model, stage).inc(items)

    def count_expired(self, model: Model, items: int = 1) -> None:
        """Items that were dropped, their deadline past."""
        self._counters["expired_total"].labels(model).inc(items)

    def add(self, series: str, by: float, *labels: str) -> None:
        """Count `by` more; labels in the order of the series' own."""
        self._counters[series].labels(*labels).inc(by)

    def observe(self, series: str, value: float, *labels: str) -> None:
        """Note a value in a histogram."""
        self._histograms[series].labels(*labels).observe(value)

    def charge(self, model: Model, compute_s: float, requests: int = 1) -> None:
        """Cost of compute seconds that `requests` share."""
        cost = compute_s * self.usd_per_hour / 3600.0
        self._counters["cost_usd_total"].labels(model).inc(cost)
        shares = self._histograms["request_cost_usd"].labels(model)
        for _ in range(requests):
            shares.observe(cost / requests)

    def set_limits(self, model: Model, token_budget: int, largest_batch_rows: int) -> None:
        """As computed at the start."""
        self._gauges["token_budget"].labels(model).set(token_budget)
        self._gauges["largest_batch_rows"].labels(model).set(largest_batch_rows)

    def set_model(self, model: Model, engine: str, digest: str) -> None:
        """Which model was loaded; twelve characters of its digest are shown."""
        self._gauges["model_info"].labels(model, engine, digest[:12]).set(1)

    def exposition(self) -> bytes:
        """All series of all processes in Prometheus' text format; takes milliseconds."""
        now = CollectorRegistry()
        now.register(_Memory())
        if self._folder is None:
            return generate_latest(self._registry) + generate_latest(now)
        forget_dead(self._folder)
        merged = CollectorRegistry()
        MultiProcessCollector(merged, str(self._folder))  # type: ignore[no-untyped-call]
        return generate_latest(merged) + generate_latest(now)

    def _declare(self, series: Series) -> None:
        name, what = series.name, (series.name, series.help, tuple(series.labels), NAMESPACE)
        family: Counter | Gauge | Histogram
        match series.kind:
            case "counter":
                family = self._counters[name] = Counter(*what, registry=self._registry)
            case "gauge":
                family = self._gauges[name] = Gauge(
                    *what, registry=self._registry, multiprocess_mode=series.merge
                )
            case "histogram":
                family = self._histograms[name] = Histogram(
                    *what, registry=self._registry, buckets=series.buckets
                )
        if series.labels:
            for values in product(*series.labels.values()):
                family.labels(*values)

    def _check_folder(self) -> None:
        """Values that are kept in this process alone would not be missed until they are needed."""
        if self._folder and not any(self._folder.glob(f"counter_{os.getpid()}.db")):
            raise StillhouseError(
                f"This process writes no metrics to {self._folder}: prometheus_client was loaded "
                f"before PROMETHEUS_MULTIPROC_DIR was set. Set it before Python starts."
            )


class _Memory(Collector):
    """Memory of the whole tree, read when it is asked for."""

    def collect(self) -> Iterator[Metric]:
        """One family for the machine's memory, one for its GPUs'."""
        ram, gpu = (
            GaugeMetricFamily(f"{NAMESPACE}_{s.name}", s.help, labels=tuple(s.labels))
            for s in SCRAPED
        )
        for part, memory in tree_memory(service_root(os.getpid())).items():
            ram.add_metric((part, "resident"), memory.resident_bytes)
            ram.add_metric((part, "proportional"), memory.proportional_bytes)
        for device in gpu_memory():
            gpu.add_metric((str(device.device), "used"), device.used_bytes)
            gpu.add_metric((str(device.device), "total"), device.total_bytes)
        yield from (ram, gpu)


def forget_dead(folder: Path) -> None:
    """Drop gauges of processes that ended without a word: a crashed one has no streams."""
    for path in folder.glob("gauge_live*_*.db"):
        pid = int(path.stem.rpartition("_")[2])
        if not Path("/proc", str(pid)).exists():
            mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]
