"""Chunks and low precision change nothing: the same loss and gradient, in less memory, finite."""

import math

import pytest
import torch
from loss_cases import (
    KINDS,
    TEACHERS,
    D,
    V,
    a_teacher,
    gradients,
    in_bf16,
    normal,
    ragged_labels,
    run,
    student,
)
from torch.utils._python_dispatch import TorchDispatchMode

from stages._divergences import top_k
from stages._losses import Head, Objective, TeacherHidden

torch.set_num_threads(1)


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 10, 11])
@pytest.mark.parametrize("source", [*TEACHERS, None])
def test_chunks_change_neither_loss_nor_gradient(source, chunk):
    labels = ragged_labels()  # 11 positions: 2, 3, 4 and 10 do not divide them
    hidden, head, tensors = student()
    teacher = source and a_teacher(source, labels)
    objective = Objective(0.5 if source else 0.0, "skew_kl", 0.1)
    dense, chunked = (
        run(hidden, head, labels, teacher, objective, chunk=size) for size in (1000, chunk)
    )
    torch.testing.assert_close(chunked.total, dense.total)
    torch.testing.assert_close(chunked.ce_sum, dense.ce_sum)
    torch.testing.assert_close(chunked.kd_sum, dense.kd_sum)
    expected = gradients(dense, tensors)
    for found, gradient in zip(gradients(chunked, tensors), expected, strict=True):
        torch.testing.assert_close(found, gradient)


class Largest(TorchDispatchMode):
    """The most elements that any tensor made inside it has."""

    found = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor):
                self.found = max(self.found, value.numel())
        return out


@pytest.mark.parametrize("source", ["stored", "hidden"])
def test_logits_of_all_positions_never_exist_at_once(source):
    labels = torch.arange(60).reshape(1, 60) % V
    labels[0, 0] = -100
    hidden, head = normal(1, 60, 2).requires_grad_(), Head(normal(V, 2).requires_grad_())
    logits = normal(59, V)
    live = TeacherHidden(normal(1, 60, 2), Head(normal(V, 2)))
    teacher = top_k(logits, 2) if source == "stored" else live
    with Largest() as largest:
        run(hidden, head, labels, teacher, Objective(0.5), chunk=12).total.backward()
    assert 12 * V <= largest.found <= 60 * 3 < 59 * V  # 60 x 3: the buckets


@pytest.mark.parametrize("source", ["stored", "hidden", None])  # live logits exist anyway
def test_chunks_keep_no_logits_for_backward(source):
    # hooks inside a recomputed chunk do not see ours: what they count outlives the forward pass
    labels, sizes = ragged_labels(), []
    hidden, head, _ = student()
    teacher = source and a_teacher(source, labels)
    objective = Objective(0.5 if source else 0.0)

    def keep(tensor):
        sizes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run(hidden, head, labels, teacher, objective, chunk=3)
        assert not [size for size in sizes if size[-1:] == (V,)]
        run(hidden, head, labels, teacher, objective, chunk=11)  # one chunk is kept as it is
        assert (11, V) in sizes


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", TEACHERS)
def test_extreme_bf16_logits_stay_finite(source, kind, temperature):
    labels = ragged_labels()
    hidden = (normal(4, 7, D) * 1e3).to(torch.bfloat16).requires_grad_()
    weight = (normal(V, D, seed=1) * 10).to(torch.bfloat16).requires_grad_()
    teacher = in_bf16(a_teacher(source, labels))
    if source == "logits":
        teacher = (teacher * 1e4).index_fill(2, torch.tensor([0, 5]), -math.inf)
    objective = Objective(0.5, kind, 0.1, temperature, square=True)
    found = run(hidden, Head(weight), labels, teacher, objective, chunk=4)
    assert (hidden.detach() @ weight.detach().T).abs().max() > 1e4
    assert found.total.isfinite()
    assert found.total.dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in gradients(found, (hidden, weight)))


def test_bf16_is_summed_in_fp32():
    # 3 equal positions: bf16 keeps 8 bits, and 3 x 2.3979 (ln 11) would end on another value
    labels = torch.tensor([[-100, 1, 2, 3]])
    hidden, head = torch.zeros(1, 4, D).bfloat16(), Head(torch.zeros(V, D).bfloat16())
    found = run(hidden, head, labels, None, Objective(0.0), chunk=1)
    assert found.ce_sum.item() == pytest.approx(3 * math.log(11), rel=1e-6)


def test_autocast_is_the_same_in_recomputed_chunks():
    labels = ragged_labels()
    hidden, head, _ = student()
    hidden, weight = (x.detach().float().requires_grad_() for x in (hidden, head.weight))
    teacher = in_bf16(a_teacher("stored", labels))
    exact = run(hidden, Head(weight), labels, teacher, Objective(0.5))
    with torch.autocast("cpu", torch.bfloat16):
        whole, chunked = (
            run(hidden, Head(weight), labels, teacher, Objective(0.5), chunk=size)
            for size in (100, 4)
        )
    assert whole.total != exact.total  # the head did run in bf16
    torch.testing.assert_close(whole.total, exact.total, rtol=1e-2, atol=0)
    torch.testing.assert_close(chunked.total, whole.total)
    for pair in zip(*(gradients(x, (hidden, weight)) for x in (chunked, whole)), strict=True):
        torch.testing.assert_close(*pair, rtol=2e-2, atol=1e-3)  # bf16 sums over other chunks


def test_under_autocast_a_head_s_rows_are_rounded_up_and_nothing_else_changes():
    rows, head = normal(70, D).float(), Head(normal(V, D).float())
    with Largest() as products, torch.autocast("cpu", torch.bfloat16):
        found = head.logits(rows, V)
    assert products.found == 128 * V
    assert found.shape == (70, V) and found.dtype == torch.float32
    assert torch.equal(found, (rows.bfloat16() @ head.weight.bfloat16().T).float())
