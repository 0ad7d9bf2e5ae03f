"""Private runs from end to end: they learn, end as they were begun, and leave no key behind."""

import shutil

import pytest
import torch
from private_cases import plan, prompts
from tiny_pipeline import SHAPE, TRAINING, run_distill, taught, tiny_params
from tiny_training import SETTINGS, run, train_in_processes, weights

from serving.errors import StillhouseError
from serving.predictor import load
from stages import _io
from stages._params import DifferentialPrivacy
from stages._private_plan import plan_privacy
from stages._private_training import find_key

PRIVATE = SETTINGS.model_copy(update={"batch_tokens": 120, "steps": 6})


def test_a_private_model_learns(tmp_path):
    sequences = prompts(400)
    settings = SETTINGS.model_copy(update={"steps": 40, "batch_tokens": 1000, "validations": 1})
    planned = plan_privacy(DifferentialPrivacy(epsilon=8.0, noise_seed=1), sequences, settings)
    trained = run(tmp_path, settings, sequences=sequences, privacy=planned)
    losses = [row["train_nats"] for row in trained.curve if "train_nats" in row]
    assert losses[-1] < 0.8 * losses[0], losses
    assert planned.noise_multiplier > 0.5 and trained.tokens > 0


def test_opacus_leaves_nothing_on_the_model(tmp_path):
    sequences = prompts(20)
    model = run(tmp_path, PRIVATE, sequences=sequences, privacy=plan(sequences, rate=0.5)).model
    hooks = [m for m in model.modules() if m._forward_hooks or m._backward_hooks]
    assert not hooks and not model.training
    notes = {name for w in model.parameters() for name in vars(w)}
    assert not notes & {"grad_sample", "summed_grad"}


def test_only_a_noise_seed_makes_a_run_repeatable(tmp_path):
    sequences = prompts(20)

    def train(name, **settings):
        planned = plan(sequences, noise=1.0, clip_norm=0.1, rate=0.5, **settings)
        return weights(run(tmp_path / name, PRIVATE, sequences=sequences, privacy=planned).model)

    def same(first, second):
        return all(torch.equal(first[name], second[name]) for name in first)

    assert same(train("a", noise_seed=1), train("b", noise_seed=1))
    assert not same(train("c", noise_seed=2), train("a2", noise_seed=1))
    assert not same(train("d"), train("e"))


def test_a_run_that_was_cut_off_goes_on_with_the_noise_it_would_have_had(tmp_path):
    sequences = prompts(20)
    planned = plan(sequences, noise=1.0, clip_norm=0.1, rate=0.5)
    settings = PRIVATE.model_copy(update={"checkpoint_every_s": 0.0, "validations": 3})

    def train(name, **changes):
        return run(tmp_path / name, settings, sequences=sequences, privacy=planned, **changes)

    def cut_off(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("cut", validate=cut_off)
    assert (tmp_path / "cut/train/step-2").is_dir(), "validated after step 3"
    (tmp_path / "whole/train").mkdir(parents=True)
    shutil.copy(tmp_path / "cut/train/noise_key.json", tmp_path / "whole/train")
    cut, whole = train("cut"), train("whole")
    assert cut.curve == whole.curve and cut.tokens == whole.tokens
    expected = weights(whole.model)
    assert all(torch.equal(value, expected[name]) for name, value in weights(cut.model).items())


def test_a_key_is_secret_and_stays_until_scratch_goes(tmp_path):
    settings = DifferentialPrivacy(epsilon=1.0)
    first = find_key(tmp_path / "a", settings, 1)
    assert len(first) == 32 and find_key(tmp_path / "a", settings, 1) == first
    assert find_key(tmp_path / "b", settings, 1) != first
    assert [file.stat().st_mode & 0o777 for file in (tmp_path / "a").iterdir()] == [0o600]


def test_several_learning_rates_are_refused(tmp_path):
    sequences = prompts(20)
    settings = SETTINGS.model_copy(update={"learning_rates": (1e-2, 1e-3)})
    with pytest.raises(StillhouseError, match=r"one learning rate is expected, found 2"):
        run(tmp_path, settings, sequences=sequences, privacy=plan(sequences))


def test_several_processes_are_refused(tmp_path):
    sequences = prompts(20)
    work = {"sequences": sequences, "privacy": plan(sequences)}
    assert train_in_processes(tmp_path, processes=2, **work) == [1, 1]
    assert "privacy needs one process, found 2" in (tmp_path / "error-0.txt").read_text()


@pytest.fixture
def root(tmp_path, monkeypatch):
    shutil.copytree(taught(), tmp_path / "work", ignore=shutil.ignore_patterns("scratch"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_a_private_recipe_gives_a_model_and_says_what_epsilon_covers(root):
    privacy = {"epsilon": 8.0, "steps": 5, "batch_tokens": 800, "learning_rate": 0.02}
    recipe = {"method": "sft", "init": "scratch", "privacy": privacy}
    recipes = {"student": {}, "control": {"method": "sft"}, "other": recipe}
    training = TRAINING | {"learning_rates": [0.01, 0.1], "value_noise": 0.5, "precision": "auto"}
    shape = SHAPE | {"feed_forward": 32}
    params = tiny_params(distill={"recipes": recipes, "shape": shape, "training": training})
    report = run_distill(params, root, "other")
    found = report["privacy"]
    assert 7.8 < found["epsilon"] <= 8.0 and found["units"] == 48 and found["steps"] == 5
    assert found["unit"] == "a training prompt with all its references"
    assert any("tokenizer" in gap for gap in found["does_not_cover"])
    assert report["steps"] == 5 and report["learning_rate"] == 0.02 and report["sweep"] == {}
    assert _io.read_json(root / "reports/distill/other/distill.json")["privacy"] == found
    assert load(root / "other").contract.engine == "transformers"
    assert not list((root / "scratch").rglob("noise_key.json"))
    assert run_distill(tiny_params(), root, "control")["privacy"] is None
