"""The on-policy part of a student: its losses are on the curve, and its weights are validated."""

import csv
import shutil

import pytest
import torch
from safetensors.torch import load_file
from tiny_pipeline import SHAPE, TRAINING, run_distill, taught, tiny_params
from tiny_training import make, weights
from transformers import AutoModelForCausalLM

from serving.errors import StillhouseError
from serving.predictor import load
from stages._learning import write_curves
from stages._on_policy_student import choose_better, make_settings
from stages._params import Recipe
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


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of its own with teacher and labels; the working folder."""
    root = tmp_path / "work"
    shutil.copytree(taught(), root, ignore=shutil.ignore_patterns("scratch"))
    monkeypatch.chdir(root)
    return root


def settings_of(precision="auto", device="cpu", **recipe):
    params = tiny_params(distill={"training": TRAINING | {"precision": precision}})
    recipe = Recipe(method="on_policy", **recipe)
    return make_settings(params, recipe, [[5, 6]] * 4, torch.device(device))


@pytest.mark.parametrize(
    ("recipe", "beta"),
    [
        ({}, 0.0),
        ({"divergence": "reverse_kl"}, 1.0),
        ({"divergence": "jsd", "mix": 0.3}, 0.3),
    ],
)
def test_the_recipes_divergence_and_temperature_hold_on_the_students_own_texts(recipe, beta):
    settings = settings_of(**recipe, temperature=2.0)
    assert (settings.beta, settings.loss_temperature) == (beta, 2.0)


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp32"])
def test_on_a_cpu_bfloat16_has_to_be_asked_for(precision):
    assert settings_of(precision).bf16 == (precision == "bf16")


@pytest.mark.parametrize("divergence", ["skew_kl", "skew_reverse_kl"])
def test_a_skew_divergence_is_refused(divergence):
    Recipe(divergence=divergence)
    with pytest.raises(ValueError, match=f"forward_kl, reverse_kl or jsd, found {divergence}"):
        Recipe(method="on_policy", divergence=divergence)


def test_a_launcher_is_refused_before_the_first_step(root, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    recipes = {"student": {"method": "on_policy"}, "control": {"method": "sft"}}
    with pytest.raises(StillhouseError, match="on_policy needs one process, found 2"):
        run_distill(tiny_params(distill={"recipes": recipes}), root)
    assert not (root / "scratch").exists()


@pytest.mark.parametrize("tuning", ["lora", "qlora"])
def test_a_merged_adapter_goes_on_and_keeps_the_dtype_of_its_base(root, tuning):
    base = shutil.copytree(root / "teacher", root / "base")
    (base / "contract.json").unlink()
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    recipe = {"method": "on_policy", "init": "pretrained", "on_policy_steps": 2}
    section = {"recipes": {"student": recipe, "control": {"method": "sft"}}}
    section["training"] = TRAINING | {"steps": 3}
    section["pretrained"] = {"model": str(base), "tuning": tuning}
    run_distill(tiny_params(distill=section), root)
    rows = rows_of(root / "reports/distill/student/curve.csv")
    assert [row["step"] for row in rows if row["on_policy_loss"]] == ["2", "3"]
    saved = load_file(root / "student/model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.bfloat16}


def test_every_on_policy_step_is_noted_and_the_last_one_validated(root, points):
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
