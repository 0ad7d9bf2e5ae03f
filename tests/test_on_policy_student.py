"""The on-policy part of a student: its losses are on the curve, and its weights are validated."""

import csv
import shutil

import pytest
import torch
from tiny_pipeline import SHAPE, TRAINING, run_distill, taught, tiny_params
from tiny_training import make, weights

from serving.predictor import load
from stages._learning import write_curves
from stages._on_policy_student import choose_better
from stages._run import _CURRENT
from stages._training import Trained

VALIDATED = {"step": 8, "loss_nats": 2.0, "selection": 40.0}


class Points:
    """Takes what a tracked run is told."""

    def __init__(self):
        self.found = []

    def log_points(self, metrics, step):
        self.found.append((step, metrics))


@pytest.fixture
def points():
    """What a tracked run would record."""
    told = Points()
    token = _CURRENT.set(told)
    yield told.found
    _CURRENT.reset(token)


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def changed(model):
    """A model, and its weights before it went astray."""
    before = weights(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    return before


def test_losses_of_both_parts_are_in_curve_csv(tmp_path):
    curve = [
        {"step": 8, "train_nats": 2.5, "gradient_norm": 1.0},
        VALIDATED,
        {"step": 9, "on_policy_loss": 0.25},
        {"step": 10, "on_policy_loss": 0.125},
        VALIDATED | {"step": 10},
    ]
    write_curves(tmp_path, Trained(None, 8, curve=curve))
    first, *rest = rows_of(tmp_path / "curve.csv")
    assert first == {"step": "8", "train_nats": "2.5", "gradient_norm": "1", "on_policy_loss": ""}
    noted = [(row["step"], row["on_policy_loss"]) for row in rest]
    assert noted == [("9", "0.25"), ("10", "0.125")]
    assert [row["step"] for row in rows_of(tmp_path / "validations.csv")] == ["8", "10"]


@pytest.mark.parametrize("selection", [40.0, 41.0])
def test_weights_that_do_as_well_or_better_stay(points, selection):
    trained = Trained(make(), 8, curve=[dict(VALIDATED)])
    before = changed(trained.model)
    after = weights(trained.model)
    found = {"loss_nats": 1.0, "selection": selection}
    choose_better(trained, before, 12, lambda model: found, "student 2")
    assert trained.best_step == 12 and trained.curve[-1] == {"step": 12, **found}
    assert all(torch.equal(value, after[n]) for n, value in weights(trained.model).items())
    assert points == [(12, {"student_2": found})]


def test_weights_that_do_worse_give_way_to_those_before(capsys, points):
    trained = Trained(make(), 8, curve=[dict(VALIDATED)])
    before = changed(trained.model)
    choose_better(trained, before, 12, lambda model: {"selection": 39.0}, "student")
    assert trained.best_step == 8 and trained.curve[-1] == {"step": 12, "selection": 39.0}
    assert all(torch.equal(value, before[n]) for n, value in weights(trained.model).items())
    assert "from 40.00 to 39.00; the weights of step 8 stay" in capsys.readouterr().err


def test_every_on_policy_step_is_noted_and_the_last_one_validated(tmp_path, monkeypatch, points):
    root = tmp_path / "work"
    shutil.copytree(taught(), root, ignore=shutil.ignore_patterns("scratch"))
    monkeypatch.chdir(root)
    recipe = {"method": "on_policy", "on_policy_steps": 4}
    recipes = {"student": {}, "control": {"method": "sft"}, "other": recipe}
    shape = SHAPE | {"feed_forward": 32}
    sections = {"recipes": recipes, "shape": shape, "training": TRAINING}
    report = run_distill(tiny_params(distill=sections), root, "other")
    folder = root / "reports/distill/other"
    noted = [row for row in rows_of(folder / "curve.csv") if row["on_policy_loss"]]
    assert [int(row["step"]) for row in noted] == [9, 10, 11, 12]
    assert all(float(row["on_policy_loss"]) > 0 for row in noted)
    live = [step for step, row in points if "on_policy_loss" in row.get("other", {})]
    assert live == [9, 10, 11, 12]
    validated = {int(row["step"]): row for row in rows_of(folder / "validations.csv")}
    assert max(validated) == 12 and float(validated[12]["loss_nats"]) > 0
    best = max(float(row["selection"]) for row in validated.values())
    assert float(validated[report["best_step"]]["selection"]) == best
    assert load(root / "other").contract.engine == "transformers"
