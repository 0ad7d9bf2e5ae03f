"""How the recorder writes a run: opened, written to and closed by a stage's messages."""

import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from serving.errors import StillhouseError
from stages._recorder import Message
from stages._tracking.store import Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Seconds between samples of CPU, memory, disk, network and GPU: close together at first, so that
# short stages show something; hours of training are not worth a row per second.
SAMPLE_SECONDS, SAMPLE_SECONDS_LATER, SAMPLES_BEFORE_LATER = 1.0, 10.0, 60


class RunRecorder:
    """The recorder's side of one run: opened, written to, closed by a stage's messages."""

    def __init__(self, store: Store | StillhouseError) -> None:
        """Record in `store`; an error instead of a store is the answer to every request."""
        self._store = store
        self._run_id: str | None = None
        self._closing = threading.Event()
        self._sampler: threading.Thread | None = None

    def answer(self, request: Message) -> Message:
        """Do what the keys of `request` say, in this order: open, record, close."""
        if isinstance(self._store, StillhouseError):
            raise self._store
        answer: Message = {}
        if "open" in request:
            answer = self._open(self._store, **request["open"])
        if self._run_id and "record" in request:
            record(self._store.client, self._run_id, request["record"])
        if self._run_id and "close" in request:
            self._close(self._store.client, self._run_id, **request["close"])
        return answer

    def hang_up(self) -> None:
        """A stage that ended without closing its run was killed: the run has failed."""
        if self._run_id and isinstance(self._store, Store):
            self._close(self._store.client, self._run_id, "FAILED")

    def _open(
        self, store: Store, name: str, tags: dict[str, str], time_ms: int, sample: bool = False
    ) -> Message:
        run = store.client.create_run(store.experiment_id, time_ms, tags, name)
        self._run_id = run.info.run_id
        if sample:
            self._sampler = threading.Thread(
                target=_sample_system, args=(store.uri, self._run_id, self._closing), daemon=True
            )
            self._sampler.start()
        return {"run_id": self._run_id, "experiment_id": store.experiment_id}

    def _close(
        self, client: "MlflowClient", run_id: str, status: str, time_ms: int | None = None
    ) -> None:
        self._run_id = None
        self._closing.set()
        if self._sampler:
            self._sampler.join()
        client.set_terminated(run_id, status, time_ms)


def record(client: "MlflowClient", run_id: str, what: Mapping[str, Any]) -> None:
    """Write `what` into a run: params, tags, metrics, datasets, artifacts, each if present."""
    from mlflow.entities import Metric, Param, RunTag

    params = [Param(key, value) for key, value in what.get("params", {}).items()]
    tags = [RunTag(key, value) for key, value in what.get("tags", {}).items()]
    metrics = [
        Metric(key, value, what["time_ms"], what.get("step") or 0)
        for key, value in what.get("metrics", {}).items()
    ]
    # One batch of MLflow's REST interface holds 100 params or tags and 1,000 entries in all.
    for start in range(0, max(len(params), len(tags), len(metrics)), 100):
        part = slice(start, start + 100)
        client.log_batch(run_id, metrics=metrics[part], params=params[part], tags=tags[part])
    _log_datasets(client, run_id, what.get("datasets", []))
    for path, folder in what.get("artifacts", []):
        client.log_artifact(run_id, path, folder)


def _log_datasets(
    client: "MlflowClient", run_id: str, datasets: Sequence[Mapping[str, str]]
) -> None:
    if not datasets:
        return
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(
            Dataset(data["name"], data["digest"], "local", json.dumps({"uri": data["source"]})),
            [InputTag("mlflow.data.context", data["context"])],
        )
        for data in datasets
    ]
    client.log_inputs(run_id, inputs)


def _sample_system(uri: str, run_id: str, closing: threading.Event) -> None:
    """Log system metrics until `closing`, and once more then, so that no stage is too short.

    MLflow's own loop records nothing for a stage that ends within its first interval, and reads the
    whole run back from the store at every sample.
    """
    from mlflow.system_metrics import system_metrics_monitor

    make_monitor: Any = system_metrics_monitor.SystemMetricsMonitor
    with suppress(Exception):  # a machine without such counters, a server that went away
        monitor = make_monitor(run_id, SAMPLE_SECONDS, tracking_uri=uri)
        monitor.collect_metrics()  # the first CPU reading only sets the point to count from
        for part in monitor.monitors:
            part.clear_metrics()
        interval, samples, last = monitor.sampling_interval, 0, False
        while not last:
            last = closing.wait(interval)
            monitor.collect_metrics()
            monitor.publish_metrics(monitor.aggregate_metrics())
            samples += 1
            if samples == SAMPLES_BEFORE_LATER:
                interval = max(interval, SAMPLE_SECONDS_LATER)
        monitor.mlflow_logger.flush()
