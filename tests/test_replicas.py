"""Copies of a small model train it together: the same gradients, the same weights each time."""

import pytest
import torch
from tiny_training import SETTINGS, make, make_with_dropout, run, validate, weights, with_teacher
from tiny_training import rows as make_rows
from torch import nn

from serving import _threads
from stages._losses import Objective
from stages._replicas import Replicas, count_replicas

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    """Two are allowed, whatever this machine has; torch gets its own number back."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    yield
    torch.set_num_threads(before)


@pytest.fixture
def made(monkeypatch):
    """Have the tiny model trained by copies; the numbers of copies that were made."""
    found, init = [], Replicas.__init__

    def note(self, learner, count):
        found.append(count)
        init(self, learner, count)

    monkeypatch.setattr(_threads, "TRAINED_SHARED_FROM_BYTES", 1)
    monkeypatch.setattr(_threads, "COPY_TOKENS", 32)
    monkeypatch.setattr(Replicas, "__init__", note)
    return found


def change(**changes):
    return SETTINGS.model_copy(update=changes)


@pytest.mark.parametrize(
    "settings",
    [change(), change(optimizer="adamw"), change(micro_batch_tokens=16), change(precision="bf16")],
    ids=["muon", "adamw", "micro-batches", "bf16"],
)
def test_two_copies_learn_what_one_model_does(tmp_path, made, monkeypatch, settings):
    together = run(tmp_path / "two", settings)
    assert made == [2]
    monkeypatch.setattr(_threads, "COPY_TOKENS", 1000)
    alone = run(tmp_path / "one", settings)
    assert made == [2], "a step of so few tokens is not worth a copy"
    close = 1e-4 if settings.precision == "fp32" else 0.03
    for ours, theirs in zip(together.curve, alone.curve, strict=True):
        assert ours == pytest.approx(theirs, rel=close)
    assert together.tokens == alone.tokens


def test_copies_learn_from_a_teacher_too(tmp_path, made, monkeypatch):
    taught = {"sequences": with_teacher(make_rows()), "objective": Objective(alpha=0.5)}
    together = run(tmp_path / "two", **taught)
    monkeypatch.setattr(_threads, "COPY_TOKENS", 1000)
    alone = run(tmp_path / "one", **taught)
    assert made == [2]
    for ours, theirs in zip(together.curve, alone.curve, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_copies_give_the_same_weights_bit_by_bit(tmp_path, made, precision):
    settings = change(precision=precision)
    first, again = (weights(run(tmp_path / name, settings).model) for name in ("first", "again"))
    assert made == [2, 2]
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())


def test_a_run_that_broke_off_ends_with_the_weights_of_an_undisturbed_one(tmp_path, made):
    def breaks(_model):
        raise KeyboardInterrupt

    settings = change(checkpoint_every_s=0.0)
    whole = run(tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", settings, validate=breaks)
    resumed = run(tmp_path / "broken", settings, validate=validate)
    assert made == [2, 2, 2]
    expected = weights(whole.model)
    assert all(torch.equal(w, expected[name]) for name, w in weights(resumed.model).items())


def test_one_model_trains_alone_where_copies_would_not_be_the_same(monkeypatch):
    monkeypatch.setattr(_threads, "TRAINED_SHARED_FROM_BYTES", 1)
    assert count_replicas(make(), CPU, 2048) == 2
    assert count_replicas(make(), torch.device("cuda"), 2048) == 1
    assert count_replicas(make_with_dropout(), CPU, 2048) == 1
    assert count_replicas(make(attention_dropout=0.1), CPU, 2048) == 1
    quantized = make()
    quantized.config.quantization_config = {"quant_method": "bitsandbytes"}
    assert count_replicas(quantized, CPU, 2048) == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert count_replicas(make(), CPU, 2048) == 1


@pytest.mark.parametrize(
    ("width", "allowed", "tokens", "copies"),
    [
        (999, "2", 2048, 1),  # below 4 MB
        (1000, "2", 2048, 2),
        (1000, "8", 2048, 2),  # 1,024 tokens each
        (1000, "8", 8192, 8),
        (1000, "1", 2048, 1),
        (16_000, "2", 2048, 1),  # 64 MB: both threads in each product
    ],
)
def test_copies_go_by_size_threads_and_tokens(monkeypatch, width, allowed, tokens, copies):
    monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    model = nn.Linear(1000, width, bias=False, device="meta")
    assert count_replicas(model, CPU, tokens) == copies
