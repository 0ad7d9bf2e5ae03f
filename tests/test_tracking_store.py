"""Where the runs are kept: made once, upgraded, moved along with the project, on a server.

Against a real SQLite store, and a real PostgreSQL if one listens on 127.0.0.1:5432.
"""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tracking_cases import STAGE, VARIABLES, postgres_database, start_python, stored

from stages._run import track_stage
from stages._tracking import prepare_store, shown_uri


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def postgres():
    with postgres_database() as uri:
        yield uri


def together(cwd, **environment):
    """Two stages that start at the same moment on a store that isn't there yet."""
    code = STAGE.replace("BODY", "pass")
    both = [start_python(code, cwd, **environment) for _ in range(2)]
    return [json.loads(process.communicate()[0]) for process in both]


def test_two_stages_may_create_the_sqlite_store_at_once(tmp_path):
    first, second = together(tmp_path)
    assert first[0] == second[0] == "on"
    assert first[1] != second[1]
    assert first[2] == second[2], "one experiment"


def test_two_stages_may_create_the_postgres_store_at_once(tmp_path, postgres, monkeypatch):
    first, second = together(tmp_path, MLFLOW_TRACKING_URI=postgres)
    assert first[0] == second[0] == "on"
    assert first[2] == second[2], "one experiment"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres)
    assert stored(tmp_path, first[1]).data.metrics["one"] == 1
    assert not (tmp_path / "mlflow.db").exists()


def test_a_moved_project_keeps_its_artifacts_with_it(tmp_path):
    (tmp_path / "old").mkdir()
    before = prepare_store(tmp_path / "old")
    before.client.create_run(before.experiment_id)
    (tmp_path / "old").rename(tmp_path / "new")
    after = prepare_store(tmp_path / "new")
    place = after.client.get_experiment(after.experiment_id).artifact_location
    assert place == (tmp_path / "new" / "mlartifacts").as_uri()
    assert after.client.search_runs([before.experiment_id]), "the old runs are still there"
    assert prepare_store(tmp_path / "new").experiment_id == after.experiment_id


def test_a_deleted_experiment_is_used_again(tmp_path):
    store = prepare_store(tmp_path)
    store.client.delete_experiment(store.experiment_id)
    again = prepare_store(tmp_path)
    assert again.experiment_id == store.experiment_id
    assert again.client.get_experiment(again.experiment_id).lifecycle_stage == "active"


def schema(root, pattern="mlflow.db"):
    with closing(sqlite3.connect(next(root.glob(pattern)))) as database:
        return database.execute("SELECT version_num FROM alembic_version").fetchall()


@pytest.mark.slow
def test_a_database_of_an_older_mlflow_is_upgraded_and_a_copy_kept(tmp_path):
    code = """
from alembic import command
from pathlib import Path
from mlflow.store.db import utils
from stages._tracking import prepare_store
store = prepare_store(Path.cwd())
store.client.create_run(store.experiment_id, run_name="old")
command.downgrade(utils._get_alembic_config(store.uri), "-1")
"""
    assert start_python(code, tmp_path).wait() == 0
    (tmp_path / "mlflow.db.version").write_text("3.0.0")
    store = prepare_store(tmp_path)
    assert store.client.search_runs([store.experiment_id])[0].info.run_name == "old"
    assert list(tmp_path.glob("mlflow.db.before-*")), "a copy of what it was"
    assert schema(tmp_path) != schema(tmp_path, "mlflow.db.before-*")


@pytest.mark.slow
def test_a_server_records_runs_and_artifacts_until_it_is_gone(tmp_path, monkeypatch, capfd):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "kept"]
    server = subprocess.Popen(
        [*command, *stores], cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    try:
        assert any("running on" in line for line in server.stderr), "the server did not start"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        (tmp_path / "report.json").write_text("{}")
        with track_stage("train", {"seed": 1}, tmp_path) as run:
            run.log_artifacts([Path("report.json")])
            assert stored(tmp_path, run.run_id).data.params == {"seed": "1"}
            os.killpg(server.pid, signal.SIGKILL)
            run.log_metrics({"loss": 1.0})
        assert (run.tracking, run.metrics) == ("unreachable", {"loss": 1.0})
        assert len(list((tmp_path / "kept").rglob("report.json"))) == 1
        assert "train goes on untracked" in capfd.readouterr().err
    finally:
        server.kill()
        server.communicate()


def test_passwords_are_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db.example/runs")
    assert shown_uri(Path()) == "postgresql://me:***@db.example/runs"
