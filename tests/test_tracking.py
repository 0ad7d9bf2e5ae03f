"""What a stage tells MLflow is there afterwards; a tracker that fails costs no stage its result.

Against a real SQLite store and closed ports.
"""

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from tracking_cases import VARIABLES, open_client, run_stage, stored

from serving.errors import StillhouseError
from stages._recorder import Line, RecorderError, start_recorder, stop_recorder
from stages._run import track_stage, tracking_state

CLOSED_PORT = 9  # "discard": nothing listens there


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
    uri = f"{scheme}://me:secret@127.0.0.1:{CLOSED_PORT}"
    started = time.monotonic()
    code, out, err = run_stage(tmp_path, MLFLOW_TRACKING_URI=uri)
    assert (code, json.loads(out)[:2]) == (0, ["unreachable", None])
    assert err.count("\n") == 1
    assert err.startswith("warning: s goes on untracked: ") and "secret" not in err
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


def test_an_error_of_the_recorder_reaches_the_caller_in_one_line(project):
    line = Line(os.environ["STILLHOUSE_RECORDER"])
    line.send({"open": {"name": "s", "tags": {}, "time_ms": 0}})
    line.send({"record": {"metrics": {"bad\nname": 1.0}, "time_ms": 0}})
    with pytest.raises(RecorderError, match="Invalid value") as caught:
        line.wait()
    assert "\n" not in str(caught.value)
    line.close()
