"""The teacher as a paid endpoint: threads, bounds, and money that is gone once a call is made."""

import asyncio
from dataclasses import replace
from threading import Event

import pytest
from cascade_cases import item, refusal
from endpoint_predictors import CONTRACT, SAMPLE
from endpoint_server import SETTINGS, answers, endpoint_server, error
from tiny_models import write_model

from serving._cascade.endpoint_teacher import EndpointTeacher
from serving.contract import digest, write_contract
from serving.endpoint_settings import write_settings
from serving.errors import StillhouseError


def teacher_of(server, folder, contract=CONTRACT, **changes):
    settings = {"max_retries": 0, "concurrency": 1} | changes
    write_settings(folder, replace(SETTINGS, base_url=server.url, **settings))
    write_contract(folder, contract)
    return EndpointTeacher(folder, faults=2, open_s=60.0)


async def until(holds):
    while not holds():
        await asyncio.sleep(0.005)


def test_an_answer_comes_with_its_tokens_and_the_account_has_the_cost(tmp_path):
    async def check():
        with endpoint_server() as server:
            teacher = teacher_of(server, tmp_path)
            found = await teacher.answer(item(decoding={"max_new_tokens": 9}))
            assert found.choices[0].text == "echo of Say: fish"
            assert (found.prompt_tokens, found.choices[0].completion_tokens) == (2, 4)
            assert server.seen[0]["body"]["max_tokens"] == 9
            assert (teacher.usage.requests, teacher.usage.cost_usd) == (1, 0.002 + 0.04)
            assert teacher.model_sha256 == digest(tmp_path)
            await teacher.close()

    asyncio.run(check())


def test_samples_are_asked_for_as_the_item_says(tmp_path):
    async def check():
        with endpoint_server() as server:
            teacher = teacher_of(server, tmp_path, replace(CONTRACT, decoding=SAMPLE))
            asked = {"method": "sample", "temperature": 0.3, "answers": 1, "seed": 5}
            found = await teacher.answer(item(decoding=asked, answers=2))
            assert len(found.choices) == 2
            assert server.seen[0]["body"]["temperature"] == 0.3
            await teacher.close()

    asyncio.run(check())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"answers": 2}, "invalid_request"),
        ({"decoding": {"method": "beam", "beams": 2}}, "invalid_request"),
        ({"decoding": {"unknown": 1}}, "invalid_request"),
        ({"prompt": "x" * 201}, "prompt_too_long"),
    ],
)
def test_what_no_endpoint_can_do_is_refused_and_not_paid(tmp_path, changes, expected):
    async def check():
        with endpoint_server() as server:
            teacher = teacher_of(server, tmp_path)
            assert (await refusal(teacher.answer(item(**changes)))).refusal == expected
            assert server.seen == [] and teacher.is_available
            await teacher.close()

    asyncio.run(check())


@pytest.mark.parametrize("timeout_s", [None, 0.05], ids=["left", "expired"])
def test_a_call_that_nobody_waits_for_any_more_is_counted_as_wasted(tmp_path, timeout_s):
    async def check():
        held = replace(answers("late", prompt_tokens=5), hold=Event())
        with endpoint_server(held) as server:
            teacher = teacher_of(server, tmp_path)
            task = asyncio.create_task(teacher.answer(item(timeout_s=timeout_s)))
            await until(lambda: server.seen)
            if timeout_s is None:
                task.cancel()
            await asyncio.wait([task])
            assert teacher.counts.wasted == 0
            busy = await refusal(teacher.answer(item()))  # its place is taken all the same
            held.hold.set()
            await until(lambda: teacher.counts.wasted)
            assert (busy.refusal, teacher.counts.wasted_tokens) == ("overloaded", 6)
            assert teacher.usage.completion_tokens == 1  # paid
            await until(lambda: not teacher._under_way)
            assert (await teacher.answer(item())).choices[0].text == "echo of Say: fish"
            await teacher.close()

    asyncio.run(check())


def test_faults_in_a_row_leave_it_alone_and_a_refusal_is_none(tmp_path):
    async def check():
        with endpoint_server(error(500), error(400), error(500), error(500)) as server:
            teacher = teacher_of(server, tmp_path)
            found = []
            for _ in range(5):
                found.append(await refusal(teacher.answer(item())))
                await until(lambda: not teacher._under_way)
            kinds = [one.refusal for one in found]
            assert kinds == ["unavailable", "invalid_request", *["unavailable"] * 3]
            assert len(server.seen) == 4 and not teacher.is_available
            assert all("fish" not in one.message for one in found)
            await teacher.close()

    asyncio.run(check())


def test_what_would_cost_more_than_is_left_is_not_sent(tmp_path):
    async def check():
        with endpoint_server() as server:
            teacher = teacher_of(server, tmp_path)
            teacher.limit_cost(0.0001)
            assert (await refusal(teacher.answer(item()))).refusal == "rate_limited"
            assert server.seen == []
            await teacher.close()

    asyncio.run(check())


def test_a_folder_of_another_engine_is_refused(tmp_path):
    with pytest.raises(StillhouseError, match="not endpoint"):
        EndpointTeacher(write_model(tmp_path / "model"))
