"""The distillation loss: what a student pays for differing from its labels and from its teacher.

Pure torch: no files, no params, no tracker. B, L = batch and its padded length, N = labelled
positions of the batch, V = vocabulary, D = width. The [N, V] logits never exist at once: the head
runs on chunks of positions, recomputed in backward (as in TRL's chunked losses). One token count
divides everything, so the loss does not depend on how a batch is split (stages/_divergences.py has
the divergences themselves). Temperature: Hinton et al. 2015, arXiv:1503.02531.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from stages._divergences import (
    LOG_ZERO,
    Divergence,
    TopK,
    divergence,
    kl,
    student_buckets,
    teacher_buckets,
    temper,
    upcast,
)

ROWS = 64  # a head's rows are rounded up to a multiple
IGNORED = -100  # label of a position that is not trained: the value of torch and Hugging Face


class Head(NamedTuple):
    """A language-model head; scale (Cohere) and soft cap (Gemma 2) are part of the logits."""

    weight: Tensor  # [V or more, D]
    bias: Tensor | None = None  # [V or more]
    scale: float = 1.0
    soft_cap: float | None = None

    def logits(self, hidden: Tensor, vocabulary: int) -> Tensor:
        """[N, D] -> [N, vocabulary] in at least fp32; padding rows beyond it are cut."""
        bias = None if self.bias is None else self.bias[:vocabulary]
        rows = _round_up(hidden)
        logits = upcast(functional.linear(rows, self.weight[:vocabulary], bias)[: len(hidden)])
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.soft_cap is not None:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        return logits


def _round_up(rows: Tensor) -> Tensor:
    """[N, D] -> [N or more, D], zeros at the end, where a CPU multiplies in bfloat16.

    oneDNN compiles a kernel for every new number of rows: three times 6 ms in a step of 60, for a
    number of answer tokens that hardly ever comes again (docs/log.md).
    """
    if not rows.is_cpu or not torch.is_autocast_enabled("cpu"):
        return rows
    return functional.pad(rows, (0, 0, 0, -len(rows) % ROWS))


class TeacherHidden(NamedTuple):
    """A live teacher whose logits are made chunk by chunk, as the student's are."""

    hidden: Tensor  # [B, L, D of the teacher], after its final norm
    head: Head


# TopK: stored, one row per labelled position in the order of `shift` (row by row, left to right);
# Tensor: a live teacher's logits, [B, L, V or more].
Teacher = TopK | TeacherHidden | Tensor


@dataclass(frozen=True)
class Objective:
    """(1 - alpha) cross-entropy + alpha divergence.

    `mix` is beta of jsd or alpha of the skew divergences. `temperature` is laid on both sides; on a
    stored teacher it is laid on the k + 1 buckets of both sides, because the store does not tell
    how the tail is spread: the minimum stays where the buckets agree, but only k = V equals a live
    teacher. `square` multiplies the divergence by temperature^2: right where cross-entropy is mixed
    in, because gradients of tempered logits shrink by it (Hinton et al. 2015, section 2); at alpha
    1 it only changes the learning rate. Cross-entropy is for text of gold or teacher; on the
    student's own text use alpha 1.
    """

    alpha: float
    divergence: Divergence = "forward_kl"
    mix: float = 0.5
    temperature: float = 1.0
    square: bool = False

    def __post_init__(self) -> None:
        """ValueError where a number is out of its range."""
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"alpha: expected 0 to 1, found {self.alpha}")
        if not 0.0 <= self.mix <= 1.0 or (self.mix == 1.0 and self.divergence.startswith("skew")):
            raise ValueError(f"mix of {self.divergence}: expected 0 to 1, found {self.mix}")
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"temperature: expected above 0, found {self.temperature}")


@dataclass(frozen=True)
class Loss:
    """One batch's loss. The sums are detached and plain: no alpha, no temperature^2, no divisor."""

    total: Tensor  # the one to call backward on
    ce_sum: Tensor  # nats over `count` positions
    kd_sum: Tensor  # nats over `count` positions; 0 without a teacher
    count: Tensor  # int64, labelled positions of this batch


def shift(states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Join position i with label i + 1 and keep the labelled positions: [N, ...] and [N].

    states [B, L, ...] (hidden or logits), labels [B, L] with IGNORED where nothing is learned. The
    one place where positions and labels meet. A label in column 0 has no position before it and
    counts for nothing. ValueError where the shapes differ.
    """
    if states.shape[:2] != labels.shape:
        raise ValueError(f"states {tuple(states.shape)} do not fit labels {tuple(labels.shape)}")
    labelled = labels[:, 1:] != IGNORED
    return states[:, :-1][labelled], labels[:, 1:][labelled]


def count_tokens(labels: Tensor) -> Tensor:
    """Positions that `shift` keeps; summed over an optimizer step it is the loss's divisor."""
    return (labels[:, 1:] != IGNORED).sum()


def distillation_loss(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    teacher: Teacher | None,
    objective: Objective,
    *,
    tokens: int | Tensor,
    true_vocab: int,
    chunk: int = 512,
) -> Loss:
    """Cross-entropy and divergence on the same positions, over the same token count.

    hidden [B, L, D] is the student's, after its final norm; labels [B, L]. `tokens` counts the
    labelled positions of the whole optimizer step (over the number of processes where gradients
    are averaged over them). At most `chunk` positions have logits at a time. Without a labelled
    position the total is 0 and attached to the graph. ValueError where something does not fit.
    """
    rows, targets = shift(hidden, labels)
    _check(head, teacher, objective, true_vocab, len(rows))
    stored = isinstance(teacher, TopK)  # has a row per labelled position already
    packed = teacher if stored else _each(teacher, lambda states: shift(states, labels)[0])
    whole = len(rows) <= chunk  # its graph is no larger than that of one recomputed chunk
    sums = rows.new_zeros(2)  # the chunks' sums come in fp32 at least, and lift it
    for start in range(0, max(len(rows), 1), chunk):
        part = itemgetter(slice(start, start + chunk))
        work = (part(rows), head, part(targets), _each(packed, part), objective, true_vocab)
        sums = sums + (_chunk_sums(*work) if whole else _recomputed(*work))
    weight = objective.alpha * (objective.temperature**2 if objective.square else 1.0)
    divisor = torch.as_tensor(tokens, device=sums.device).clamp(min=1)
    total = ((1.0 - objective.alpha) * sums[0] + weight * sums[1]) / divisor
    ce_sum, kd_sum = sums.detach()
    return Loss(total, ce_sum, kd_sum, torch.tensor(len(rows), device=sums.device))


def token_fidelity(student: Tensor, teacher: TopK | Tensor) -> tuple[Tensor, Tensor]:
    """Per position, whether the likeliest token agrees (bool) and KL(teacher || student): [N].

    student [N, V] and a live teacher [N, V] as log-probabilities, at temperature 1.
    """
    if not isinstance(teacher, TopK):
        return student.argmax(-1) == teacher.argmax(-1), kl(teacher, student)
    first = teacher.ids.gather(1, teacher.log_probs.argmax(-1, keepdim=True))[:, 0]
    ours, _ = student_buckets(student, teacher.ids, first)
    return student.argmax(-1) == first, kl(teacher_buckets(teacher), ours)


def answer_positions(labels: Tensor) -> Tensor:
    """[B, L] -> [N]: the place of each labelled position in its own answer, from 0."""
    labelled = labels[:, 1:] != IGNORED
    return (labelled.cumsum(dim=1) - 1)[labelled]


def fidelity(
    agrees: Tensor,
    nats: Tensor,
    positions: Tensor,
    edges: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32),
) -> list[dict[str, Any]]:
    """For a report: `token_fidelity` of any number of batches by answer position, each [N].

    A bucket holds positions from one edge up to below the next, the last one is open; empty ones
    are left out.
    """
    found: list[dict[str, Any]] = []
    for start, end in zip(edges, [*edges[1:], None], strict=True):
        inside = (positions >= start) & (positions < (math.inf if end is None else end))
        if inside.any():
            agreement, mean = (float(values[inside].double().mean()) for values in (agrees, nats))
            bucket = {"from": start, "to": end, "tokens": int(inside.sum())}
            found.append(bucket | {"top1_agreement": agreement, "mean_kl_nats": mean})
    return found


def _chunk_sums(
    rows: Tensor,
    head: Head,
    targets: Tensor,
    teacher: Teacher | None,
    objective: Objective,
    vocabulary: int,
) -> Tensor:
    """[2]: cross-entropy and divergence, each summed over the chunk's positions."""
    logits = head.logits(rows, vocabulary)
    if teacher is None:
        ce = functional.cross_entropy(logits, targets, reduction="sum")
        return torch.stack([ce, torch.zeros_like(ce)])
    if isinstance(teacher, TopK):
        ours, said = student_buckets(logits, teacher.ids, targets)
        theirs = teacher_buckets(teacher)
    else:
        ours = torch.log_softmax(logits, dim=-1)
        said = ours.gather(1, targets[:, None])
        theirs = _live(teacher, vocabulary)
    heat = objective.temperature
    nats = divergence(objective.divergence, temper(ours, heat), temper(theirs, heat), objective.mix)
    return torch.stack([-said.sum(), nats.sum()])


def _recomputed(*work: Any) -> Tensor:
    """`_chunk_sums` that keeps nothing for backward (nothing in it is random)."""
    sums: Tensor = checkpoint(_chunk_sums, *work, use_reentrant=False, preserve_rng_state=False)
    return sums


@torch.no_grad()
def _live(teacher: TeacherHidden | Tensor, vocabulary: int) -> Tensor:
    """[N, vocabulary] log-probabilities of a live teacher's packed rows."""
    if isinstance(teacher, TeacherHidden):
        logits = teacher.head.logits(teacher.hidden, vocabulary)
    else:
        logits = upcast(teacher[:, :vocabulary])
    return torch.log_softmax(logits, dim=-1).clamp(min=LOG_ZERO)


def _each(teacher: Teacher | None, change: Callable[[Tensor], Tensor]) -> Teacher | None:
    """The same change to every tensor that has a row per position."""
    if isinstance(teacher, TopK):
        return TopK(*(change(values) for values in teacher))
    if isinstance(teacher, TeacherHidden):
        return teacher._replace(hidden=change(teacher.hidden))
    return None if teacher is None else change(teacher)


def _check(
    head: Head, teacher: Teacher | None, objective: Objective, vocab: int, rows: int
) -> None:
    if objective.alpha > 0.0 and teacher is None:
        raise ValueError(f"alpha {objective.alpha} needs a teacher, found none")
    if isinstance(teacher, TopK) and len(teacher.ids) != rows:
        raise ValueError(f"stored teacher: {len(teacher.ids)} positions for {rows} labels")
    sizes = {"student": len(head.weight)}
    if isinstance(teacher, TeacherHidden):
        sizes["teacher"] = len(teacher.head.weight)
    elif isinstance(teacher, Tensor):
        sizes["teacher"] = teacher.shape[-1]
    for name, size in sizes.items():
        if size < vocab:
            raise ValueError(f"{name}: {size} rows of vocabulary, fewer than true_vocab {vocab}")
