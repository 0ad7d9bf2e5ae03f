"""A stage as a program: quick help, one line for a person's mistake, metrics a person can read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages import _stage
from stages._params import Params, check_params
from stages._progress import report_progress
from stages._stage import _describe_metrics, run_stage, set_environment

ROOT = Path(__file__).parent.parent
STAGES = ("prepare", "baseline", "answer", "evaluate")
HEAVY = ("torch", "mlflow", "sklearn", "scipy", "datasets", "evaluate", "sacrebleu", "bentoml")


def python(*arguments, cwd=ROOT):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "STILLHOUSE_TRACKING": "off"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("stage", STAGES)
def test_help_is_the_docstring_and_loads_nothing_heavy(stage):
    code = f"""
import runpy, sys
sys.argv = ["x", "--help"]
try:
    runpy.run_module("stages.{stage}", run_name="__main__")
except SystemExit:
    pass
print("LOADED", [name for name in {HEAVY} if name in sys.modules])
"""
    shown = python("-c", code).stdout
    assert "Reads " in shown
    assert "Writes " in shown
    assert "LOADED []" in shown


def test_a_mistake_is_one_line_and_exit_1(tmp_path):
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    done = python("-m", "stages.baseline", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        'error: baseline: data/prepared/train.jsonl is missing. Run "dvc repro" to make it.'
    ]


def test_an_interrupt_is_one_line_and_exit_130(tmp_path, monkeypatch, capsys):
    def baseline(params, inputs, outputs):
        raise KeyboardInterrupt

    (tmp_path / "params.yaml").write_text("seed: 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLHOUSE_TRACKING", "off")
    monkeypatch.setattr(sys, "argv", ["baseline"])
    monkeypatch.setattr(_stage, "set_environment", lambda params: None)  # of the tests after it
    with pytest.raises(SystemExit) as end:
        run_stage(baseline, "", {}, {})
    assert end.value.code == 130
    assert capsys.readouterr().err == "baseline: interrupted\n"


def test_wrong_params_stop_before_any_work(tmp_path):
    (tmp_path / "params.yaml").write_text("sead: 1\n")
    done = python("-m", "stages.prepare", cwd=tmp_path)
    assert done.returncode == 1
    assert "sead: unknown key; did you mean seed?" in done.stderr
    assert not (tmp_path / "data").exists()


def test_the_default_profile_keeps_hugging_face_offline(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    set_environment(check_params({"run": {"offline": False}}, Path("p")))
    assert "HF_HUB_OFFLINE" not in os.environ
    set_environment(Params())
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_metrics_are_shown_with_their_interval():
    metrics = {
        "bleu": {"score": 61.234, "low": 59.0, "high": 63.5, "signature": "s"},
        "prompts": {"train": 6000, "test": 640},
        "seconds": 3.21,
        "detail": {"a": {"b": 1}},
    }
    assert _describe_metrics(metrics) == [
        "bleu 61.23 [59, 63.5]",
        "prompts train 6,000, test 640",
        "seconds 3.21",
    ]


def test_progress_is_silent_for_short_work_in_a_log(capsys):
    report = report_progress("answer", 2)
    report(1)
    report(2)
    assert capsys.readouterr().err == ""
