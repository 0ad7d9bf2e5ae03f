"""Muon against its definition, worked out by hand or by torch's singular values."""

import pytest
import torch
from tiny_training import make

from stages._muon import Muon, orthogonalise
from stages._optimizers import make_optimizers
from stages._params import Training


def step(weight, gradient, **settings):
    """One step from a copy of `weight`; returns the change."""
    moved = torch.nn.Parameter(weight.clone())
    moved.grad = gradient.clone()
    Muon([moved], **settings).step()
    return (moved - weight).detach()


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16), (1, 8)])
def test_singular_values_come_near_one_and_directions_stay(shape):
    drawn = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    u, _, vt = torch.linalg.svd(drawn, full_matrices=False)
    found = orthogonalise(u * torch.linspace(0.05, 1.0, min(shape)) @ vt)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6 and values.max() < 1.3
    kept = u.mT @ found @ vt.mT  # diagonal if the singular vectors are those of the matrix
    assert torch.allclose(kept, torch.diag_embed(kept.diagonal(dim1=1, dim2=2)), atol=1e-4)


@pytest.mark.parametrize("scale", [1e-5, 1e12])
def test_the_size_of_a_gradient_does_not_matter_unless_it_is_nothing(scale):
    matrix = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(orthogonalise(matrix * scale), orthogonalise(matrix), atol=1e-4)
    assert torch.equal(orthogonalise(matrix * 0.0), torch.zeros(1, 8, 16))


def test_a_step_has_the_root_mean_square_of_an_adamw_step():
    gradient = torch.randn(64, 64, generator=torch.Generator().manual_seed(2))
    change = step(torch.zeros(64, 64), gradient, lr=0.1)
    assert change.square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.15)
    assert (change * gradient).sum() < 0


def test_a_step_is_what_torch_does_where_it_computes_in_bfloat16():
    generator = torch.Generator().manual_seed(3)
    weight, gradient = torch.randn(2, 24, 48, generator=generator)
    theirs = torch.nn.Parameter(weight.clone())
    settings = {"lr": 0.05, "momentum": 0.95, "weight_decay": 0.1}
    optimizer = torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **settings)
    theirs.grad = gradient.clone()
    optimizer.step()
    ours = weight + step(weight, gradient, **settings)
    assert (ours - theirs).abs().max() < 0.03 * (theirs - weight).abs().max()


def test_momentum_is_nesterovs():
    generator = torch.Generator().manual_seed(4)
    first, second = torch.randn(2, 8, 8, generator=generator)
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=1.0, momentum=0.5)
    for gradient in (first, second):
        before, weight.grad = weight.detach().clone(), gradient
        optimizer.step()
    buffer = 0.5 * (0.5 * first) + 0.5 * second  # by hand: b <- b/2 + g/2, twice
    direction = 0.5 * second + 0.5 * buffer
    expected = -0.2 * 8**0.5 * orthogonalise(direction[None])[0]
    assert torch.allclose(weight - before, expected, atol=1e-5)


def test_decay_is_apart_from_the_update():
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(5))
    change = step(weight, torch.zeros(8, 8), lr=0.1, weight_decay=0.5)
    assert torch.allclose(change, -0.05 * weight, atol=1e-7)


def test_matrices_of_one_shape_do_not_touch_each_other():
    generator = torch.Generator().manual_seed(6)
    weights, gradients = torch.randn(2, 3, 8, 16, generator=generator)
    together = [torch.nn.Parameter(w.clone()) for w in weights]
    for parameter, gradient in zip(together, gradients, strict=True):
        parameter.grad = gradient.clone()
    Muon(together, lr=0.1).step()
    for moved, weight, gradient in zip(together, weights, gradients, strict=True):
        assert torch.allclose(moved - weight, step(weight, gradient, lr=0.1), atol=1e-6)


def test_a_matrix_without_a_gradient_stays_and_a_vector_is_refused():
    still = torch.nn.Parameter(torch.ones(4, 4))
    Muon([still], lr=1.0, weight_decay=1.0).step()
    assert torch.equal(still, torch.ones(4, 4))
    with pytest.raises(ValueError, match=r"found shapes \[\(4,\)\]"):
        Muon([torch.nn.Parameter(torch.ones(4))], lr=1.0)


def test_muon_takes_hidden_matrices_and_adamw_the_rest():
    model = make()
    names = {id(weight): name for name, weight in model.named_parameters()}
    muon, adamw = make_optimizers(model, Training(optimizer="muon", weight_decay=0.3))
    hidden = {names[id(w)] for group in muon.param_groups for w in group["params"]}
    others = {names[id(w)] for group in adamw.param_groups for w in group["params"]}
    assert hidden == {name for name in names.values() if "proj" in name}
    assert others == set(names.values()) - hidden and "model.embed_tokens.weight" in others
    assert [group["weight_decay"] for group in muon.param_groups + adamw.param_groups] == [0.3, 0]


def test_in_bfloat16_a_step_goes_nearly_the_same_way():
    gradient = torch.randn(32, 48, generator=torch.Generator().manual_seed(5))
    fine = step(torch.zeros(32, 48), gradient, lr=0.1)
    coarse = step(torch.zeros(32, 48), gradient, lr=0.1, dtype=torch.bfloat16)
    assert not torch.equal(fine, coarse)
    assert torch.nn.functional.cosine_similarity(fine.flatten(), coarse.flatten(), dim=0) > 0.999
