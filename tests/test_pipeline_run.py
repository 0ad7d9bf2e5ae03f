"""One MLflow run per `dvc repro`, complete whether stages ran, were skipped or came from the cache.

A small DVC project of its own, run for real: a source, a stage that makes a folder from it, and one
that is run for two candidates.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parent.parent
STAGE = """
import sys, threading
from pathlib import Path
from stages._run import track_stage
name, source, target = sys.argv[1:]
stage, _, candidate = name.partition("@")
with track_stage(stage, {"seed": 1}, Path.cwd(), candidate or None) as run:
    run.log_dataset(Path(source), "training")
    if "bad" in Path("source.txt").read_text():
        raise ValueError("a bad source")
    if "hang" in Path("source.txt").read_text():
        print("hanging", flush=True)
        threading.Event().wait()
    Path(target).mkdir()
    Path(target, "made.txt").write_text(name)
    run.log_metrics({"letters": len(name)})
run.write_record(Path("reports") / stage / candidate / "run.json")
"""
DVC_YAML = """
stages:
  prepare:
    cmd: PYTHON stage.py prepare source.txt made
    deps: [source.txt]
    outs: [made, reports/prepare/run.json]
  answer:
    foreach: [small, large]
    do:
      cmd: PYTHON stage.py answer@${item} made answered_${item}
      deps: [made]
      outs: ["answered_${item}", "reports/answer/${item}/run.json"]
"""


class Repro(NamedTuple):
    """What one call of the pipeline left: exit code, output, and the runs in MLflow by name."""

    code: int
    out: str
    runs: dict
    parent: object


def environment(**more):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("STILLHOUSE_", "MLFLOW_TRA"))}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "DVC_NO_ANALYTICS": "1", **more}


def call(root, *command, **more):
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=root,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def make_project(root):
    (root / "stage.py").write_text(STAGE)
    (root / "dvc.yaml").write_text(DVC_YAML.replace("PYTHON", sys.executable))
    (root / "source.txt").write_text("good")
    (root / "params.yaml").write_text("seed: 1\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    assert call(root, "dvc", "init", "-q").returncode == 0
    return root


def newest_pipeline(root):
    """The runs of the latest pipeline by name, and the pipeline's own."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("stillhouse").experiment_id
    runs = client.search_runs([experiment])
    parent = next(run for run in runs if run.data.tags["stage"] == "pipeline")
    nested = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len({run.info.run_name for run in nested}) == len(nested), "each stage once"
    return {run.info.run_name: run for run in nested}, parent


def repro(root, *arguments, **more):
    done = call(root, "stages._pipeline", *arguments, **more)
    return Repro(done.returncode, done.stdout, *newest_pipeline(root))


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """The same project run three times: from nothing, with nothing to do, from DVC's cache."""
    root = make_project(tmp_path_factory.mktemp("project"))
    first, second = repro(root), repro(root)
    for path in (root / "made", root / "answered_small", root / "answered_large", root / "reports"):
        shutil.rmtree(path)
    (root / "dvc.lock").unlink()
    return root, first, second, repro(root)


STAGES = {"prepare", "answer@small", "answer@large"}


def test_stages_that_run_are_nested_in_the_pipeline(history):
    _, first, _, _ = history
    assert first.code == 0, first.out
    assert set(first.runs) == STAGES
    assert first.parent.info.status == "FINISHED"
    assert not any("restored_from" in run.data.tags for run in first.runs.values())
    assert "pipeline done" in first.out
    assert "3 run\n" in first.out


@pytest.mark.parametrize("which", [2, 3], ids=["nothing to do", "restored from the cache"])
def test_stages_that_do_not_run_are_linked_to_the_run_that_made_them(history, which):
    _, first, *_ = history
    later = history[which]
    assert (later.code, later.parent.info.status) == (0, "FINISHED"), later.out
    assert set(later.runs) == STAGES
    for name, run in later.runs.items():
        made_by = first.runs[name]
        assert run.data.tags["restored_from"] == made_by.info.run_id
        assert run.data.params == made_by.data.params == {"seed": "1"}
        assert run.data.metrics["letters"] == made_by.data.metrics["letters"] == len(name)
        assert run.inputs.dataset_inputs[0].dataset == made_by.inputs.dataset_inputs[0].dataset
    assert "3 unchanged\n" in later.out


def test_the_third_run_really_came_from_the_cache(history):
    _, _, second, third = history
    assert "is cached - skipping run" not in second.out
    assert third.out.count("is cached - skipping run") == 3


@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_pipeline_run_holds_all_results_the_lock_and_the_params(history, which):
    root, repro = history[0], history[which]
    metrics = {k: v for k, v in repro.parent.data.metrics.items() if k.endswith("letters")}
    assert metrics == {"prepare.letters": 7, "answer.small.letters": 12, "answer.large.letters": 12}
    artifacts = root / "mlartifacts" / repro.parent.info.run_id / "artifacts"
    assert {path.name for path in artifacts.iterdir()} == {"dvc.lock", "params.yaml"}


def test_a_dataset_has_the_hash_of_dvc_lock(history):
    root, first, *_ = history
    used = first.runs["answer@small"].inputs.dataset_inputs[0].dataset
    assert used.digest.endswith(".dir")
    assert f"md5: {used.digest}\n" in (root / "dvc.lock").read_text()


def test_the_summary_says_where_things_are_and_what_to_do_next(history):
    _, first, *_ = history
    assert "reports/answer/small/\n" in first.out
    assert f"Recorded as run {first.parent.info.run_id} in mlflow.db" in first.out
    assert "Next: dvc metrics show" in first.out
    assert "      mlflow ui" in first.out.splitlines()


def test_an_untracked_pipeline_runs_too(tmp_path):
    root = make_project(tmp_path)
    done = call(root, "stages._pipeline", "prepare", STILLHOUSE_TRACKING="off")
    assert done.returncode == 0
    assert "run         prepare" in done.stdout
    assert "Not tracked (off)" in done.stdout
    assert json.loads((root / "reports/prepare/run.json").read_text())["tracking"] == "off"
    assert not (root / "mlflow.db").exists()


def test_help_and_a_dry_run_record_nothing(tmp_path):
    root = make_project(tmp_path)
    assert call(root, "stages._pipeline", "--dry", "prepare").returncode == 0
    assert "usage: dvc repro" in call(root, "stages._pipeline", "--help").stdout
    assert not (root / "mlflow.db").exists()
    assert not (root / "made").exists()


def test_a_folder_without_dvc_yaml_is_one_clear_line(tmp_path):
    done = call(tmp_path, "stages._pipeline")
    assert (done.returncode, done.stdout.count("\n")) == (1, 1)
    assert done.stdout.startswith("error: no dvc.yaml in ")


@pytest.mark.slow
def test_a_failed_pipeline_claims_nothing_about_what_it_did_not_reach(tmp_path):
    root = make_project(tmp_path)
    repro(root)
    (root / "source.txt").write_text("bad")
    failed = repro(root)
    assert (failed.code, failed.parent.info.status) == (255, "FAILED"), failed.out
    assert set(failed.runs) == {"prepare"}
    assert failed.runs["prepare"].info.status == "FAILED"
    assert "out of date answer@small" in failed.out
    assert "unfinished  prepare" in failed.out
    assert "Next: mend what DVC says above" in failed.out


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_pipeline_and_its_stage_are_killed(tmp_path, number, code):
    root = make_project(tmp_path)
    (root / "source.txt").write_text("hang")
    command = [sys.executable, "-m", "stages._pipeline"]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for a job in a shell's background
    process = subprocess.Popen(
        command, cwd=root, env=environment(), stdout=subprocess.PIPE, text=True
    )
    signal.signal(signal.SIGINT, before)
    assert any("hanging" in line for line in process.stdout)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    runs, parent = newest_pipeline(root)
    assert (process.returncode, parent.info.status) == (code, "KILLED"), out
    assert runs["prepare"].info.status == "KILLED"
    assert "pipeline interrupted" in out


@pytest.fixture
def copied(history, tmp_path):
    """The finished project as somebody else gets it: without the tracking database."""
    root = shutil.copytree(
        history[0], tmp_path / "copy", ignore=shutil.ignore_patterns("mlflow.db*", "mlartifacts")
    )
    assert not list(root.glob("mlflow.db*"))
    return root


@pytest.mark.slow
def test_a_pipeline_is_complete_without_the_database_of_the_old_runs(history, copied):
    _, first, *_ = history
    again = repro(copied)
    assert (again.code, set(again.runs)) == (0, STAGES)
    linked = again.runs["answer@large"]
    assert linked.data.tags["restored_from"] == first.runs["answer@large"].info.run_id
    assert linked.data.metrics["letters"] == 12


@pytest.mark.slow
def test_a_candidate_that_is_gone_and_a_broken_record_are_passed_over(copied):
    definition = copied / "dvc.yaml"
    definition.write_text(definition.read_text().replace("[small, large]", "[small]"))
    (copied / "reports" / "other").mkdir()
    (copied / "reports" / "other" / "run.json").write_text("{")
    assert (copied / "reports" / "answer" / "large" / "run.json").is_file()
    assert set(repro(copied).runs) == {"prepare", "answer@small"}


@pytest.mark.slow
def test_a_bare_stage_is_a_run_of_its_own(tmp_path):
    root = make_project(tmp_path)
    assert call(root, "dvc", "repro", "prepare").returncode == 0
    record = json.loads((root / "reports/prepare/run.json").read_text())
    assert (record["tracking"], record["parent_run_id"]) == ("on", None)
    later = repro(root, "prepare")
    assert later.runs["prepare"].data.tags["restored_from"] == record["run_id"]
