"""The way of a request: what reaches a model, what is kept, what is paid, and what is told."""

import asyncio

import pytest
from cascade_cases import answer, refusal
from flow_cases import MOST_USD, SURE, TAUGHT, UNSURE, Way, phrase_list

from serving._items import ServiceError

MAIL = "write to ann@example.com"


def run(work):
    return asyncio.run(work())


def test_a_blocked_prompt_reaches_no_model_and_costs_nothing(tmp_path):
    async def work():
        way = Way(policy="blocked.in=block", phrases=phrase_list(tmp_path, "rotten"), usd=MOST_USD)
        assert (await refusal(way.ask("a rotten fish"))).refusal == "blocked"
        assert set(way.asked().values()) == {0}
        assert way.given == way.spent == []
        assert await way.has_left(MOST_USD)

    run(work)


def test_models_see_a_masked_prompt():
    async def work():
        way = Way(policy="personal.in=mask")
        given = await way.ask(MAIL, slots={"to": "ann@example.com"})
        (seen,) = way.rungs.models["student"].asked
        assert seen.prompt == given.item.prompt == "write to [email]"
        assert seen.slots == {"to": "[email]"}

    run(work)


@pytest.mark.parametrize("policy", ["", "personal.in=mask"])
def test_personal_data_is_not_kept_and_goes_to_no_remote_rung(policy):
    async def work():
        way = Way(student=UNSURE, otherwise="answer", policy=policy)
        for _ in range(2):
            given = await way.ask(MAIL)
            assert (given.source, given.rung, given.sure) == ("off", "student", False)
        assert way.asked() == {"baseline": 2, "student": 2, "teacher": 0}

    run(work)


def test_personal_data_whose_answer_is_sure_is_not_kept_either():
    async def work():
        way = Way()
        sources = [(await way.ask(MAIL)).source for _ in range(2)]
        assert sources == ["off", "off"] and way.asked()["student"] == 2

    run(work)


def test_an_unchecked_prompt_goes_to_no_remote_rung():
    async def work():
        way = Way(student=UNSURE, policy="personal.in=off")
        given = await way.ask()
        assert given.answer is None
        assert given.tried[-1].outcome == "remote_forbidden" and way.asked()["teacher"] == 0

    run(work)


def test_a_second_equal_request_is_answered_from_memory_for_nothing():
    async def work():
        way = Way(usd=MOST_USD + 0.12)
        first, second = await way.ask(id="1"), await way.ask(id="2")
        assert (first.source, second.source) == ("miss", "memory")
        assert first.usage["cost_usd"] == pytest.approx(0.11)
        assert (second.usage["cost_usd"], second.tried) == (0.0, ())
        assert (second.answer.id, second.choice, second.rung) == ("2", first.choice, "student")
        assert way.asked()["student"] == 1

    run(work)


def test_from_memory_even_a_spent_budget_is_answered():
    async def work():
        way = Way(usd=MOST_USD)
        await way.ask()
        assert (await way.ask()).source == "memory"
        assert (await refusal(way.ask("pie"))).refusal == "budget_exceeded"

    run(work)


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant": "blue"},
        {"context": "menu"},
        {"slots": {"a": "b"}},
        {"decoding": {"max_new_tokens": 9}},
    ],
)
def test_another_tenant_or_another_request_is_answered_anew(changes):
    async def work():
        way = Way()
        await way.ask()
        assert (await way.ask(**changes)).source == "miss"
        assert way.asked()["student"] == 2

    run(work)


@pytest.mark.parametrize(
    ("student", "otherwise", "policy"),
    [
        (UNSURE, "answer", ""),
        (UNSURE, "abstain", ""),
        (answer(f"please {MAIL}", mean=-0.1), "abstain", "personal.out=mask"),
    ],
)
def test_an_unsure_a_missing_and_a_masked_answer_are_not_kept(student, otherwise, policy):
    async def work():
        teacher = ServiceError("unavailable", "away")
        way = Way(student, teacher, otherwise=otherwise, policy=policy)
        assert [(await way.ask()).source for _ in range(2)] == ["miss", "miss"]
        assert way.asked()["student"] == 2

    run(work)


def test_an_answer_is_masked_and_the_models_own_is_not_given():
    async def work():
        way = Way(answer(f"please {MAIL}", mean=-0.1), policy="personal.out=mask")
        given = await way.ask()
        assert given.choice.text == "please write to [email]"
        assert (given.guard_out.action, given.guard_out.state) == ("mask", "found")

    run(work)


def test_a_sample_without_a_seed_is_neither_looked_up_nor_kept():
    async def work():
        way = Way()
        await way.ask()
        assert (await way.ask(cacheable=False)).source == "off"
        assert way.asked()["student"] == 2

    run(work)


def test_a_cache_that_is_off_keeps_nothing():
    async def work():
        way = Way(cached=False)
        assert [(await way.ask()).source for _ in range(2)] == ["off", "off"]

    run(work)


def test_an_answer_from_memory_is_guarded_again(tmp_path):
    async def work():
        file = phrase_list(tmp_path, "nothing-yet")
        way = Way(policy="blocked.out=block", phrases=file)
        await way.ask()
        other = Way(policy="blocked.out=block", phrases=phrase_list(tmp_path, "sure fish"))
        way.flow.parts = type(way.parts)(**{**vars(way.parts), "guard": other.parts.guard})
        assert (await refusal(way.ask())).refusal == "blocked"
        assert way.asked()["student"] == 1

    run(work)


def test_a_blocked_answer_is_refused_and_paid_for(tmp_path):
    async def work():
        phrases = phrase_list(tmp_path, "sure fish")
        way = Way(policy="blocked.out=block", phrases=phrases, usd=MOST_USD)
        error = await refusal(way.ask())
        assert error.refusal == "blocked" and "sure" not in error.message
        assert way.spent == [("anonymous", ["baseline", "student"])] and way.given == []
        assert await way.has_left(MOST_USD - 0.11)

    run(work)


def test_the_most_is_reserved_before_and_what_was_tried_is_charged_after():
    async def work():
        way = Way(usd=2 * MOST_USD, cached=False)
        model = way.rungs.models["student"]
        model.go.clear()
        asked = asyncio.create_task(way.ask())
        await model.arrived.wait()
        assert await way.has_left(MOST_USD)
        model.go.set()
        await asked
        assert await way.has_left(2 * MOST_USD - 0.11)

    run(work)


def test_of_a_caller_who_left_all_that_was_reserved_is_spent():
    async def work():
        way = Way(usd=2 * MOST_USD, cached=False)
        model = way.rungs.models["student"]
        model.go.clear()
        asked = asyncio.create_task(way.ask())
        await model.arrived.wait()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert model.cancelled == 1
        assert await way.has_left(MOST_USD)

    run(work)


def test_a_request_over_the_budget_asks_no_model():
    async def work():
        way = Way(usd=MOST_USD - 0.01)
        assert (await refusal(way.ask())).refusal == "budget_exceeded"
        assert set(way.asked().values()) == {0} and way.spent == []

    run(work)


def test_what_was_tried_is_told_also_when_all_rungs_fail():
    async def work():
        fault = ServiceError("unavailable", "away")
        way = Way(fault, fault, usd=MOST_USD)
        way.rungs.models["baseline"].given = fault
        assert (await refusal(way.ask(tenant="acme"))).refusal == "unavailable"
        assert way.spent == [("acme", ["baseline", "student", "teacher"])]
        assert way.given == []

    run(work)


def test_of_rungs_that_fail_only_those_that_answered_are_charged():
    async def work():
        refused = answer("", mean=None).model_copy(update={"choices": []})
        way = Way(ServiceError("overloaded", "full"), refused, usd=MOST_USD)
        given = await way.ask()  # the baseline was unsure, so that the cascade abstains
        assert given.answer is None and given.usage["cost_usd"] == pytest.approx(1.01)
        assert await way.has_left(MOST_USD - 1.01)

    run(work)


def test_equal_requests_at_once_are_one_computation():
    async def work():
        way = Way(usd=10 * MOST_USD)
        model = way.rungs.models["student"]
        model.go.clear()
        asked = [asyncio.create_task(way.ask(id=str(n))) for n in range(5)]
        await model.arrived.wait()
        model.go.set()
        given = await asyncio.gather(*asked)
        assert sorted(one.source for one in given) == ["miss"] + ["shared"] * 4
        assert way.asked()["student"] == 1 and len(way.spent) == 1

    run(work)


def test_one_who_leaves_does_not_take_an_equal_request_along():
    async def work():
        way = Way()
        model = way.rungs.models["student"]
        model.go.clear()
        first, second = (asyncio.create_task(way.ask(id=n)) for n in "12")
        await model.arrived.wait()
        first.cancel()
        model.go.set()
        assert (await second).choice.text == SURE.choices[0].text

    run(work)


def test_all_that_was_given_is_told_with_its_time():
    async def work():
        way = Way(student=UNSURE)
        given = [await way.ask(), await way.ask()]
        assert way.given == given
        assert [one.source for one in given] == ["miss", "memory"]
        assert given[0].choice.text == TAUGHT.choices[0].text
        assert all(one.seconds > 0 for one in given) and given[0].uncertainty is not None

    run(work)
