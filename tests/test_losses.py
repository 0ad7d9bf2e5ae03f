"""The distillation loss: alignment, one divisor, chunks, vocabularies, empty and extreme input."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stages._divergences import TopK, divergence, temper, top_k
from stages._losses import (
    Head,
    Objective,
    TeacherHidden,
    answer_positions,
    count_tokens,
    distillation_loss,
    fidelity,
    shift,
    token_fidelity,
)

torch.set_num_threads(1)
V, D = 11, 4
KINDS = ["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"]
TEACHERS = ["stored", "logits", "hidden"]
# prompts of 3, 1, 0 and 4 tokens, answers of 2, 5, 3 and 1; the rest is padding
PROMPTS, ANSWERS = (3, 1, 1, 4), (2, 5, 3, 1)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def ragged_labels():
    labels = torch.full((4, 7), -100)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        labels[row, prompt : prompt + answer] = torch.arange(answer) + row
    return labels


def student(rows=V):
    """Hidden states, head, and the tensors whose gradients count."""
    hidden = normal(4, 7, D).requires_grad_()
    weight = normal(rows, D, seed=1).requires_grad_()
    return hidden, Head(weight), (hidden, weight)


def a_teacher(kind, labels, k=3, rows=V):
    hidden, weight = normal(4, 7, 5, seed=2), normal(rows, 5, seed=3) * 1.5
    if kind == "hidden":
        return TeacherHidden(hidden[: len(labels)], Head(weight))
    logits = hidden[: len(labels)] @ weight.T
    return logits if kind == "logits" else top_k(shift(logits, labels)[0][:, :V], k)


def in_bf16(teacher):
    if isinstance(teacher, TopK):
        return TopK(teacher.ids, teacher.log_probs.bfloat16(), teacher.log_tail.bfloat16())
    if isinstance(teacher, TeacherHidden):
        return TeacherHidden(teacher.hidden.bfloat16(), Head(teacher.head.weight.bfloat16()))
    return teacher.bfloat16()


def run(hidden, head, labels, teacher, objective, **changes):
    settings = {"tokens": count_tokens(labels), "true_vocab": V} | changes
    return distillation_loss(hidden, head, labels, teacher, objective, **settings)


def gradients(loss, tensors):
    return torch.autograd.grad(loss.total, tensors, allow_unused=True)


def naive(hidden, weight, labels, kind, objective, k=3):
    """Dense, position by position; also the stored teacher, from its definition."""
    teacher = a_teacher("logits", ragged_labels())
    total, count = 0.0, 0
    for row in range(len(labels)):
        for place in range(1, labels.shape[1]):
            if labels[row, place] == -100:
                continue
            count += 1
            log_q = torch.log_softmax(hidden[row, place - 1] @ weight.T, -1)
            log_p = torch.log_softmax(teacher[row, place - 1], -1)
            total = total - (1 - objective.alpha) * log_q[labels[row, place]]
            if kind == "stored":
                ids = log_p.topk(k).indices
                rest = torch.tensor([i for i in range(V) if i not in ids])
                log_p, log_q = (
                    torch.cat([x[ids], x[rest].exp().sum().log()[None]]) for x in (log_p, log_q)
                )
            log_q, log_p = (temper(x[None], objective.temperature) for x in (log_q, log_p))
            nats = divergence(objective.divergence, log_q, log_p, objective.mix)[0]
            factor = objective.temperature**2 if objective.square else 1.0
            total = total + objective.alpha * factor * nats
    return total / count


def test_position_i_learns_label_i_plus_1():
    states = torch.arange(8).reshape(2, 4)
    labels = torch.tensor([[-100, -100, 5, 6], [9, 7, -100, 8]])
    rows, targets = shift(states, labels)
    assert rows.tolist() == [1, 2, 4, 6]  # the 9 in column 0 has no position before it
    assert targets.tolist() == [5, 6, 7, 8]
    assert count_tokens(labels) == 4


def test_shift_refuses_another_shape():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) do not fit labels \(2, 4\)"):
        shift(torch.zeros(2, 3, 4), torch.zeros(2, 4))


def test_a_loss_worked_out_by_hand():
    # one position; student (1/4, 3/4), teacher (1/2, 1/2), label 0
    # CE = ln 4 = 1.386294, KL = 1/2 ln 4/3 = .143841; 0.75 * CE + 0.25 * KL = 1.075681; of 2 tokens
    hidden = torch.tensor([[[0.25, 0.75], [9.0, 9.0]]]).log()
    found = distillation_loss(
        hidden,
        Head(torch.eye(2)),
        torch.tensor([[-100, 0]]),
        torch.zeros(1, 2, 2),
        Objective(alpha=0.25),
        tokens=2,
        true_vocab=2,
    )
    assert found.total.item() == pytest.approx(1.075681 / 2, abs=1e-6)
    assert found.ce_sum.item() == pytest.approx(1.386294, abs=1e-6)
    assert found.kd_sum.item() == pytest.approx(0.143841, abs=1e-6)
    assert found.count.item() == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_equal_to_its_live_teacher_pays_nothing(kind):
    hidden, head, tensors = student()
    teacher = TeacherHidden(hidden.detach(), Head(head.weight.detach()))
    found = run(hidden, head, ragged_labels(), teacher, Objective(1.0, kind, 0.3, 2.0))
    assert abs(found.total.item()) < 1e-12
    assert max(g.abs().max() for g in gradients(found, tensors)) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_equal_to_its_stored_teacher_pays_nothing(kind):
    hidden, head, tensors = student()
    labels = ragged_labels()
    teacher = top_k(shift(hidden @ head.weight.T, labels)[0], 3)
    found = run(hidden, head, labels, teacher, Objective(1.0, kind, 0.3, 2.0))
    assert abs(found.total.item()) < 1e-12
    assert max(g.abs().max() for g in gradients(found, tensors)) < 1e-12


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", TEACHERS)
def test_loss_and_gradient_equal_a_naive_reference(source, kind, temperature):
    labels = ragged_labels()
    objective = Objective(0.4, kind, 0.3, temperature, square=True)
    hidden, head, tensors = student()
    found = run(hidden, head, labels, a_teacher(source, labels), objective, chunk=4)
    expected = naive(hidden, head.weight, labels, source, objective)
    torch.testing.assert_close(found.total, expected)
    pairs = zip(gradients(found, tensors), torch.autograd.grad(expected, tensors), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)


def test_temperature_squared_only_when_asked():
    labels = ragged_labels()
    teacher = a_teacher("stored", labels)
    plain, squared = (
        run(*student()[:2], labels, teacher, Objective(1.0, temperature=3.0, square=square))
        for square in (False, True)
    )
    assert squared.total.item() == pytest.approx(9 * plain.total.item())
    assert squared.kd_sum == plain.kd_sum


@pytest.mark.parametrize("parts", [[1, 1, 1, 1], [3, 1], [2, 2]], ids=str)
@pytest.mark.parametrize("source", TEACHERS)
def test_loss_and_gradient_do_not_depend_on_the_accumulation_split(source, parts):
    labels, objective = ragged_labels(), Objective(0.5, "jsd", 0.2)
    hidden, head, tensors = student()
    teacher = a_teacher(source, labels)
    whole = run(hidden, head, labels, teacher, objective)
    total, start, done = 0.0, 0, 0
    for size in parts:
        rows = slice(start, start + size)
        count = int(count_tokens(labels[rows]))
        if source == "stored":
            piece = TopK(*(x[done : done + count] for x in teacher))
        elif source == "hidden":
            piece = TeacherHidden(teacher.hidden[rows], teacher.head)
        else:
            piece = teacher[rows]
        tokens = count_tokens(labels)  # of the whole step
        total += run(hidden[rows], head, labels[rows], piece, objective, tokens=tokens).total
        start, done = start + size, done + count
    torch.testing.assert_close(total, whole.total)
    expected = gradients(whole, tensors)
    for found, gradient in zip(torch.autograd.grad(total, tensors), expected, strict=True):
        torch.testing.assert_close(found, gradient)


@pytest.mark.parametrize("source", [*TEACHERS, None])
def test_every_answer_token_of_ragged_prompts_counts_and_nothing_else(source):
    labels = ragged_labels()
    hidden, head, _ = student()
    teacher = source and a_teacher(source, labels)
    found = run(hidden, head, labels, teacher, Objective(0.5 if source else 0.0))
    touched = gradients(found, hidden)[0].abs().sum(-1) > 0
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        expected = [prompt - 1 <= place < prompt - 1 + answer for place in range(7)]
        assert touched[row].tolist() == expected
    assert found.count == sum(ANSWERS)


def test_end_of_sequence_is_learned_where_padding_is_the_same_token():
    eos = pad = 10
    ids = torch.tensor([[1, 2, eos, pad, pad], [1, 2, 3, 4, eos]])
    lengths = torch.tensor([3, 5])
    padding = torch.arange(5) >= lengths[:, None]  # by length, never by the pad id
    labels = ids.masked_fill(padding, -100).index_fill(1, torch.tensor([0]), -100)
    assert shift(ids, labels)[1].tolist() == [2, eos, 2, 3, 4, eos]
    hidden = normal(2, 5, D).requires_grad_()
    found = run(hidden, Head(normal(V, D)), labels, None, Objective(0.0))
    touched = gradients(found, hidden)[0].abs().sum(-1) > 0
    assert touched.int().tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]


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


@pytest.mark.parametrize("source", TEACHERS)
def test_padding_rows_of_either_vocabulary_change_nothing(source):
    labels = ragged_labels()
    hidden, head, _ = student()
    padded = Head(torch.cat([head.weight, normal(5, D, seed=9) * 9]).detach().requires_grad_())
    objective = Objective(0.5, "reverse_kl")
    cut = run(hidden, head, labels, a_teacher(source, labels), objective)
    larger = a_teacher(source, labels)
    if source == "hidden":
        rows = torch.cat([larger.head.weight, normal(2, 5, seed=8) * 9])
        larger = TeacherHidden(larger.hidden, Head(rows))
    elif source == "logits":
        larger = torch.cat([larger, normal(4, 7, 2, seed=8) * 9], dim=-1)
    found = run(hidden, padded, labels, larger, objective)
    torch.testing.assert_close(found.total, cut.total)
    weight = gradients(found, padded.weight)[0]
    torch.testing.assert_close(weight[:V], gradients(cut, head.weight)[0])
    assert weight[V:].abs().max() == 0


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_storing_the_whole_vocabulary_equals_a_live_teacher(kind, temperature):
    labels, objective = ragged_labels(), Objective(0.5, kind, 0.3, temperature)
    hidden, head, tensors = student()
    stored = run(hidden, head, labels, a_teacher("stored", labels, k=V), objective)
    live = run(hidden, head, labels, a_teacher("logits", labels), objective)
    torch.testing.assert_close(stored.total, live.total, rtol=1e-6, atol=1e-8)
    pairs = zip(gradients(stored, tensors), gradients(live, tensors), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("source", [*TEACHERS, None])
def test_nothing_labelled_gives_zero_on_the_graph(source):
    labels = torch.full((4, 7), -100)
    labels[:, 0] = 3  # column 0 predicts nothing
    hidden, head, tensors = student()
    teacher = source and a_teacher(source, labels)
    found = run(hidden, head, labels, teacher, Objective(0.5 if source else 0.0))
    assert found.total.item() == 0.0
    assert found.count == 0
    for gradient in gradients(found, tensors):
        assert gradient is not None
        assert gradient.abs().max() == 0


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


def test_scale_bias_and_soft_cap_shape_the_logits():
    # 2 x 3 + 1 = 7, times 0.5, capped at 2: 2 tanh(3.5 / 2)
    head = Head(torch.tensor([[2.0]]), torch.tensor([1.0]), scale=0.5, soft_cap=2.0)
    assert head.logits(torch.tensor([[3.0]]), 1).item() == pytest.approx(2 * math.tanh(1.75))


def test_no_gradient_reaches_the_teacher():
    labels = ragged_labels()
    hidden, head, _ = student()
    own = head.weight  # a student that is its own teacher's head
    teacher = TeacherHidden(normal(4, 7, D, seed=5).requires_grad_(), Head(own))
    found = run(hidden, head, labels, teacher, Objective(1.0))
    copied = TeacherHidden(teacher.hidden.detach(), Head(own.detach()))
    alone = run(hidden, head, labels, copied, Objective(1.0))
    assert gradients(found, teacher.hidden) == (None,)
    torch.testing.assert_close(gradients(found, own), gradients(alone, own))


REFUSED = [
    ({"alpha": 1.5}, "alpha: expected 0 to 1, found 1.5"),
    ({"alpha": 0.5, "divergence": "jsd", "mix": -0.1}, "mix of jsd: expected 0 to 1, found -0.1"),
    ({"alpha": 0.5, "divergence": "skew_kl", "mix": 1.0}, "mix of skew_kl"),  # always zero
    ({"alpha": 0.5, "temperature": 0.0}, "temperature: expected above 0, found 0.0"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_impossible_objectives_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Objective(**settings)


def test_what_does_not_fit_is_refused():
    labels = ragged_labels()
    hidden, head, _ = student()
    stored, half = a_teacher("stored", labels), Objective(0.5)
    with pytest.raises(ValueError, match="stored teacher: 10 positions for 11 labels"):
        run(hidden, head, labels, TopK(*(x[1:] for x in stored)), half)
    with pytest.raises(ValueError, match=r"alpha 0\.5 needs a teacher, found none"):
        run(hidden, head, labels, None, half)
    with pytest.raises(
        ValueError, match="student: 11 rows of vocabulary, fewer than true_vocab 12"
    ):
        run(hidden, head, labels, stored, half, true_vocab=12)
    with pytest.raises(ValueError, match="teacher: 10 rows of vocabulary"):
        run(hidden, head, labels, a_teacher("logits", labels)[..., :10], half)


def test_fidelity_of_tokens_by_hand():
    # (.25, .75) against (.6, .4), then two equal rows
    student = torch.tensor([[0.25, 0.75], [0.3, 0.7]]).log()
    agrees, nats = token_fidelity(student, torch.tensor([[0.6, 0.4], [0.3, 0.7]]).log())
    assert agrees.tolist() == [False, True]
    # .6 ln 2.4 + .4 ln 8/15 = .525281 - .251443
    assert nats.tolist() == pytest.approx([0.273838, 0.0], abs=1e-5)


def test_fidelity_to_a_stored_teacher_looks_at_all_of_the_student():
    teacher = TopK(
        torch.tensor([[2, 0]]), torch.tensor([[0.7, 0.2]]).log(), torch.tensor([0.1]).log()
    )
    student = torch.tensor([[0.2, 0.5, 0.3]]).log()  # its favourite is no stored token
    agrees, nats = token_fidelity(student, teacher)
    assert agrees.tolist() == [False]
    # .7 ln 7/3 + .2 ln 1 + .1 ln 1/5 = .593108 - .160944
    assert nats.item() == pytest.approx(0.432165, abs=1e-5)
    # the favourite agrees, though all unstored tokens together weigh more
    wide = torch.tensor([[0.1, 0.25, 0.4, 0.25]]).log()
    assert token_fidelity(wide, teacher)[0].tolist() == [True]


def test_fidelity_is_reported_by_answer_position():
    positions = answer_positions(ragged_labels())
    assert positions.tolist() == [0, 1, 0, 1, 2, 3, 4, 0, 1, 2, 0]
    agrees = positions != 1
    found = fidelity(agrees, positions.double(), positions, edges=(0, 1, 3, 9))
    assert [(b["from"], b["to"], b["tokens"]) for b in found] == [(0, 1, 4), (1, 3, 5), (3, 9, 2)]
    assert [b["top1_agreement"] for b in found] == [1.0, 0.4, 1.0]
    assert [b["mean_kl_nats"] for b in found] == [0.0, 1.4, 3.5]
