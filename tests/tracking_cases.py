"""Stages in processes of their own, and what MLflow stored of them."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from stages._tracking import tracking_uri

REPOSITORY = Path(__file__).parent.parent
VARIABLES = (
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_TRACKING_URI",
    "STILLHOUSE_PARENT_RUN",
    "STILLHOUSE_RECORDER",
    "STILLHOUSE_TRACKING",
)


def open_client(root):
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri(root))


def stored(root, run_id):
    return open_client(root).get_run(run_id)


@contextmanager
def postgres_database():
    """A database of our own on the local server, dropped afterwards; skips where there is none."""
    psycopg = pytest.importorskip("psycopg")
    server = {"host": "127.0.0.1", "port": 5432, "user": "postgres", "connect_timeout": 3}
    name = f"stillhouse_test_{os.getpid()}"
    try:
        connection = psycopg.connect(dbname="postgres", **server)
    except psycopg.OperationalError:
        pytest.skip("no PostgreSQL listens at 127.0.0.1:5432")
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(f"CREATE DATABASE {name}")
    yield f"postgresql://postgres@127.0.0.1:5432/{name}"
    cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
    connection.close()


def start_python(code, cwd, **environment):
    """Run `code` as a stage would be run: a process of its own that finds our packages."""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


STAGE = """
import json, os, signal, sys
from pathlib import Path
from stages._run import track_stage
with track_stage("s", {}, Path.cwd()) as run:
    run.log_metrics({"one": 1})
    BODY
run.write_record(Path(sys.argv[0] or ".").parent / f"{os.getpid()}.json")
print(json.dumps([run.tracking, run.run_id, run.experiment_id, "mlflow" in sys.modules]))
"""


def run_stage(cwd, body="pass", **environment):
    process = start_python(STAGE.replace("BODY", body), cwd, **environment)
    out, err = process.communicate()
    return process.returncode, out, err
