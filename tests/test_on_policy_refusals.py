"""What on-policy distillation refuses: models, tokenizers, prompts and settings that do not fit."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from on_policy_cases import SHORT, decoder, fast, train_in
from tiny_models import ANSWER, tiny_tokenizer
from tokenizers import Tokenizer

from serving.errors import StillhouseError


@pytest.fixture
def train(tmp_path):
    return partial(train_in, tmp_path)


def test_models_that_do_not_fit_are_refused(train):
    size = tiny_tokenizer().get_vocab_size()
    for student, teacher in ((size - 1, size), (size, size - 1), (size + 8, size)):
        models = decoder(vocab_size=student), decoder(vocab_size=teacher)
        with pytest.raises(StillhouseError, match=f"found {student} and {teacher}"):
            train(SHORT, *models)


def renamed(old, new):
    text = tiny_tokenizer().to_str()
    return Tokenizer.from_str(text.replace(f'"{old}"', f'"{new}"'))


def test_another_tokenizer_is_refused_by_its_first_difference(train):
    larger = Tokenizer.from_str(tiny_tokenizer().to_str())
    larger.add_tokens(["zzz"])
    size = larger.get_vocab_size()
    lowercase = Tokenizer.from_str(tiny_tokenizer().to_str())
    lowercase.add_special_tokens([])
    lowercase.pre_tokenizer = None
    for tokenizer, found in (
        (fast(larger), f"found {size - 1} tokens and {size}"),
        (fast(renamed(ANSWER, "<|reply|>")), r"token 1 is '<\|answer\|>' and '<\|reply\|>'"),
        (fast(tiny_tokenizer(), end=ANSWER), r"answers end with '<\|end\|>' and '<\|answer\|>'"),
        (fast(lowercase), "other rules to cut text"),
    ):
        with pytest.raises(StillhouseError, match=found):
            train(teacher_tokenizer=tokenizer)


def test_a_tokenizer_without_end_is_refused(train):
    with pytest.raises(StillhouseError, match="names no end token"):
        train(tokenizer=fast(tiny_tokenizer(), end=None))


def test_prompts_that_do_not_fit_are_refused_and_not_cut(train):
    for given, found in (
        ([[5], [5] * 89], "prompt 1 has 89 tokens; with 8 new .* the student's 96 positions"),
        ([[5], []], r"an empty one \(number 1\)"),
        ([], "found none"),
        ([[5, 5000]], "token ids below 320, found 5000"),
    ):
        with pytest.raises(StillhouseError, match=found):
            train(prompts=given)
    with pytest.raises(StillhouseError, match="the teacher's 40 positions"):
        train(teacher=decoder(max_position_embeddings=40), prompts=[[5] * 33])
    train(replace(SHORT, steps=1), prompts=[[5] * 88])


def test_a_loss_that_is_not_finite_is_an_error(train):
    teacher = decoder(seed=1)
    with torch.no_grad():
        teacher.model.norm.weight[0] = math.nan
    with pytest.raises(StillhouseError, match=r"on-policy step 1: the loss is nan. Lower"):
        train(teacher=teacher)


def test_wrong_settings_are_named_together():
    with pytest.raises(ValueError, match=r"steps: .* found 0; .*beta: expected 0 to 1, found 2"):
        replace(SHORT, steps=0, beta=2.0)
    with pytest.raises(ValueError, match="passes_per_step 3 does not divide"):
        replace(SHORT, passes_per_step=3)
