"""The score `checked`: an answer that is seen to be wrong is not accepted."""

import asyncio
import logging
from dataclasses import replace

import pytest
from cascade_cases import STUDENT, Rungs, answer, item
from toy import SCHEMA, example

from serving._cascade.scoring import FOUND_COSTS, checked_score, is_suspect
from serving._live.checks import BRIEF_CHARS, AnswerChecks
from serving.slots import SlotSchema

PARSED = SlotSchema.from_dict(SCHEMA)
PUB = example("The Eagle", "fish", "yes")
RIGHT, WRONG = PUB["references"][0], PUB["references"][0].replace("fish", "pasta")
RUNG = replace(STUDENT, score="checked", threshold=-1.0)


def given(text, schema=PARSED, rung=RUNG, prompt=PUB["prompt"]):
    said = answer(text)
    scored = said.choices[0].model_copy(update={"min_logprob": -0.5})
    said = said.model_copy(update={"choices": [scored]})
    rungs = Rungs(None, said, checks=AnswerChecks(schema), rungs=(rung,))
    found = asyncio.run(rungs.cascade.answer(item(prompt), personal=False))
    return found.tried[0].outcome, found.tried[0].score


def test_an_answer_with_an_error_scores_far_less_and_is_not_accepted():
    assert given(RIGHT) == ("accepted", -0.5)
    assert given(WRONG) == ("unsure", -0.5 - FOUND_COSTS)


def test_a_threshold_that_was_calibrated_to_allow_it_accepts_it():
    low = replace(RUNG, threshold=-200.0)
    assert given(WRONG, rung=low) == ("accepted", -0.5 - FOUND_COSTS)


def test_without_a_schema_or_a_record_it_is_the_least_log_probability():
    assert given(WRONG, schema=None) == ("accepted", -0.5)
    assert given(WRONG, prompt="where to eat?") == ("accepted", -0.5)


def test_a_long_text_is_checked_too():
    padding = " It is a fine evening." * (BRIEF_CHARS // 20)
    assert given(WRONG + padding)[0] == "unsure"
    assert given(RIGHT + padding)[0] == "accepted"


def test_other_scores_are_not_checked():
    rung = replace(RUNG, score="min_logprob")
    assert given(WRONG, rung=rung) == ("accepted", -0.5)


def test_a_check_that_fails_accepts_nothing_and_tells_no_text(caplog):
    class Broken:
        """A schema that nothing can be looked up in."""

    caplog.set_level(logging.ERROR)
    assert given(RIGHT, schema=Broken()) == ("unsure", -0.5 - FOUND_COSTS)
    assert "the slot check failed: AttributeError" in caplog.text
    assert "Eagle" not in caplog.text


def test_a_rung_that_needs_checks_is_refused_without_them():
    with pytest.raises(ValueError, match="expected its checks"):
        Rungs(None, answer("x"), rungs=(RUNG,))


def test_a_model_without_log_probabilities_is_scored_by_its_confidence():
    assert checked_score(None, 0.9, is_suspect=True) == 0.9 - FOUND_COSTS
    assert checked_score(-0.5, 0.9, is_suspect=False) == -0.5
    assert checked_score(None, None, is_suspect=True) is None


def test_an_answer_too_long_to_be_read_to_its_end_is_suspect():
    assert not is_suspect(RIGHT, PUB["slots"], PARSED)
    assert is_suspect(RIGHT + " " * 1_000_000, PUB["slots"], PARSED)
