"""What is learned from and what is not, in which order, and how batches are cut."""

from itertools import islice

import numpy as np
import pytest
import torch
from tiny_models import END, SENTENCES, TEMPLATE, tiny_tokenizer, write_model

from serving._prompts import PromptEncoder
from serving.completion import Request
from serving.errors import StillhouseError
from stages._labels import Distribution
from stages._losses import IGNORED, shift
from stages._sequences import (
    TrainingSequence,
    check_lengths,
    collate,
    describe_cut,
    encode_examples,
    iterate_plan,
    plan_epoch,
    split_batch,
    split_shares,
)

RAGGED = [
    TrainingSequence([5, 6, 7], [8, 2]),
    TrainingSequence([9], [10, 11, 12, 2]),
    TrainingSequence([5], [2]),
]
LENGTHS = [int(n) for n in np.random.default_rng(0).integers(2, 40, 500)]


def test_examples_become_a_sequence_per_reference_that_ends_with_the_end_token(tmp_path):
    prompts = PromptEncoder(write_model(tmp_path), TEMPLATE)
    examples = [
        {"prompt": "fish", "references": SENTENCES[1:3]},
        {"prompt": "dogs", "references": [SENTENCES[2]]},
    ]
    end = tiny_tokenizer().token_to_id(END)
    found = encode_examples(examples, prompts, end, longest=200)
    fish, dogs = (prompts.encode(Request(text)) for text in ("fish", "dogs"))
    assert [s.prompt for s in found] == [fish, fish, dogs]
    assert [s.answer[-1] for s in found] == [end] * 3
    texts = [tiny_tokenizer().decode(s.answer) for s in found]
    assert texts == [SENTENCES[1], SENTENCES[2], SENTENCES[2]]


def test_sequences_without_positions_are_refused_not_cut():
    with pytest.raises(StillhouseError, match=r"1 of 3 .* longer than 4 .* \(the longest has 5\)"):
        check_lengths([TrainingSequence([1], [2]), RAGGED[0], RAGGED[2]], 4)


def test_answers_that_a_model_may_not_write_whole_are_counted():
    sequences = [TrainingSequence([1], list(range(length))) for length in (3, 5, 9)]
    assert describe_cut(sequences, 9, "a.setting") is None
    said = describe_cut(sequences, 4, "a.setting")
    assert said.startswith("2 of 3 training answers have more than 4 tokens (the longest 9)")
    assert "Raise a.setting" in said


def test_labels_are_all_answer_tokens_of_ragged_prompts_and_nothing_else():
    batch = collate(RAGGED, tokens=7)
    no = IGNORED
    assert batch.ids.tolist() == [[5, 6, 7, 8, 2], [9, 10, 11, 12, 2], [5, 2, 0, 0, 0]]
    assert batch.labels.tolist() == [
        [no, no, no, 8, 2],
        [no, 10, 11, 12, 2],
        [no, 2, no, no, no],
    ]
    assert batch.tokens == 7 and batch.teacher is None


@pytest.mark.parametrize("pad", [0, 2])
def test_the_end_token_is_learned_where_padding_has_its_id(pad):
    sequences = [TrainingSequence([5], [8, 9, pad]), TrainingSequence([5], [pad])]
    labels = collate(sequences, tokens=4).labels
    assert labels.tolist() == [[IGNORED, 8, 9, pad], [IGNORED, pad, IGNORED, IGNORED]]


def test_a_teacher_has_its_rows_where_the_loss_looks_for_them():
    def say(sequence):
        ids = np.array([[token, 99] for token in sequence.answer])
        logs = np.full(ids.shape, -1.0)
        return Distribution(ids, logs, logs[:, 0], logs[:, 0])

    taught = [TrainingSequence(s.prompt, s.answer, say(s)) for s in RAGGED]
    batch = collate(taught, tokens=7)
    _, targets = shift(batch.labels, batch.labels)
    assert batch.teacher.ids[:, 0].tolist() == targets.tolist() == [8, 2, 10, 11, 12, 2, 2]
    with pytest.raises(AssertionError, match="with and without a teacher"):
        collate([taught[0], RAGGED[1]], tokens=6)


def test_a_process_without_rows_gets_one_token_that_counts_for_nothing():
    batch = collate([], tokens=7)
    assert batch.ids.shape == (1, 2) and (batch.labels == IGNORED).all()


def test_an_epoch_has_every_sequence_once_and_no_batch_above_its_tokens():
    batches = plan_epoch(LENGTHS, 100, seed=1, epoch=0)
    assert sorted(index for batch in batches for index in batch) == list(range(500))
    padded = [len(batch) * max(LENGTHS[i] for i in batch) for batch in batches]
    assert max(padded) <= 100
    assert sum(LENGTHS) / sum(padded) > 0.9, "bucketed by length: little padding"


def test_a_sequence_above_the_batch_is_a_batch_of_its_own():
    batches = plan_epoch([3, 50, 3], 10, seed=0, epoch=0)
    assert sorted(map(sorted, batches)) == [[0, 2], [1]]


def test_order_is_a_function_of_seed_and_step():
    def first(count, **given):
        return list(islice(iterate_plan(LENGTHS, 100, **given), count))

    whole = first(400, seed=1)
    epoch = len(plan_epoch(LENGTHS, 100, 1, 0))
    assert epoch < 250, "the 400 batches reach into a further epoch"
    assert whole == first(400, seed=1)
    for start in (1, epoch - 1, epoch, epoch + 3, 300):
        assert first(5, seed=1, start=start) == whole[start : start + 5]
    assert whole[:epoch] != whole[epoch : 2 * epoch] and whole[:5] != first(5, seed=2)


def test_parts_hold_at_most_their_tokens_and_all_rows_in_order():
    rows = [4, 8, 15, 16, 23, 42]
    longest = max(LENGTHS[i] for i in rows)
    parts = split_batch(rows, LENGTHS, 2 * longest)
    assert [len(part) for part in parts] == [2, 2, 2] and parts[0] + parts[1] + parts[2] == rows
    assert [len(part) for part in split_batch(rows, LENGTHS, 1)] == [1] * 6
    assert split_batch(rows, LENGTHS, None) == [rows]


@pytest.mark.parametrize("micro", [None, 40, 80])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_processes_share_all_rows_and_meet_in_as_many_parts(micro, count):
    rows = [4, 8, 15, 16, 23]
    shares = split_shares(rows, LENGTHS, micro, count)
    assert len(shares) == count and len({len(parts) for parts in shares}) == 1
    assert sorted(index for parts in shares for part in parts for index in part) == rows


def test_batches_go_to_another_device_whole():
    moved = collate(RAGGED, tokens=7).to(torch.device("meta"))
    assert moved.ids.is_meta and moved.labels.is_meta and moved.tokens == 7
