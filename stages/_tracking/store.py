"""Where the runs are kept: `MLFLOW_TRACKING_URI` if set (a server or a database), else `mlflow.db`.

That file lies in the project, with the artifacts in `mlartifacts/` beside it.
`MLFLOW_EXPERIMENT_NAME` names the experiment. One that exists already keeps its own place for
artifacts, so a team that shares one database creates it once with
`mlflow experiments create -n stillhouse -l s3://...`.
"""

import fcntl
import hashlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from serving.errors import StillhouseError
from stages._recorder import one_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

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
