"""Divergences between two distributions over tokens, dense or stored as top k and a tail.

Pure torch. N = positions, V = vocabulary, k = tokens stored per position; nats per position, on
log-probabilities in at least fp32. Where a side is called student it may carry a gradient.

Forward and reverse KL; generalised JSD (Agarwal et al. 2024, GKD, arXiv:2306.13649); skew KL and
skew reverse KL (Ko et al. 2024, DistiLLM, arXiv:2402.03898). Top k: a student's mass outside the
stored tokens is one more bucket; renormalising over k instead would leave such a leak unpunished.
"""

import math
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Divergence = Literal["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl"]

LOG_ZERO = -1e6  # stands for a teacher's -inf: 0 * inf is NaN, in backward even if forward is saved
TAIL_FLOOR = -50.0  # 2e-22 of mass: finite in fp16, still next to nothing (4e-6) at temperature 4
TINY = 1e-30  # a student's empty tail: below the floor, and a gradient over it stays finite in fp32


class TopK(NamedTuple):
    """What a teacher stored for N positions, at temperature 1."""

    ids: Tensor  # [N, k] int64, distinct within a row
    log_probs: Tensor  # [N, k], -inf where the teacher was not allowed to say it
    log_tail: Tensor  # [N] log of the mass of all other tokens, TAIL_FLOOR at least


def divergence(kind: Divergence, student: Tensor, teacher: Tensor, mix: float = 0.5) -> Tensor:
    """One divergence per row of finite log-probabilities: [N, V], [N, V] -> [N].

    `mix` is beta of jsd and alpha of the skew divergences (their paper: 0.1).
    """
    match kind:
        case "forward_kl":
            return kl(teacher, student)
        case "reverse_kl":
            return kl(student, teacher)
        case "jsd":
            return jsd(student, teacher, mix)
        case "skew_kl":  # KL(p || a p + (1 - a) q), p the teacher
            return kl(teacher, mixture(teacher, student, mix))
        case "skew_reverse_kl":  # KL(q || (1 - a) p + a q), q the student
            return kl(student, mixture(student, teacher, mix))


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of log-probabilities [N, V] -> [N]."""
    return (p.exp() * (p - q)).sum(-1)


def mixture(p: Tensor, q: Tensor, weight: float) -> Tensor:
    """log(weight * p + (1 - weight) * q) of log-probabilities, any weight from 0 to 1."""
    if weight in (0.0, 1.0):
        return p if weight == 1.0 else q
    return torch.logaddexp(p + math.log(weight), q + math.log1p(-weight))


def jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Generalised Jensen-Shannon divergence (Agarwal et al. 2024), [N, V] -> [N].

    beta KL(teacher || m) + (1 - beta) KL(student || m), m = beta teacher + (1 - beta) student.
    That is 0 at both ends; there the limits of jsd / beta and jsd / (1 - beta) stand in: forward
    KL at 0, reverse KL at 1. So the loss's scale jumps at the ends.
    """
    if beta in (0.0, 1.0):
        return kl(teacher, student) if beta == 0.0 else kl(student, teacher)
    middle = mixture(teacher, student, beta)
    return beta * kl(teacher, middle) + (1.0 - beta) * kl(student, middle)


def temper(log_probs: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature) in log space; log-probabilities serve as logits."""
    if temperature == 1.0:
        return log_probs
    return torch.log_softmax(log_probs / temperature, dim=-1)


def upcast(values: Tensor) -> Tensor:
    """The same values in fp32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x <= 0, finite at 0 (Maechler 2012: the branches meet at ln 2)."""
    x = x.clamp(max=-torch.finfo(x.dtype).eps)
    near_zero = torch.log(-torch.expm1(x))
    return torch.where(x > -math.log(2.0), near_zero, torch.log1p(-torch.exp(x)))


def log_tail(log_probs: Tensor) -> Tensor:
    """[N, k] -> [N]: the tail of a teacher that tells no more than its top log-probabilities.

    No finer than 1e-7, as 1 - sum is; `top_k`, with the logits at hand, has no such limit.
    """
    return log1mexp(torch.logsumexp(upcast(log_probs), dim=-1)).clamp(min=TAIL_FLOOR)


def top_k(logits: Tensor, k: int) -> TopK:
    """What to store of a teacher's logits [N, V], cut to the true vocabulary; likeliest first."""
    log_probs = torch.log_softmax(upcast(logits.detach()), dim=-1)
    kept, ids = log_probs.topk(k, dim=-1)
    tail = _rest(log_probs, ids).sum(1).log()
    return TopK(ids, kept, tail.clamp(min=TAIL_FLOOR))


def teacher_buckets(stored: TopK) -> Tensor:
    """[N, k + 1] log-probabilities: the stored tokens, then the tail; normalised again, because
    storage rounds."""
    tail = upcast(stored.log_tail.detach())[:, None].clamp(min=TAIL_FLOOR)
    kept = upcast(stored.log_probs.detach()).clamp(min=LOG_ZERO)
    return torch.log_softmax(torch.cat([kept, tail], dim=1), dim=-1)


def student_buckets(logits: Tensor, ids: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The student over the same buckets, [N, k + 1], and its log-probability of the labels, [N].

    logits [N, V] in at least fp32 (log-probabilities will do), ids [N, k] distinct within a row,
    targets [N]. Both outputs come of one softmax and one backward pass, which makes learning from
    stored log-probabilities about as cheap as plain cross-entropy.
    """
    found = _StudentBuckets.apply(logits, ids, targets[:, None])  # type: ignore[no-untyped-call]
    kept, tail, said = cast(tuple[Tensor, Tensor, Tensor], found)
    return torch.cat([kept, tail], dim=1), said[:, 0]


class _StudentBuckets(Function):
    """The tail as a sum over what is left, not as log1mexp of the kept mass: that has no digits
    left, and no gradient, where a confident student keeps all but 1e-7."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        log_probs = torch.log_softmax(logits, dim=-1)
        kept, said = log_probs.gather(1, ids), log_probs.gather(1, targets)
        rest = _rest(log_probs, ids)
        tail = rest.sum(1, keepdim=True).clamp_(min=TINY)
        ctx.save_for_backward(rest, tail, kept, ids, targets)
        return kept, tail.log(), said

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """d log q_i = onehot_i - q for a token, (q inside the tail) / q_tail - q for the tail."""
        to_kept, to_tail, to_said = grads
        rest, tail, kept, ids, targets = ctx.saved_tensors
        total = to_kept.sum(1, keepdim=True) + to_tail + to_said
        grad = rest * (to_tail / tail - total)
        grad.scatter_(1, ids, to_kept - total * kept.exp())
        grad.scatter_(1, targets, grad.gather(1, targets) + to_said)
        return grad, None, None


def _rest(log_probs: Tensor, ids: Tensor) -> Tensor:
    """Probabilities with 0 at `ids`; `log_probs` is overwritten."""
    return log_probs.exp_().scatter_(1, ids, 0.0)
