"""The estimate of what labels will cost, against figures worked out by hand."""

from dataclasses import replace

import pytest
from endpoint_server import SETTINGS

from serving._endpoint_account import Usage
from stages._labels import estimate_labels

PLAIN = replace(SETTINGS, api="completions")  # 1 and 10 USD per 1000 tokens
NOTHING = (0, Usage())


def estimate(settings=PLAIN, paid=NOTHING, references=("x" * 20, "x" * 60), **changes):
    arguments = {"prompts": ["p" * 80, "p" * 120], "count": 1000, "answers": 1}
    arguments |= {"max_new_tokens": 50} | changes
    return estimate_labels(references=references, settings=settings, paid=paid, **arguments)


def test_tokens_are_four_characters_and_answers_as_long_as_references():
    found = estimate()
    # 100 characters a prompt, 40 a reference, and an end token
    assert (found.prompt_tokens, found.completion_tokens) == (25_000, 11_000)
    assert found.usd == pytest.approx(25.0 + 110.0)
    # a byte a token, answers that never end
    assert found.usd_at_most == pytest.approx(100.0 + 500.0)
    assert found.basis == "4 characters a token, answers as long as training references"


def test_a_chat_template_has_tokens_of_its_own():
    assert estimate(SETTINGS).prompt_tokens == 25_000 + 32_000


def test_several_answers_are_written_each_and_read_once_if_the_server_can():
    found = estimate(answers=3)
    assert (found.prompt_tokens, found.completion_tokens) == (25_000, 33_000)
    assert found.usd_at_most == pytest.approx(3 * 600.0)


def test_no_answer_is_expected_to_be_longer_than_it_may():
    assert estimate(max_new_tokens=6).completion_tokens == 6_000
    assert estimate(references=()).completion_tokens == 50_000


def test_what_was_paid_before_tells_better():
    paid = (40, Usage(prompt_tokens=40 * 31, completion_tokens=40 * 17))
    found = estimate(paid=paid)
    assert (found.prompt_tokens, found.completion_tokens) == (31_000, 17_000)
    assert found.basis == "the average of 40 answered prompts"
    assert estimate(paid=(19, paid[1])) == estimate()


def test_the_most_is_never_less_than_what_is_expected():
    paid = (40, Usage(prompt_tokens=40 * 500, completion_tokens=40 * 60))
    found = estimate(paid=paid)
    assert found.usd_at_most == found.usd == pytest.approx(500.0 + 600.0)


def test_letters_of_several_bytes_may_be_as_many_tokens():
    assert estimate(prompts=["é" * 100]).usd_at_most == pytest.approx(200.0 + 500.0)


def test_nothing_to_ask_costs_nothing():
    found = estimate(prompts=[], count=0)
    assert (found.usd, found.usd_at_most, found.prompts) == (0.0, 0.0, 0)
