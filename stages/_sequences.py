"""Training sequences and the batches they travel in.

A sequence is one rendered prompt with one answer, as token ids; the loss is on the answer alone.
Batches hold sequences of similar length up to a number of tokens, padding included. Their order is
a function of seed and epoch and nothing else, so a run that was killed goes on with the very batch
it would have had.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from serving._prompts import PromptEncoder
from serving.completion import Request
from serving.errors import StillhouseError
from stages._divergences import TopK
from stages._labels import Distribution
from stages._losses import IGNORED

BATCHES_PER_BUCKET = 50  # sorted by length together: few enough to stay random, little padding


@dataclass(frozen=True, eq=False)
class TrainingSequence:
    """One prompt and one answer."""

    prompt: list[int]
    answer: list[int]
    """Ends with the end token."""
    distribution: Distribution | None = None
    """What a teacher thought at each answer token."""

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


@dataclass(frozen=True)
class Batch:
    """B sequences, padded on the right to a length of L; under causal attention nothing sees it."""

    ids: Tensor  # [B, L] int64
    labels: Tensor  # [B, L] int64, IGNORED outside the answers
    teacher: TopK | None  # rows in the order of `shift`: row by row, left to right
    tokens: int  # answer tokens of the whole optimizer step that this batch is a part of

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        teacher = None if self.teacher is None else TopK(*(t.to(device) for t in self.teacher))
        return Batch(self.ids.to(device), self.labels.to(device), teacher, self.tokens)


def encode_examples(
    examples: Sequence[Mapping[str, Any]], prompts: PromptEncoder, end: int, longest: int
) -> list[TrainingSequence]:
    """One sequence per prompt and reference.

    Raises:
        StillhouseError: sequences of more than `longest` tokens; counted, the longest named.
    """
    sequences = []
    for example in examples:
        request = Request(example["prompt"], example.get("slots"), example.get("context"))
        prompt = prompts.encode(request)
        for reference in example["references"]:
            sequences.append(TrainingSequence(prompt, [*prompts.encode_answer(reference), end]))
    check_lengths(sequences, longest)
    return sequences


def check_lengths(sequences: Sequence[TrainingSequence], longest: int) -> None:
    """Refuse what the model has no positions for; nothing is cut silently."""
    lengths = [len(sequence) for sequence in sequences]
    over = [length for length in lengths if length > longest]
    if over:
        raise StillhouseError(
            f"{len(over)} of {len(lengths)} training sequences are longer than {longest} tokens "
            f"(the longest has {max(over)}). Raise the model's positions or lower "
            f"prepare.max_chars."
        )


def describe_cut(
    sequences: Sequence[TrainingSequence], max_new_tokens: int, setting: str
) -> str | None:
    """A line that says how many answers are longer than a model may write; None where none is."""
    lengths = [len(sequence.answer) for sequence in sequences]
    over = [length for length in lengths if length > max_new_tokens]
    if not over:
        return None
    return (
        f"{len(over):,} of {len(lengths):,} training answers have more than {max_new_tokens} "
        f"tokens (the longest {max(over)}): the model's own will be cut there. Raise {setting} "
        f"to keep them whole."
    )


def plan_epoch(lengths: Sequence[int], batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of every sequence, once, in batches of at most `batch_tokens` padded tokens.

    A sequence longer than that is a batch of its own.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    sizes = np.asarray(lengths)
    mean = float(sizes.mean()) if len(sizes) else 1.0
    bucket = max(1, int(BATCHES_PER_BUCKET * batch_tokens / mean))
    batches: list[list[int]] = []
    for start in range(0, len(order), bucket):
        part = order[start : start + bucket]
        part = part[np.argsort(sizes[part], kind="stable")]
        batch: list[int] = []
        for index in part.tolist():
            if batch and (len(batch) + 1) * lengths[index] > batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(index)
        batches.append(batch)
    return [batches[i] for i in rng.permutation(len(batches))]


def iterate_plan(
    lengths: Sequence[int], batch_tokens: int, seed: int, start: int = 0
) -> Iterator[list[int]]:
    """Batches without end, from optimizer step `start` on."""
    epoch = 0
    while True:
        batches = plan_epoch(lengths, batch_tokens, seed, epoch)
        yield from batches[start:]
        start = max(0, start - len(batches))
        epoch += 1


def split_batch(
    indices: Sequence[int], lengths: Sequence[int], micro_tokens: int | None
) -> list[list[int]]:
    """Cut one optimizer step's rows into parts of at most `micro_tokens` padded tokens each."""
    if micro_tokens is None:
        return [list(indices)]
    longest = max((lengths[i] for i in indices), default=1)
    rows = max(1, micro_tokens // longest)
    return [list(indices[start : start + rows]) for start in range(0, len(indices), rows)]


def split_shares(
    indices: Sequence[int], lengths: Sequence[int], micro_tokens: int | None, processes: int
) -> list[list[list[int]]]:
    """Every process's parts of one optimizer step's rows: [process][part][row].

    All have as many parts, empty ones if need be: where weights are in parts, every forward pass
    needs all processes.
    """
    shares = [split_batch(indices[n::processes], lengths, micro_tokens) for n in range(processes)]
    most = max(len(parts) for parts in shares)
    return [[*parts, *([[]] * (most - len(parts)))] for parts in shares]


def collate(sequences: Sequence[TrainingSequence], tokens: int) -> Batch:
    """Pad sequences to one batch; `tokens` is the optimizer step's whole count.

    Without a sequence (a process that has none in this step) one ignored token stands in.
    """
    width = max((len(sequence) for sequence in sequences), default=2)
    ids = torch.zeros(max(len(sequences), 1), width, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORED)
    for row, sequence in enumerate(sequences):
        start, end = len(sequence.prompt), len(sequence)
        ids[row, :end] = torch.tensor(sequence.prompt + sequence.answer)
        labels[row, start:end] = ids[row, start:end]
    found = [s.distribution for s in sequences if s.distribution is not None]
    assert len(found) in (0, len(sequences)), "sequences with and without a teacher in one batch"
    return Batch(ids, labels, _stack(found) if found else None, tokens)


def _stack(found: Sequence[Distribution]) -> TopK:
    def join(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(d, name) for d in found]))

    ids = join("topk_ids").to(torch.int64)
    return TopK(ids, join("topk_logprobs").float(), join("tail_logmass").float())
