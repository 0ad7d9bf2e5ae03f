"""The distill stage: every recipe trains, from the right start, on the right labels."""

import shutil

import pytest
import torch
from tiny_models import write_model
from tiny_pipeline import SHAPE, TRAINING, run_distill, taught, tiny_params

from serving.contract import read_contract
from serving.errors import StillhouseError
from serving.predictor import load
from stages import _io


@pytest.fixture
def root(tmp_path, monkeypatch):
    shutil.copytree(taught(), tmp_path / "work", ignore=shutil.ignore_patterns("scratch"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def with_recipe(**recipe):
    recipes = {"student": {}, "control": {"method": "sft"}, "other": recipe}
    shape = SHAPE | {"feed_forward": 32}
    return tiny_params(distill={"recipes": recipes, "shape": shape, "training": TRAINING})


@pytest.mark.parametrize(
    "recipe",
    [
        {"method": "sft", "init": "scratch"},
        {"method": "seqkd", "init": "scratch"},
        {"method": "logits", "init": "prune"},
        {"method": "logits", "divergence": "reverse_kl", "alpha": 1.0},
        {"method": "logits", "divergence": "jsd", "mix": 0.5, "temperature": 2.0},
        {"method": "logits", "divergence": "skew_kl", "sources": ["gold"]},
    ],
)
def test_every_recipe_gives_a_model_that_answers(root, recipe):
    report = run_distill(with_recipe(**recipe), root, "other")
    assert report["recipe"]["method"] == recipe["method"]
    assert (
        0
        < report["parameters"]
        < _io.read_json(root / "reports/teacher/teacher.json")["parameters"]
    )
    assert report["calibration"]["nats_per_token"] > 0
    assert 0.0 <= report["fidelity"]["top1_agreement"] <= 1.0
    assert load(root / "other").contract.prompt_template == "<|prompt|>{prompt}<|answer|>"


def test_a_student_of_the_teachers_shape_starts_as_the_teacher(root):
    shape = {"distill": {"shape": SHAPE, "training": TRAINING | {"learning_rates": [1e-9]}}}
    report = run_distill(tiny_params(**shape), root)
    assert report["fidelity"]["mean_kl"] < 1e-3
    assert report["fidelity"]["top1_agreement"] > 0.99


def test_distilling_brings_a_student_nearer_to_its_teacher(root):
    """The teacher hardly knows anything, so its distributions are the whole of the target."""
    recipes = {"student": {"init": "scratch", "alpha": 1.0}, "control": {"method": "sft"}}
    far, near = (
        run_distill(
            tiny_params(
                distill={
                    "recipes": recipes,
                    "shape": SHAPE | {"feed_forward": 32},
                    "training": TRAINING | {"steps": steps},
                }
            ),
            root,
        )["fidelity"]["mean_kl"]
        for steps in (1, 60)
    )
    assert near < 0.5 * far


def test_control_and_student_start_alike_and_take_as_many_steps(root):
    reports = [run_distill(tiny_params(), root, name) for name in ("student", "control")]
    for name in ("parameters", "steps", "batch_tokens", "init", "learning_rate", "seed"):
        assert reports[0][name] == reports[1][name], name


def test_the_same_inputs_give_the_same_student(root):
    run_distill(tiny_params(), root)
    first = (root / "student/model.safetensors").read_bytes()
    run_distill(tiny_params(), root)
    assert (root / "student/model.safetensors").read_bytes() == first


def test_another_seed_gives_another_student(root):
    run_distill(with_recipe(init="scratch"), root, "other")
    first = (root / "other/model.safetensors").read_bytes()
    run_distill(with_recipe(init="scratch", seed_offset=1), root, "other")
    assert (root / "other/model.safetensors").read_bytes() != first


def test_labels_of_another_teacher_are_refused(root):
    contract = _io.read_json(root / "teacher/contract.json")
    _io.write_json(root / "teacher/contract.json", contract | {"params_hash": "1" * 64})
    with pytest.raises(StillhouseError, match="labels were made by something else: teacher_sha256"):
        run_distill(tiny_params(), root)


def test_logits_need_the_teachers_tokenizer(root):
    base = write_model(root / "base", "llama")
    (base / "contract.json").unlink()
    recipes = {"student": {"init": "pretrained"}, "control": {"method": "sft"}}
    section = {"recipes": recipes, "training": TRAINING, "generation": {"max_new_tokens": 8}}
    section["pretrained"] = {"model": str(base), "tuning": "full"}
    with pytest.raises(StillhouseError, match=r"their tokenizers differ.*Choose method: seqkd"):
        run_distill(tiny_params(distill=section), root)


def test_text_of_the_teacher_can_be_learned_with_another_tokenizer(root):
    base = write_model(root / "base", "qwen2")
    (base / "contract.json").unlink()
    recipe = {"init": "pretrained", "method": "seqkd"}
    section = {"recipes": {"student": recipe, "control": {"method": "sft"}}}
    section |= {"training": TRAINING, "generation": {"max_new_tokens": 8}}
    section["pretrained"] = {"model": str(base), "tuning": "lora"}
    report = run_distill(tiny_params(distill=section), root)
    assert report["fidelity"] is None
    assert read_contract(root / "student").base_model == "base"


def test_an_unknown_recipe_names_the_known_ones(root):
    with pytest.raises(StillhouseError, match=r"no 'tutor' \(there are: student, control\)"):
        run_distill(tiny_params(), root, "tutor")


@pytest.mark.slow
def test_on_policy_takes_its_steps_out_of_the_budget(root):
    report = run_distill(with_recipe(method="on_policy", on_policy_steps=4), root, "other")
    assert report["steps"] == TRAINING["steps"]
    weights = load(root / "other").model.state_dict()
    assert all(bool(torch.isfinite(w).all()) for w in weights.values())
