"""MLflow records what happened: where the runs are kept, and how the recorder writes them.

The only module that imports MLflow, and it does so inside functions: a stage talks to this module
through `_run` and `_recorder`, in whose process (`python -m stages._tracking`) MLflow is loaded.

Where: `MLFLOW_TRACKING_URI` if set (a server or a database), else `mlflow.db` in the project, with
the artifacts in `mlartifacts/` beside it. `MLFLOW_EXPERIMENT_NAME` names the experiment. An
experiment that exists already keeps its own place for artifacts, so a team that shares one database
creates it once with `mlflow experiments create -n stillhouse -l s3://...`.

MLflow may be checked with its own tools at any time; nothing here is ever an input of a stage.
"""

import fcntl
import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from serving.errors import StillhouseError
from stages._recorder import Message, one_line, serve

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

# Seconds between samples of CPU, memory, disk, network and GPU: close together at first, so that
# short stages show something; hours of training are not worth a row per second.
SAMPLE_SECONDS, SAMPLE_SECONDS_LATER, SAMPLES_BEFORE_LATER = 1.0, 10.0, 60

# Out of the box MLflow and libpq retry a dead server for minutes. What the user set stays.
ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "PGCONNECT_TIMEOUT": "5",
}
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def tracking_uri(root: Path) -> str:
    """The MLflow store in use: the environment's, else a SQLite file in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _own_uri(root)


def shown_uri(root: Path) -> str:
    """The store as messages name it: "mlflow.db" for the project's own, passwords starred out."""
    uri = tracking_uri(root)
    if uri == f"sqlite:///{_database(root)}":
        return "mlflow.db"
    password = urlsplit(uri).password
    return uri.replace(f":{password}@", ":***@") if password else uri


def _database(root: Path) -> Path:
    return root.resolve() / "mlflow.db"


def _own_uri(root: Path) -> str:
    # SQLAlchemy decodes these two; MLflow uses the rest as it stands.
    path = str(_database(root)).replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{path}"


class Store(NamedTuple):
    """An open MLflow store and the experiment that the runs belong to."""

    client: "MlflowClient"
    uri: str
    experiment_id: str


def prepare_store(root: Path) -> Store:
    """Create or upgrade the schema and the experiment, and open them.

    The one place where that happens, and one process at a time: two that migrate a fresh database
    collide, and two that create the experiment race (mlflow#4123).

    Raises:
        StillhouseError: the database server doesn't accept a connection.
        mlflow.exceptions.MlflowException: the server answers, but not as it should.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    uri = tracking_uri(root)
    _require_connection(uri)
    with _lock(uri, root):
        client = _open_client(uri, root)
        return Store(client, uri, _experiment_id(client, uri, root))


def _require_connection(uri: str) -> None:
    """Try a database server's port first: MLflow itself would retry a closed one for 100 s."""
    parts = urlsplit(uri)
    port = _DATABASE_PORTS.get(parts.scheme.split("+")[0])
    if port is None or parts.hostname is None:
        return
    try:
        socket.create_connection((parts.hostname, parts.port or port), timeout=5).close()
    except OSError as error:
        raise StillhouseError(
            f"no database answers at {parts.hostname}:{parts.port or port} ({one_line(error)}). "
            f"Start it, or unset MLFLOW_TRACKING_URI to record in mlflow.db."
        ) from None


@contextmanager
def _lock(uri: str, root: Path) -> Iterator[None]:
    """Hold the store against other processes: beside mlflow.db, else one of this machine's."""
    if uri == _own_uri(root):
        path = _database(root).with_name("mlflow.db.lock")
    else:
        name = hashlib.sha256(uri.encode()).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"stillhouse-{os.getuid()}-{name}.lock"
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _open_client(uri: str, root: Path) -> "MlflowClient":
    """Open the store; our own database is first brought to the schema of another MLflow version.

    Somebody else's database is left to its owner: MLflow's message says what to do.
    """
    from mlflow import MlflowClient, __version__

    if uri != _own_uri(root):
        return MlflowClient(uri)
    database = _database(root)
    stamp = database.with_name("mlflow.db.version")
    known = stamp.read_text(encoding="ascii") if stamp.is_file() else ""
    if database.is_file() and known != __version__:
        _upgrade(database, uri, __version__)
    client = MlflowClient(uri)
    if known != __version__:
        stamp.write_text(__version__, encoding="ascii")
    return client


def _upgrade(database: Path, uri: str, version: str) -> None:
    import sqlite3

    copy = database.with_name(f"mlflow.db.before-{version}")
    if not copy.is_file():  # else an upgrade that failed has left the better copy
        with closing(sqlite3.connect(database)) as old, closing(sqlite3.connect(copy)) as new:
            old.backup(new)
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", uri]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - nobody's input
    if done.returncode != 0:
        raise StillhouseError(
            f"mlflow.db does not fit MLflow {version}, and upgrading it failed. Move it away, or "
            f"see why with: mlflow db upgrade {uri} (a copy is in {copy.name})"
        )


def _experiment_id(client: "MlflowClient", uri: str, root: Path) -> str:
    """The experiment by name: found, restored if somebody deleted it, or created."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "stillhouse"
    # A server decides itself where artifacts go; for a database it is this process that writes.
    server = urlsplit(uri).scheme in ("http", "https")
    place = None if server else (root.resolve() / "mlartifacts").as_uri()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return _create_experiment(client, name, place)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    if uri == _own_uri(root) and experiment.artifact_location != place:
        return _replace_moved(client, experiment, place)
    return experiment.experiment_id


def _create_experiment(client: "MlflowClient", name: str, place: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return client.create_experiment(name, artifact_location=place)
    except MlflowException:
        # A process on another machine, which our lock doesn't reach, may have been faster.
        if experiment := client.get_experiment_by_name(name):
            return experiment.experiment_id
        raise


def _replace_moved(client: "MlflowClient", old: "Experiment", place: str | None) -> str:
    """A project folder that was moved or copied: new artifacts must not go to the old place.

    MLflow cannot change where an experiment keeps its artifacts, so the old one steps aside.
    """
    client.rename_experiment(old.experiment_id, f"{old.name} (before move {old.experiment_id})")
    return _create_experiment(client, old.name, place)


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


def main() -> None:
    """Be the recorder that `_recorder.start_recorder` starts: a listening socket and a project."""
    descriptor, root = sys.argv[1:]
    listening = socket.socket(fileno=int(descriptor))
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # the answers say what went wrong
    store: Store | StillhouseError
    try:
        store = prepare_store(Path(root))
    except Exception as error:  # whatever it is, the stages are told and go on without tracking
        store = StillhouseError(one_line(error))
    serve(listening, lambda: RunRecorder(store))
    os._exit(0)  # all is written down; taking thousands of modules apart would cost a second


if __name__ == "__main__":
    main()
