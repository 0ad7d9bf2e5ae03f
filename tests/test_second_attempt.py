"""Greedy decoding is checked, and only what is wrong is asked again, with beams."""

from dataclasses import replace

import pytest
from tiny_models import word_schema, write_model

from serving.completion import Request
from serving.contract import read_contract
from serving.transformers_engine import TransformersPredictor

REQUESTS = [Request(text) for text in ("fish", "dogs", "The Mill serves {curry}…", "eu-west-1 1.8")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def predictor_of(folder, **decoding):
    contract = read_contract(folder)
    settings = {**contract.decoding, "max_new_tokens": 8, **decoding}
    return TransformersPredictor(folder, replace(contract, decoding=settings), device="cpu")


def checked(folder, word, answers):
    """A predictor that asks again for every answer without `word`."""
    contract = read_contract(folder)
    decoding = {**contract.decoding, "max_new_tokens": 8, "answers": answers}
    return TransformersPredictor(
        folder, replace(contract, decoding=decoding, slot_schema=word_schema(word)), device="cpu"
    )


def test_greedy_is_asked_again_with_beams_where_its_answer_has_slot_errors(folder):
    first, *rest = predictor_of(folder).answer(REQUESTS)
    beams = predictor_of(folder, method="beam", beams=4)
    others = [answer.text for answer in beams.answer_many(REQUESTS[:1], 4)[0]]
    word = next(text for text in others if text not in first.text).strip()
    wanted = [replace(r, slots={"word": "it"} if r is REQUESTS[0] else {}) for r in REQUESTS]
    predictor = checked(folder, word, answers=4)
    asked, many = [], predictor.second.answer_many
    predictor.second.answer_many = lambda found, count: asked.append(found) or many(found, count)
    chosen, *others = predictor.answer(wanted)
    assert word in chosen.text and word not in first.text
    assert [answer.text for answer in others] == [answer.text for answer in rest]
    assert asked == [wanted[:1]], "only what was wrong is asked again"
    assert list(predictor.stream(wanted[0])) == [chosen.text]


def test_what_cannot_be_checked_is_answered_and_streamed_as_plain_greedy(folder):
    plain = predictor_of(folder)
    expected = [answer.text for answer in plain.answer(REQUESTS)]
    free_text = checked(folder, "never", answers=4)
    assert [a.text for a in free_text.answer(REQUESTS)] == expected, "these prompts are no records"
    without_schema = predictor_of(folder, answers=4)
    assert [a.text for a in without_schema.answer(REQUESTS)] == expected
    assert list(without_schema.stream(REQUESTS[0])) == list(plain.stream(REQUESTS[0]))


def test_the_second_attempt_shows_the_same_examples(folder):
    shots = object()
    one = checked(folder, "never", answers=2)
    given = (one.model, one.ends, one.prompts, one.contract)
    assert TransformersPredictor.around(*given, shots).second.shots is shots
