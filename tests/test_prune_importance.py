"""Importance is what it says, whatever the padding, and cuts a trained model better than chance."""

from dataclasses import fields, replace

import pytest
import torch
from prune_cases import SMALL, make_model, measured, tokens
from torch.nn import functional
from transformers import LlamaForCausalLM

from serving.errors import StillhouseError
from stages._prune import Shape, measure_importance, prune

WORD_COUNT, SPAN = 24, 6  # the copy task: some words, a separator, the same words again
COPIER = Shape(layers=3, width=64, heads=4, kv_heads=2, feed_forward=128)


def assert_same_importance(found, expected):
    for field in fields(expected):
        torch.testing.assert_close(
            getattr(found, field.name), getattr(expected, field.name), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_change_importance(side):
    teacher, rows = (
        make_model(),
        [row[:size] for row, size in zip(tokens(), (3, 10, 6, 1), strict=True)],
    )
    ids, mask = tokens(5, 12, seed=9), torch.zeros(5, 12, dtype=torch.long)  # the fifth is empty
    for number, row in enumerate(rows):
        text = slice(12 - len(row), None) if side == "left" else slice(len(row))
        ids[number, text], mask[number, text] = row, 1
    alone = measure_importance(teacher, [{"input_ids": row[None]} for row in rows])
    padded = measure_importance(teacher, [{"input_ids": ids, "attention_mask": mask}])
    assert_same_importance(padded, alone)


def test_importance_is_what_its_definitions_say():
    teacher, ids = make_model(), tokens(rows=2)
    importance = measure_importance(teacher, [{"input_ids": ids}])
    with torch.no_grad():
        before, after = teacher(ids, output_hidden_states=True).hidden_states[:2]
        normed = teacher.model.layers[0].input_layernorm(before)
    change = 1.0 - functional.cosine_similarity(before, after, dim=-1)
    shares = before.square() / before.square().mean(-1, keepdim=True)
    assert float(importance.layers[0]) == pytest.approx(float(change.mean()), rel=1e-4)
    expected = normed.norm(dim=1).mean(0).double()
    torch.testing.assert_close(importance.channels[0], expected, rtol=1e-4, atol=1e-5)
    expected = shares.mean((0, 1)).double()
    torch.testing.assert_close(importance.energy[0], expected, rtol=1e-4, atol=1e-5)


def test_importance_needs_text_and_its_own_model():
    teacher, ids = make_model(), tokens()
    for batches in ([], [{"input_ids": ids, "attention_mask": torch.zeros_like(ids)}]):
        with pytest.raises(StillhouseError, match="found no token"):
            measure_importance(teacher, batches)
    with pytest.raises(ValueError, match="importance: expected"):
        prune(teacher, SMALL, measured(make_model(shape=SMALL)))


def copy_batch(rows, generator):
    """Words, the separator 0, the same words; [rows, 2 SPAN + 1]."""
    words = torch.randint(1, WORD_COUNT, (rows, SPAN), generator=generator)
    return torch.cat([words, torch.zeros_like(words[:, :1]), words], dim=1)


def copy_loss(model, ids):
    """Nats per copied word."""
    logits = model(ids).logits[:, SPAN:-1]
    return functional.cross_entropy(logits.flatten(0, 1), ids[:, SPAN + 1 :].flatten())


@pytest.fixture(scope="module")
def copier():
    """A trained model, its importance, and rows that it has not seen."""
    changes = {"vocab_size": WORD_COUNT, "head_dim": 16, "initializer_range": 0.125}
    torch.manual_seed(0)
    model = LlamaForCausalLM(make_model(shape=COPIER, **changes).config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        copy_loss(model, copy_batch(32, generator)).backward()
        optimizer.step()
    batches = [{"input_ids": copy_batch(64, generator)} for _ in range(2)]
    return model.eval(), measure_importance(model, batches), copy_batch(256, generator)


def by_chance(importance, seed):
    """The same norms, and scores that know nothing."""
    draw = torch.Generator().manual_seed(seed)
    scores = {
        name: torch.rand(getattr(importance, name).shape, generator=draw)
        for name in ("layers", "channels", "groups", "neurons")
    }
    return replace(importance, **scores)


@pytest.mark.parametrize(
    "changes",
    [{"feed_forward": 64}, {"width": 56}, {"layers": 2}, {"layers": 2, "width": 56}],
    ids=str,
)
@torch.no_grad()
def test_importance_prunes_a_trained_model_better_than_chance(copier, changes):
    teacher, importance, ids = copier
    shape = replace(COPIER, **changes)
    loss = copy_loss(prune(teacher, shape, importance), ids)
    chances = [prune(teacher, shape, by_chance(importance, seed)) for seed in range(4)]
    mean = sum(copy_loss(student, ids) for student in chances) / len(chances)
    assert loss < 0.75 * mean


@pytest.mark.parametrize("width", [48, 56])
@torch.no_grad()
def test_rescaled_norms_bring_a_narrower_model_closer_to_its_teacher(copier, width):
    teacher, importance, ids = copier
    as_they_are = replace(importance, energy=torch.ones_like(importance.energy))  # factors of 1
    said = []
    for scores in (importance, as_they_are):
        student = prune(teacher, replace(COPIER, width=width), scores)
        said.append(student(ids).logits[:, SPAN:-1].log_softmax(-1))
    target = teacher(ids).logits[:, SPAN:-1].log_softmax(-1)
    rescaled, plain = ((target.exp() * (target - each)).sum(-1).mean() for each in said)
    assert rescaled < plain
