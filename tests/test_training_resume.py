"""A run that is killed at any moment ends, after another start, as if nothing had happened."""

import signal

import pytest
import torch
from tiny_training import (
    FULL_DISK,
    SETTINGS,
    make_with_dropout,
    result,
    rows,
    train_in_processes,
    with_teacher,
)

from stages._losses import Objective

MARKS_ONLY = SETTINGS  # checkpoints at validated steps: 6 and 8
EACH_STEP = SETTINGS.model_copy(update={"checkpoint_every_s": 0.0})
SWEEP = EACH_STEP.model_copy(update={"learning_rates": (1e-4, 1e-2), "sweep_share": 0.5})
MOMENTS = {
    "before a first checkpoint": (MARKS_ONLY, "tiny.row", "", 30),
    "between checkpoints": (MARKS_ONLY, "tiny.row", "", 62),
    "in validation": (MARKS_ONLY, "tiny.validate", "", 2),
    "writing a step": (EACH_STEP, "open", "step-4.tmp", 1),
    "writing its facts": (EACH_STEP, "open", "step-4.tmp/.facts", 1),
    "before it has its name": (EACH_STEP, "os.rename", "step-4.tmp", 1),
    "before the old one goes": (EACH_STEP, "shutil.rmtree", "step-3", 3),
    "writing the best": (MARKS_ONLY, "open", "best-8.tmp", 1),
    "before the best has its name": (MARKS_ONLY, "os.rename", "best-8.tmp", 1),
    "after the last step": (MARKS_ONLY, "shutil.rmtree", "best-6", 3),
}


def work():
    """Everything that a resumed run could lose: dropout, a teacher, sums between log points."""
    distilled = {"sequences": with_teacher(rows()), "objective": Objective(alpha=0.5)}
    return {"make": make_with_dropout, **distilled}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert train_in_processes(folder, **work()) == [0]
    return result(folder)


def same(folder, expected):
    """Whether weights, bit by bit, and curve and counts are those of another run."""
    weights, facts = result(folder)
    bits = [torch.equal(weights[name], value) for name, value in expected[0].items()]
    return all(bits) and len(bits) == len(weights) and facts == expected[1]


@pytest.mark.parametrize("name", MOMENTS)
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(tmp_path, undisturbed, name):
    settings, *moment = MOMENTS[name]
    killed = train_in_processes(tmp_path, (*moment, signal.SIGKILL), settings=settings, **work())
    assert killed == [-signal.SIGKILL] and not (tmp_path / "trained.json").exists()
    assert train_in_processes(tmp_path, settings=settings, **work()) == [0]
    assert same(tmp_path, undisturbed)


@pytest.mark.parametrize("name", ["between checkpoints", "in validation", "writing a step"])
def test_a_run_that_is_asked_to_stop_saves_first(tmp_path, undisturbed, name):
    settings, *moment = MOMENTS[name]
    asked = train_in_processes(tmp_path, (*moment, signal.SIGTERM), settings=settings, **work())
    assert asked == [128 + signal.SIGTERM]
    saved = [path.name for path in (tmp_path / "scratch/train").glob("step-*")]
    assert saved == [{"writing a step": "step-4", "in validation": "step-8"}.get(name, "step-7")]
    assert train_in_processes(tmp_path, settings=settings, **work()) == [0]
    assert same(tmp_path, undisturbed)


def test_a_run_that_is_killed_again_and_again_gets_there(tmp_path, undisturbed):
    for step in (2, 3, 5, 7):
        moment = ("os.rename", f"step-{step}.tmp", 1, signal.SIGKILL)
        killed = train_in_processes(tmp_path, moment, settings=EACH_STEP, **work())
        assert killed == [-signal.SIGKILL]
    assert train_in_processes(tmp_path, settings=EACH_STEP, **work()) == [0]
    assert same(tmp_path, undisturbed)


@pytest.mark.parametrize("path", ["sweep-0.01/step-3.tmp", "tried-0.0001.tmp", "train/step-2.tmp"])
def test_a_killed_sweep_goes_on_with_the_rate_it_was_at(tmp_path, path):
    assert train_in_processes(tmp_path / "whole", settings=SWEEP) == [0]
    moment = ("os.rename", path, 1, signal.SIGKILL)
    assert train_in_processes(tmp_path / "cut", moment, settings=SWEEP) == [-signal.SIGKILL]
    assert train_in_processes(tmp_path / "cut", settings=SWEEP) == [0]
    assert same(tmp_path / "cut", result(tmp_path / "whole"))


def test_a_disk_that_fills_up_loses_no_earlier_checkpoint(tmp_path, undisturbed):
    moment = ("open", "step-5.tmp", 1, FULL_DISK)
    assert train_in_processes(tmp_path, moment, settings=EACH_STEP, **work()) == [1]
    found = {path.name for path in (tmp_path / "scratch/train").iterdir()}
    assert found == {"step-4"}
    said = (tmp_path / "error-0.txt").read_text()
    assert "step-5 (File too large); earlier ones are safe" in said and "\n" not in said
    assert train_in_processes(tmp_path, settings=EACH_STEP, **work()) == [0]
    assert same(tmp_path, undisturbed)
