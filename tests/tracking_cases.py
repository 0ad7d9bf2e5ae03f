"""Stages in processes of their own, and what MLflow stored of them."""

import os
import subprocess
import sys
from pathlib import Path

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
