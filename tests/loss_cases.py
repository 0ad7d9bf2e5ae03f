"""A student, teachers of every form, ragged labels, and the loss position by position."""

import torch

from stages._divergences import TopK, divergence, temper, top_k
from stages._losses import Head, TeacherHidden, count_tokens, distillation_loss, shift

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
