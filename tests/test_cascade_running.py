"""The cascade: who is asked, whose answer is given, what it costs, and who never sees a prompt."""

import asyncio
import logging
from dataclasses import replace

import pytest
from cascade_cases import (
    BASELINE,
    LOCAL_TEACHER,
    RUNGS,
    STUDENT,
    TEACHER,
    Model,
    Rungs,
    answer,
    item,
    refusal,
    remote,
)

from serving._cascade.running import CascadeError
from serving._items import Answer, ServiceError

SURE, UNSURE = answer("sure", confidence=0.8), answer("unsure", confidence=0.79)
NEAR, FAR = answer("near", mean=-0.1), answer("far", mean=-0.3)


def route(rungs, personal=False, **changes):
    return asyncio.run(rungs.cascade.answer(item(**changes), personal=personal))


def outcomes(tried):
    return [(one.rung, one.outcome) for one in tried]


def test_the_first_rung_at_its_threshold_answers_and_no_other_is_asked():
    rungs = Rungs(SURE, NEAR, answer("best"))
    found = route(rungs)
    assert (found.answer, found.rung, found.sure) == (SURE, "baseline", True)
    assert rungs.asked() == {"baseline": 1, "student": 0, "teacher": 0}
    assert (found.tried[0].score, found.tried[0].threshold) == (0.8, 0.8)


def test_below_a_threshold_the_next_is_asked_and_all_that_were_tried_cost():
    rungs = Rungs(UNSURE, FAR, answer("best"))
    found = route(rungs)
    assert found.answer is not None and found.answer.choices[0].text == "best"
    assert outcomes(found.tried) == [
        ("baseline", "unsure"),
        ("student", "unsure"),
        ("teacher", "accepted"),
    ]
    # each its own price, and its half of the two seconds of a micro-batch of two
    assert [one.cost_usd for one in found.tried] == [2.0, 11.0, 101.0]
    assert [(one.prompt_tokens, one.completion_tokens) for one in found.tried] == [(10, 5)] * 3
    assert tuple(rungs.seen) == found.tried


@pytest.mark.parametrize("score", [None, float("nan")])
def test_an_answer_without_a_score_is_not_sure(score):
    assert route(Rungs(answer("x", confidence=score), NEAR)).rung == "student"


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (ServiceError("unavailable", "gone"), "unavailable"),
        (ServiceError("overloaded", "busy"), "unavailable"),
        (ServiceError("rate_limited", "no money"), "over_budget"),
        (Answer(id="one", refusal="prompt_too_long"), "refused"),
        (Answer(id="one"), "unavailable"),
        (None, "unavailable"),
    ],
)
def test_a_rung_that_gives_nothing_is_passed_over_and_told(given, outcome):
    found = route(Rungs(SURE, given, answer("best"), rungs=(STUDENT, TEACHER)))
    assert (found.rung, found.sure) == ("teacher", True)
    assert outcomes(found.tried)[0] == ("student", outcome)


def test_a_fault_of_ours_is_passed_over_and_logged_without_its_text(caplog):
    caplog.set_level(logging.ERROR)
    found = route(Rungs(ValueError("fish"), NEAR))
    assert (found.rung, found.tried[0].outcome) == ("student", "unavailable")
    assert "ValueError" in caplog.text and "fish" not in caplog.text


# --- Personal data --------------------------------------------------------------------------------


@pytest.mark.parametrize("personal", [True, None], ids=["found", "nobody looked"])
def test_personal_data_never_reaches_a_remote_server(personal):
    async def check():
        async with remote() as (server, teacher):
            rungs = Rungs(UNSURE, FAR, teacher)
            found = await rungs.cascade.answer(item("I am Ann"), personal=personal)
            shadow = await rungs.cascade.shadow("teacher", item("I am Ann"), personal=personal)
            assert server.seen == [] and not server.connections
            assert found.tried[-1].outcome == shadow[1].outcome == "remote_forbidden"
            assert found.answer is None and shadow[0] is None and found.tried[-1].cost_usd == 0
            await rungs.cascade.answer(item("fish"), personal=False)
            assert len(server.seen) == 1  # it would have been asked

    asyncio.run(check())


def test_a_local_teacher_may_see_personal_data():
    found = route(Rungs(UNSURE, FAR, answer("best"), rungs=LOCAL_TEACHER), personal=True)
    assert found.rung == "teacher"


# --- Nobody is sure -------------------------------------------------------------------------------


def test_nobody_sure_is_no_answer_where_the_route_abstains():
    found = route(Rungs(UNSURE, FAR), personal=True)
    assert (found.answer, found.rung, found.sure) == (None, None, False)


def test_nobody_sure_is_the_last_local_answer_marked_where_the_route_answers():
    sure_from = replace(TEACHER, threshold=0.0)
    rungs = Rungs(
        UNSURE,
        FAR,
        answer("best", mean=-0.9),
        rungs=(BASELINE, STUDENT, sure_from),
        otherwise="answer",
    )
    found = route(rungs)
    assert (found.answer, found.rung, found.sure) == (FAR, "student", False)


def test_where_all_fail_the_request_fails_as_the_one_that_may_pass_soonest():
    rungs = Rungs(
        Answer(id="one", refusal="prompt_too_long"),
        ServiceError("unavailable", "gone", 2.0),
        otherwise="answer",
    )
    error = asyncio.run(refusal(rungs.cascade.answer(item(), personal=True)))
    assert isinstance(error, CascadeError)
    assert (error.refusal, error.retry_after_s) == ("unavailable", 2.0)
    assert [one.outcome for one in error.tried] == ["refused", "unavailable", "remote_forbidden"]


# --- What a rung cannot do ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {"decoding": {"method": "sample", "temperature": 1.0}},
        {"answers": 2},
        {"decoding": {"method": "beam", "beams": 2}, "answers": 2},
    ],
)
def test_the_baseline_is_not_asked_for_samples_or_several_answers(asked):
    rungs = Rungs(SURE, NEAR)
    found = route(rungs, **asked)
    assert (found.rung, rungs.asked()["baseline"]) == ("student", 0)
    assert found.tried[0].outcome == "refused" and found.tried[0].cost_usd == 0


def test_an_answer_of_the_baseline_that_is_longer_than_asked_is_not_given():
    assert route(Rungs(SURE, NEAR), decoding={"max_new_tokens": 4}).rung == "student"
    assert route(Rungs(SURE, NEAR), decoding={"max_new_tokens": 5}).rung == "baseline"


# --- Time -----------------------------------------------------------------------------------------


def test_each_rung_gets_the_time_that_is_left():
    rungs = Rungs(UNSURE, FAR, answer("best"))
    route(rungs, timeout_s=9.0)
    given = [model.asked[0].timeout_s for model in rungs.models.values()]
    assert 9.0 >= given[0] > given[1] > given[2] > 0


def test_a_request_without_a_deadline_has_none():
    rungs = Rungs(SURE)
    route(rungs)
    assert rungs.models["baseline"].asked[0].timeout_s is None


def test_time_that_is_over_is_told_with_what_was_tried_and_ends_the_rung():
    async def check():
        slow = Model(NEAR, go=False)
        rungs = Rungs(UNSURE, slow, answer("best"))
        error = await refusal(rungs.cascade.answer(item(timeout_s=0.06), personal=False))
        assert isinstance(error, CascadeError) and error.refusal == "expired"
        assert outcomes(error.tried) == [("baseline", "unsure"), ("student", "unavailable")]
        assert slow.cancelled == 1 and rungs.asked()["teacher"] == 0
        assert tuple(rungs.seen) == error.tried

    asyncio.run(check())


def test_a_caller_who_leaves_cancels_the_rung_being_asked():
    async def check():
        slow = Model(NEAR, go=False)
        rungs = Rungs(UNSURE, slow, answer("best"))
        task = asyncio.create_task(rungs.cascade.answer(item(), personal=False))
        await slow.arrived.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() and slow.cancelled == 1 and rungs.asked()["teacher"] == 0

    asyncio.run(check())


# --- Side by side ---------------------------------------------------------------------------------


def test_requests_at_once_keep_their_own_answers_and_costs():
    class Mixed:
        async def answer(self, asked):
            await asyncio.sleep(0)
            return answer(asked.id, confidence=1.0 if int(asked.id) % 2 else 0.0)

    async def check():
        rungs = Rungs(Mixed(), NEAR)
        work = [rungs.cascade.answer(item(id=str(n)), personal=False) for n in range(40)]
        for number, found in enumerate(await asyncio.gather(*work)):
            assert found.rung == ("baseline" if number % 2 else "student")
            assert len(found.tried) == (1 if number % 2 else 2)
            assert number % 2 == 0 or found.answer.choices[0].text == str(number)

    asyncio.run(check())


def test_a_shadow_is_priced_and_not_observed():
    rungs = Rungs(SURE, NEAR)
    found, tried = asyncio.run(rungs.cascade.shadow("student", item(), personal=False))
    assert (found, tried.outcome, tried.cost_usd) == (NEAR, "accepted", 11.0)
    assert rungs.seen == []


def test_a_shadow_of_a_rung_that_fails_or_is_no_part_of_the_route_is_no_error():
    rungs = Rungs(SURE, ServiceError("unavailable", "gone"), NEAR, rungs=RUNGS[:2])
    for name in ("student", "teacher"):
        found, tried = asyncio.run(rungs.cascade.shadow(name, item(), personal=False))
        assert found is None and (tried.rung, tried.outcome) == (name, "unavailable")
