"""The training loop learns what it should, from a loss that is what it says."""

import math
from itertools import pairwise

import pytest
import torch
from tiny_training import (
    SETTINGS,
    Rows,
    make,
    make_with_dropout,
    result,
    rows,
    run,
    train_in_processes,
    validate,
    weights,
    with_teacher,
)

from serving.errors import StillhouseError
from stages._losses import Objective
from stages._optimizers import learning_rate, make_accelerator, make_optimizers, validation_steps
from stages._params import Training


def change(settings, **changes):
    return settings.model_copy(update=changes)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_ends_alike_however_a_batch_is_split(tmp_path, optimizer):
    settings = change(SETTINGS, optimizer=optimizer, batch_tokens=200)
    whole = run(tmp_path / "whole", settings)
    split = run(tmp_path / "split", change(settings, micro_batch_tokens=16))
    for ours, theirs in zip(split.curve, whole.curve, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_model_learns_to_reverse_its_prompt(tmp_path, optimizer):
    settings = change(SETTINGS, steps=60, optimizer=optimizer, batch_tokens=256, validations=1)
    trained = run(tmp_path, settings, sequences=rows(200))
    losses = [row["train_nats"] for row in trained.curve if "train_nats" in row]
    assert [row["step"] for row in trained.curve] == [10, 20, 30, 40, 50, 60, 60]
    assert losses[-1] < 0.6 * losses[0] and trained.curve[-1]["loss_nats"] < 3.0
    assert trained.seconds > 0.0 and not trained.model.training


def test_answer_tokens_are_counted_once_a_step(tmp_path):
    settings = change(SETTINGS, steps=3, batch_tokens=16_000)  # a step is an epoch
    assert run(tmp_path, settings).tokens == 3 * sum(len(s.answer) for s in list(rows()))


def test_the_same_seed_gives_the_same_weights_bit_by_bit(tmp_path):
    def train_again(name, **changes):
        return run(tmp_path / name, make=make_with_dropout, **changes)

    first, again, other = (
        train_again("1"),
        train_again("2"),
        train_again("3", seed=4),
    )
    expected = weights(first.model)
    assert all(torch.equal(w, expected[n]) for n, w in weights(again.model).items())
    assert first.curve == again.curve
    assert not all(torch.equal(w, expected[n]) for n, w in weights(other.model).items())


def test_a_learning_rate_rises_in_a_line_and_falls_along_a_cosine():
    found = [learning_rate(step, 10, 1.0, 0.2) for step in range(1, 11)]
    assert found[:2] == [0.5, 1.0]  # warm-up of two steps
    assert found[5] == pytest.approx(0.02 + 0.98 / 2)  # half way down
    assert found[7] == pytest.approx(0.02 + 0.49 * (1 - math.sqrt(0.5)))  # three quarters
    assert found[9] == pytest.approx(0.02)
    assert all(a > b for a, b in pairwise(found[1:]))
    assert learning_rate(1, 1, 0.3, 0.0) == 0.3


@pytest.mark.parametrize(("warmup", "expected"), [(0.0, 2e-3), (1.0, 1e-3)])
def test_the_first_step_of_adamw_moves_norms_by_its_learning_rate(tmp_path, warmup, expected):
    steps = 1 if warmup == 0.0 else 2
    seen = []

    def look(model):
        seen.append(weights(model))
        return validate(model)

    settings = change(SETTINGS, steps=steps, validations=2, warmup_share=warmup)
    run(tmp_path, change(settings, learning_rates=(2e-3,)), validate=look)
    moved = (seen[0]["model.norm.weight"] - 1.0).abs()
    assert float(moved.max()) == pytest.approx(expected, rel=1e-2)


def test_only_hidden_matrices_decay():
    model = make()
    names = {id(weight): name for name, weight in model.named_parameters()}
    (optimizer,) = make_optimizers(model, Training(weight_decay=0.3))
    decay = {names[id(w)]: g["weight_decay"] for g in optimizer.param_groups for w in g["params"]}
    assert decay == {name: 0.3 if "proj" in name else 0.0 for name in names.values()}


def test_validations_come_closer_and_the_last_step_is_one():
    assert sorted(validation_steps(600, 3)) == [346, 490, 600]
    assert validation_steps(2, 50) == {1, 2} and validation_steps(1, 1) == {1}


def test_the_best_validated_weights_come_back_not_the_last(tmp_path):
    seen, selections = [], [1.0, 3.0, 2.0, 3.0]

    def judge(model):
        seen.append(weights(model))
        return {"selection": selections[len(seen) - 1]}

    trained = run(tmp_path, change(SETTINGS, validations=4), validate=judge)
    best = sorted(validation_steps(8, 4))[1]
    assert trained.best_step == best and len(seen) == 4
    found = weights(trained.model)
    assert all(torch.equal(found[name], value) for name, value in seen[1].items())
    assert not all(torch.equal(found[name], value) for name, value in seen[3].items())


class Log(list):
    """Rows that note which of them the loop reads."""

    def __init__(self, items):
        super().__init__(items)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def test_a_sweep_gives_every_rate_the_same_steps_and_takes_the_lowest_loss(tmp_path):
    log, ends = Log(rows()), []

    def judge(model):
        ends.append(len(log.read))
        return validate(model)

    settings = change(SETTINGS, learning_rates=(1e-5, 1e-2, 1e-4), sweep_share=0.25, validations=1)
    trained = run(tmp_path, settings, sequences=log, validate=judge)
    first, second, third, _last = (log.read[a:b] for a, b in pairwise([0, *ends]))
    assert first == second == third and len(ends) == 4, "2 of 8 steps each, then the whole"
    assert log.read[ends[2] : ends[2] + len(first)] == first
    assert list(trained.sweep) == ["1e-05", "0.01", "0.0001"]
    assert min(trained.sweep, key=trained.sweep.get) == "0.01" and trained.learning_rate == 0.01


def test_a_rate_of_many_digits_is_the_one_that_trains(tmp_path):
    settings = change(SETTINGS, steps=1, learning_rates=(0.00123456789,))
    trained = run(tmp_path, settings)
    assert trained.learning_rate == 0.00123456789 and trained.sweep == {}


def test_a_loss_that_is_no_number_ends_in_one_line(tmp_path):
    settings = change(SETTINGS, steps=20, learning_rates=(1e30,))
    with pytest.raises(StillhouseError, match=r"train: \w+ is nan at step 10\. Lower") as error:
        run(tmp_path, settings)
    assert "\n" not in str(error.value)


def test_a_validation_that_is_no_number_ends_in_one_line(tmp_path):
    with pytest.raises(StillhouseError, match="bleu is nan at step 6"):
        run(tmp_path, validate=lambda model: {"bleu": math.nan, "selection": 0.0})


def test_a_rate_that_diverges_loses_the_sweep_and_ends_it_only_alone(tmp_path, capsys):
    settings = change(SETTINGS, steps=20, learning_rates=(1e30, 1e-2), sweep_share=1.0)
    trained = run(tmp_path / "one", settings)
    assert trained.learning_rate == 1e-2 and list(trained.sweep) == ["0.01"]
    assert "train lr 1e+30: train_nats is nan" in capsys.readouterr().err
    with pytest.raises(StillhouseError, match="every learning rate of the sweep diverged"):
        run(tmp_path / "all", change(settings, learning_rates=(1e30, 1e31)))


def test_nothing_to_learn_from_and_labels_without_a_teacher_are_refused(tmp_path):
    with pytest.raises(StillhouseError, match="0 sequences"):
        run(tmp_path, sequences=[])
    mixed = Rows([*with_teacher(rows(3)), *rows(2)])
    with pytest.raises(StillhouseError, match=r"2 of 5 sequences .* alpha 0\.5"):
        run(tmp_path, sequences=mixed, objective=Objective(alpha=0.5))


def test_cuda_that_is_asked_for_and_not_there_is_one_line():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(StillhouseError, match="torch finds no CUDA device here"):
        make_accelerator("cuda", "fp32")


def test_a_distilled_model_comes_nearer_to_its_teacher(tmp_path):
    taught = with_teacher(rows())
    settings = change(SETTINGS, steps=40, batch_tokens=16_000, validations=1)
    trained = run(tmp_path, settings, sequences=taught, objective=Objective(alpha=1.0))
    nats = [row["kl_nats"] for row in trained.curve if "kl_nats" in row]
    assert len(nats) == 4 and nats[-1] < 0.8 * nats[0]


def test_scratch_holds_safetensors_and_json_and_nothing_else(tmp_path):
    settings = change(SETTINGS, learning_rates=(1e-2, 1e-3), checkpoint_every_s=0.0)
    run(tmp_path, settings)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    assert {path.name for path in tmp_path.iterdir()} == {"train", "tried-0.01", "tried-0.001"}


def test_bfloat16_products_leave_the_weights_in_fp32(tmp_path):
    assert train_in_processes(tmp_path, settings=change(SETTINGS, precision="bf16")) == [0]
    found, facts = result(tmp_path)
    assert {weight.dtype for weight in found.values()} == {torch.float32}
    fp32 = run(tmp_path / "fp32").curve[-1]["loss_nats"]
    assert facts["curve"][-1]["loss_nats"] == pytest.approx(fp32, rel=0.02)
    assert facts["curve"][-1]["loss_nats"] != fp32
