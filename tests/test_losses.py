"""The distillation loss: alignment, one divisor, vocabularies, teachers of every form, refusals."""

import math

import pytest
import torch
from loss_cases import (
    ANSWERS,
    KINDS,
    PROMPTS,
    TEACHERS,
    D,
    V,
    a_teacher,
    gradients,
    naive,
    normal,
    ragged_labels,
    run,
    student,
)

from stages._divergences import TopK, top_k
from stages._losses import Head, Objective, TeacherHidden, count_tokens, distillation_loss, shift

torch.set_num_threads(1)


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
