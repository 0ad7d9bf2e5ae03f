"""What a stage tells MLflow is there afterwards; a tracker that fails costs no stage its result.

Against a real SQLite store, a real PostgreSQL if one listens on 127.0.0.1:5432, and closed ports.
"""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from serving.errors import StillhouseError
from stages._recorder import Line, RecorderError, start_recorder, stop_recorder
from stages._run import track_stage, tracking_state
from stages._tracking import prepare_store, shown_uri, tracking_uri

REPOSITORY = Path(__file__).parent.parent
CLOSED_PORT = 9  # "discard": nothing listens there
VARIABLES = (
    "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_TRACKING_URI",
    "STILLHOUSE_PARENT_RUN",
    "STILLHOUSE_RECORDER",
    "STILLHOUSE_TRACKING",
)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A project with a recorder that several tests use: starting one takes seconds."""
    root = tmp_path_factory.mktemp("project")
    recorder = start_recorder(root)
    yield root, recorder
    stop_recorder(recorder)


@pytest.fixture
def project(shared, monkeypatch):
    root, recorder = shared
    monkeypatch.setenv("STILLHOUSE_RECORDER", recorder.address)
    return root


@pytest.fixture
def postgres():
    """A database of our own on the local server, dropped afterwards."""
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


def test_a_run_holds_what_the_stage_said(project):
    (project / "reports" / "s").mkdir(parents=True, exist_ok=True)
    (project / "reports" / "s" / "scores.json").write_text("{}")
    (project / "data.txt").write_text("hello\n")
    with track_stage("evaluate", {"seed": 1, "lr": {"max": 0.1}}, project, "int8") as run:
        run.log_metrics({"bleu": {"score": 30, "by": "sacrebleu"}, "ok": True})
        run.log_metrics({"loss": 0.5}, step=7)
        run.log_dataset(Path("data.txt"), "evaluation", "test")
        run.log_artifacts([Path("reports/s/scores.json")])
    found, client = stored(project, run.run_id), open_client(project)
    assert (found.info.run_name, found.info.status) == ("evaluate@int8", "FINISHED")
    assert found.data.params == {"seed": "1", "lr.max": "0.1"}
    assert (found.data.metrics["bleu.score"], found.data.metrics["loss"]) == (30, 0.5)
    assert {"bleu.by", "ok"}.isdisjoint(found.data.metrics)
    assert client.get_metric_history(run.run_id, "loss")[0].step == 7
    assert (found.data.tags["stage"], found.data.tags["candidate"]) == ("evaluate", "int8")
    data = found.inputs.dataset_inputs[0]
    assert data.dataset.digest == "b1946ac92492d2347c6235b4d2611184", "md5 of hello and a newline"
    assert json.loads(data.dataset.source) == {"uri": "data.txt"}
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "evaluation")]
    assert (project / f"mlartifacts/{run.run_id}/artifacts/reports/s/scores.json").is_file()


def test_a_run_of_no_length_has_system_metrics(project):
    with track_stage("short", {}, project) as run:
        pass
    names = {name for name in stored(project, run.run_id).data.metrics if name.startswith("system")}
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= names


def test_runs_started_from_a_run_are_nested_in_it(project, monkeypatch):
    with track_stage("pipeline", {}, project) as parent:
        for name, value in parent.environment().items():
            monkeypatch.setenv(name, value)
        with track_stage("prepare", {}, project) as child:
            pass
    tags = stored(project, child.run_id).data.tags
    assert tags["mlflow.parentRunId"] == child.parent_run_id == parent.run_id
    assert "mlflow.parentRunId" not in stored(project, parent.run_id).data.tags


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("wrong"), "FAILED"),
        (SystemExit("error: wrong"), "FAILED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(143), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
    ],
    ids=["error", "exit with a message", "exit 0", "SIGTERM", "Ctrl-C"],
)
def test_a_run_ends_as_its_stage_does(project, error, status):
    with pytest.raises(type(error)), track_stage("s", {}, project) as run:
        raise error
    assert stored(project, run.run_id).info.status == status


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, "KILLED"), (signal.SIGKILL, "FAILED")]
)
def test_a_stopped_process_does_not_leave_its_run_going(project, number, status):
    body = f"print(run.run_id, flush=True); os.kill(os.getpid(), {int(number)})"
    _, out, _ = run_stage(project, body)
    run_id = out.split()[0]
    until = time.monotonic() + 20
    while (found := stored(project, run_id).info.status) == "RUNNING" and time.monotonic() < until:
        pass
    assert found == status


def test_run_json_says_who_made_a_result_and_names_no_machine(project):
    with track_stage("evaluate", {"seed": 1}, project, "int8") as run:
        run.log_metrics({"bleu": 30, "lost": float("nan")})
    run.write_record(project / "run.json")
    text = (project / "run.json").read_text()
    record = json.loads(text)
    assert record["dvc_stage"] == "evaluate@int8"
    assert (record["tracking"], record["run_id"]) == ("on", run.run_id)
    assert (record["params"], record["metrics"]) == ({"seed": "1"}, {"bleu": 30})
    assert record["versions"]["python"].startswith("3.11")
    assert record["started_at"] <= record["ended_at"]
    assert record["peak_memory_mb"] > 10
    assert socket.gethostname() not in text
    assert str(project) not in text


def test_a_stage_never_imports_mlflow_and_off_starts_no_recorder(tmp_path, project):
    _, out, err = run_stage(tmp_path, STILLHOUSE_TRACKING="off", STILLHOUSE_RECORDER="")
    assert (json.loads(out), err) == (["off", None, None, False], "")
    assert json.loads(next(tmp_path.glob("*.json")).read_text())["metrics"] == {"one": 1}
    assert not (tmp_path / "mlflow.db").exists()
    _, out, _ = run_stage(project)
    assert json.loads(out)[0::3] == ["on", False]


def test_an_unknown_tracking_state_is_refused(monkeypatch):
    monkeypatch.setenv("STILLHOUSE_TRACKING", "maybe")
    with pytest.raises(StillhouseError, match=r'is "maybe"\. Expected: on or off\.'):
        tracking_state()


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_stage_without_a_reachable_server_goes_on_and_says_so(tmp_path, scheme):
    uri = f"{scheme}://127.0.0.1:{CLOSED_PORT}"
    started = time.monotonic()
    code, out, err = run_stage(tmp_path, MLFLOW_TRACKING_URI=uri)
    assert (code, json.loads(out)[:2]) == (0, ["unreachable", None])
    assert err.count("\n") == 1
    assert err.startswith("warning: s goes on untracked: ")
    assert json.loads(next(tmp_path.glob("*.json")).read_text())["tracking"] == "unreachable"
    assert time.monotonic() - started < 60


def test_a_recorder_that_dies_halfway_costs_one_warning(tmp_path, capfd):
    with track_stage("train", {}, tmp_path) as run:
        run_id = run.run_id
        run._recorder.process.kill()
        run._recorder.process.wait()
        for step in range(3):
            run.log_metrics({"loss": 1.0}, step=step)
    run.write_record(tmp_path / "run.json")
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["tracking"], record["run_id"]) == ("unreachable", run_id)
    assert record["metrics"] == {"loss": 1.0}
    assert capfd.readouterr().err.count("goes on untracked") == 1


def test_a_store_that_breaks_halfway_costs_one_warning(tmp_path, capfd):
    with track_stage("train", {}, tmp_path) as run:
        assert run.run_id
        (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
        run.log_metrics({"loss": 1.0})
    assert (run.tracking, run.metrics) == ("unreachable", {"loss": 1.0})
    warning = capfd.readouterr().err
    assert warning.count("\n") == 1
    assert "train goes on untracked" in warning


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


def test_a_deleted_experiment_is_used_again(project):
    store = prepare_store(project)
    store.client.delete_experiment(store.experiment_id)
    again = prepare_store(project)
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


def test_an_error_of_the_recorder_reaches_the_caller_in_one_line(project):
    line = Line(os.environ["STILLHOUSE_RECORDER"])
    line.send({"open": {"name": "s", "tags": {}, "time_ms": 0}})
    line.send({"record": {"metrics": {"bad\nname": 1.0}, "time_ms": 0}})
    with pytest.raises(RecorderError, match="Invalid value") as caught:
        line.wait()
    assert "\n" not in str(caught.value)
    line.close()


def test_passwords_are_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@db.example/runs")
    assert shown_uri(Path()) == "postgresql://me:***@db.example/runs"
