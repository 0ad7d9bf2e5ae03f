"""The divergences against values worked out by hand, naive formulas and what theory promises."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages._divergences import (
    TAIL_FLOOR,
    TopK,
    divergence,
    jsd,
    kl,
    log1mexp,
    log_tail,
    student_buckets,
    teacher_buckets,
    temper,
    top_k,
)

torch.set_num_threads(1)
KINDS = ["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"]


def logs(*probabilities):
    return torch.tensor([probabilities], dtype=torch.float64).log()


def random_logits(seed, rows=5, vocabulary=7, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64) * spread


def naive(kind, student, teacher, mix):
    """Straight from the papers, on probabilities of [N, V] log-probabilities."""
    q, p = student.exp(), teacher.exp()

    def from_to(a, b):
        return (a * (a / b).log()).sum(-1)

    if kind == "jsd":
        m = mix * p + (1 - mix) * q
        return mix * from_to(p, m) + (1 - mix) * from_to(q, m)
    return {
        "forward_kl": from_to(p, q),
        "reverse_kl": from_to(q, p),
        "skew_kl": from_to(p, mix * p + (1 - mix) * q),
        "skew_reverse_kl": from_to(q, (1 - mix) * p + mix * q),
    }[kind]


# teacher p = (1/2, 1/2), student q = (1/4, 3/4)
BY_HAND = [
    # 1/2 ln 2 + 1/2 ln 2/3 = 1/2 ln 4/3
    ("forward_kl", 0.5, 0.143841),
    # 1/4 ln 1/2 + 3/4 ln 3/2 = -0.173287 + 0.304099
    ("reverse_kl", 0.5, 0.130812),
    # m = (3/8, 5/8): 1/2 (1/2 ln 16/15) + 1/2 (1/4 ln 2/3 + 3/4 ln 6/5) = (0.032269 + 0.035375)/2
    ("jsd", 0.5, 0.033822),
    # m = 1/4 p + 3/4 q = (5/16, 11/16): 1/4 (1/2 ln 64/55) + 3/4 (1/4 ln 4/5 + 3/4 ln 12/11)
    # = 0.018944 + 0.007104
    ("jsd", 0.25, 0.026048),
    # the same m, KL(p || m) = 1/2 ln 8/5 + 1/2 ln 8/11 = 1/2 ln 64/55
    ("skew_kl", 0.25, 0.075775),
    # m = 3/4 p + 1/4 q = (7/16, 9/16): 1/4 ln 4/7 + 3/4 ln 4/3 = -0.139904 + 0.215762
    ("skew_reverse_kl", 0.25, 0.075858),
]


@pytest.mark.parametrize(("kind", "mix", "nats"), BY_HAND, ids=lambda v: str(v))
def test_values_worked_out_by_hand(kind, mix, nats):
    found = divergence(kind, logs(1 / 4, 3 / 4), logs(1 / 2, 1 / 2), mix)
    assert found.tolist() == pytest.approx([nats], abs=2e-6)


def test_three_tokens_by_hand():
    # p = (.5, .3, .2), q = (.25, .25, .5): .5 ln 2 + .3 ln 1.2 + .2 ln .4
    # = .346574 + .054696 - .183258
    found = divergence("forward_kl", logs(0.25, 0.25, 0.5), logs(0.5, 0.3, 0.2))
    assert found.item() == pytest.approx(0.218012, abs=2e-6)


def test_temperature_by_hand():
    # p = (.8, .2) at temperature 2: odds 4 become 2, (2/3, 1/3); q = (1/2, 1/2) stays
    # 2/3 ln 4/3 + 1/3 ln 2/3 = .191788 - .135155
    teacher = temper(logs(0.8, 0.2), 2.0)
    assert teacher.exp().tolist()[0] == pytest.approx([2 / 3, 1 / 3])
    assert kl(teacher, temper(logs(0.5, 0.5), 2.0)).item() == pytest.approx(0.056633, abs=2e-6)


@pytest.mark.parametrize("mix", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_identical_inputs_cost_nothing_and_push_nowhere(kind, mix):
    logits = random_logits(0).float().requires_grad_()
    same = torch.log_softmax(logits, -1)
    found = divergence(kind, same, same.detach(), mix)
    found.sum().backward()
    assert found.abs().max() < 1e-6
    assert logits.grad.abs().max() < 1e-6


def test_jsd_is_symmetric_at_one_half_only():
    p, q = (torch.log_softmax(random_logits(seed), -1) for seed in (1, 2))
    torch.testing.assert_close(jsd(p, q, 0.5), jsd(q, p, 0.5))
    torch.testing.assert_close(jsd(p, q, 0.3), jsd(q, p, 0.7))
    assert (jsd(p, q, 0.3) - jsd(q, p, 0.3)).abs().max() > 1e-3


def test_jsd_tends_to_forward_and_reverse_kl():
    student, teacher = (torch.log_softmax(random_logits(seed, spread=1.0), -1) for seed in (1, 2))
    forward, reverse = (divergence(kind, student, teacher) for kind in KINDS[:2])
    small = 1e-7
    torch.testing.assert_close(jsd(student, teacher, small) / small, forward, rtol=1e-4, atol=1e-6)
    close = jsd(student, teacher, 1 - small) / small
    torch.testing.assert_close(close, reverse, rtol=1e-4, atol=1e-6)
    assert torch.equal(jsd(student, teacher, 0.0), forward)
    assert torch.equal(jsd(student, teacher, 1.0), reverse)


@pytest.mark.parametrize(("kind", "limit"), [("skew_kl", 0), ("skew_reverse_kl", 1)])
def test_skew_zero_is_the_plain_divergence(kind, limit):
    student, teacher = (torch.log_softmax(random_logits(seed), -1) for seed in (1, 2))
    plain = divergence(KINDS[limit], student, teacher)
    assert torch.equal(divergence(kind, student, teacher, 0.0), plain)
    near = divergence(kind, student, teacher, 1e-9)
    torch.testing.assert_close(near, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_equals_a_naive_reference(kind, temperature):
    teacher = torch.log_softmax(random_logits(2) / temperature, -1)
    ours, theirs = (random_logits(1).requires_grad_() for _ in range(2))
    student = temper(torch.log_softmax(ours, -1), temperature)
    found = divergence(kind, student, teacher, 0.3)
    expected = naive(kind, torch.softmax(theirs / temperature, -1).log(), teacher, 0.3)
    (found.sum() + expected.sum()).backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logits_stay_finite(kind):
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], requires_grad=True)
    teacher = torch.log_softmax(torch.tensor([[-1e4, 1e4, 0.0], [1e4, -1e4, 0.0]]), -1)
    found = divergence(kind, torch.log_softmax(student, -1), teacher, 0.1)
    found.sum().backward()
    assert found.isfinite().all()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("x", [-1e-12, -1e-5, -0.3, -0.6931, -0.6932, -2.0, -40.0])
def test_log1mexp_near_0_and_far_from_it(x):
    # the expected value by the branch that is exact at that end
    expected = math.log(-math.expm1(x)) if x > -0.5 else math.log1p(-math.exp(x))
    found = log1mexp(torch.tensor([x], dtype=torch.float64)).item()
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-18)


def test_log_tail_of_full_rounded_and_missing_mass():
    # nothing left; a sum that rounding lifted over 1; 1/4 left; hardly anything kept
    kept = torch.tensor([[0.0, -200.0], [0.0, -7.0], [-math.log(2), -math.log(4)], [-50.0, -60.0]])
    found = log_tail(kept)
    eps = math.log(torch.finfo(torch.float32).eps)
    assert found.tolist() == pytest.approx([eps, eps, -math.log(4), 0.0], abs=1e-5)


def test_top_k_keeps_the_likeliest_and_an_exact_tail():
    # p = (.5, .3, .15, .05), k = 2: the tail is .2
    found = top_k(logs(0.15, 0.5, 0.05, 0.3), 2)
    assert found.ids.tolist() == [[1, 3]]
    assert found.log_probs.exp().tolist()[0] == pytest.approx([0.5, 0.3])
    assert found.log_tail.exp().item() == pytest.approx(0.2)
    # 2 other tokens at e^-40 each: 1 - sum would be 0 in fp32
    tiny = top_k(torch.tensor([[0.0, -40.0, -40.0]]), 1)
    assert tiny.log_tail.item() == pytest.approx(math.log(2) - 40)
    assert top_k(torch.tensor([[0.0, -1e4]]), 1).log_tail.item() == TAIL_FLOOR


def test_buckets_by_hand():
    # p = (.5, .3, .2) and q = (.25, .25, .5) with k = 1: (.5, .5) against (.25, .75), 1/2 ln 4/3
    teacher = top_k(logs(0.5, 0.3, 0.2), 1)
    ours, said = student_buckets(logs(0.25, 0.25, 0.5), teacher.ids, torch.tensor([2]))
    assert ours.exp().tolist()[0] == pytest.approx([0.25, 0.75])
    assert teacher_buckets(teacher).exp().tolist()[0] == pytest.approx([0.5, 0.5])
    assert said.exp().item() == pytest.approx(0.5)
    assert kl(teacher_buckets(teacher), ours).item() == pytest.approx(0.143841, abs=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_buckets_of_the_whole_vocabulary_equal_dense(kind):
    teacher = random_logits(2)
    ours, theirs = (random_logits(1).requires_grad_() for _ in range(2))
    stored = top_k(teacher, 7)
    student, _ = student_buckets(ours, stored.ids, stored.ids[:, 0])
    found = divergence(kind, student, teacher_buckets(stored), 0.3)
    dense = torch.log_softmax(theirs, -1), torch.log_softmax(teacher, -1)
    expected = divergence(kind, *dense, 0.3)
    (found.sum() + expected.sum()).backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_bucket_gradient_equals_a_naive_reference(kind, temperature):
    stored = top_k(random_logits(2), 3)
    targets = torch.tensor([0, 1, 2, 3, 4])
    ours, theirs = (random_logits(1).requires_grad_() for _ in range(2))
    student, said = student_buckets(ours, stored.ids, targets)
    teacher = temper(teacher_buckets(stored), temperature)
    found = divergence(kind, temper(student, temperature), teacher, 0.3) - said
    q = torch.softmax(theirs, -1)
    kept = q.gather(1, stored.ids)
    grouped = torch.cat([kept, 1 - kept.sum(1, keepdim=True)], 1) ** (1 / temperature)
    student = (grouped / grouped.sum(1, keepdim=True)).log()
    label = q.gather(1, targets[:, None])[:, 0].log()
    expected = naive(kind, student, teacher, 0.3) - label
    (found.sum() + expected.sum()).backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_bucket_gradient_by_finite_differences():
    logits = random_logits(3, rows=2).requires_grad_()
    ids, targets = torch.tensor([[0, 4], [6, 1]]), torch.tensor([4, 2])
    assert torch.autograd.gradcheck(lambda x: student_buckets(x, ids, targets), logits)


@pytest.mark.parametrize("kind", KINDS)
def test_mass_outside_is_pushed_down_where_the_teacher_has_none(kind):
    certain = TopK(torch.tensor([[0, 1]]), torch.tensor([[0.6, 0.4]]).log(), torch.tensor([-50.0]))
    logits = torch.tensor([[0.4, 0.0, 1.0, 2.0]], requires_grad=True)
    student, _ = student_buckets(logits, certain.ids, torch.tensor([0]))
    divergence(kind, student, teacher_buckets(certain), 0.1).sum().backward()
    assert (logits.grad[0, 2:] > 0).all()  # descent lowers these
    assert logits.grad[0, 2:].sum() > 0.01


def test_a_tail_far_below_rounding_is_still_pulled_up():
    # the student keeps all but 2e-12, which 1 - kept cannot see in fp32; the teacher left 1/2
    teacher = TopK(torch.tensor([[0]]), torch.tensor([[0.5]]).log(), torch.tensor([0.5]).log())
    logits = torch.tensor([[27.0, 0.0]], requires_grad=True)
    student, _ = student_buckets(logits, teacher.ids, torch.tensor([0]))
    kl(teacher_buckets(teacher), student).sum().backward()
    assert logits.grad.tolist()[0] == pytest.approx([0.5, -0.5], abs=1e-6)  # q - p


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("kind", KINDS)
def test_buckets_stay_finite_for_extreme_logits_and_suppressed_tokens(kind, temperature):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 0.0, 1e4]], requires_grad=True)
    never = torch.tensor([[-1e4, -math.inf], [-math.inf, 0.0]])
    teacher = TopK(torch.tensor([[0, 1], [1, 2]]), never, torch.tensor([0.0, -math.inf]))
    student, said = student_buckets(logits, teacher.ids, torch.tensor([1, 0]))
    pair = temper(student, temperature), temper(teacher_buckets(teacher), temperature)
    found = divergence(kind, *pair, 0.1) - said
    found.sum().backward()
    assert found.isfinite().all()
    assert logits.grad.isfinite().all()


def test_rounded_storage_costs_next_to_nothing():
    logits = random_logits(4, rows=50, vocabulary=40).float()
    exact = top_k(logits, 8)
    stored = TopK(exact.ids, exact.log_probs.half(), exact.log_tail.half())
    student, _ = student_buckets(logits, exact.ids, exact.ids[:, 0])
    found = kl(teacher_buckets(stored), student)
    assert found.abs().max() < 1e-5


PAIRS = st.tuples(*[st.lists(st.floats(-30, 30, width=32), min_size=6, max_size=6)] * 2)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.sampled_from(KINDS), st.floats(0.0, 0.99), st.sampled_from([0.5, 1.0, 3.0]))
def test_no_divergence_is_negative(pair, kind, mix, temperature):
    student, teacher = (torch.log_softmax(torch.tensor([x]) / temperature, -1) for x in pair)
    assert divergence(kind, student, teacher, mix).item() >= -1e-6


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.integers(1, 5))
def test_buckets_never_cost_more_than_dense(pair, k):
    # data-processing inequality: joining tokens cannot make two distributions easier to tell apart
    student, teacher = (torch.log_softmax(torch.tensor([x]), -1) for x in pair)
    stored = top_k(teacher, k)
    ours, _ = student_buckets(student, stored.ids, stored.ids[:, 0])
    dense = kl(teacher, student).item()
    assert -1e-6 <= kl(teacher_buckets(stored), ours).item() <= dense * (1 + 1e-5) + 1e-5
