"""The teacher's service when it refuses, fails or is late: what is told, when it is left alone."""

import asyncio

import pytest
from cascade_cases import DIGEST, KEY, completion, item, refusal, remote

from serving._cascade.teacher import TeacherService
from serving._items import ServiceError


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (422, "context_length_exceeded", "prompt_too_long"),
        (413, "request_too_large", "body_too_large"),
        (422, "invalid_value", "invalid_request"),
        (503, "deadline_exceeded", "expired"),
        (401, "invalid_api_key", "unavailable"),
        (404, "model_not_found", "unavailable"),
        (307, "x", "unavailable"),
        (500, "internal_error", "unavailable"),
    ],
)
def test_what_the_service_refuses_is_told_without_its_words(status, code, expected):
    async def check():
        async with remote() as (server, teacher):
            error = {"error": {"code": code, "message": "fish"}}
            server.script = [(status, {"location": "/v1/completions"}, error)]
            found = await refusal(teacher.answer(item()))
            assert found.refusal == expected and "fish" not in found.message
            assert len(server.seen) == 1 and teacher.is_available

    asyncio.run(check())


@pytest.mark.parametrize("status", [429, 503])
def test_a_wish_to_be_left_alone_is_granted(status):
    async def check():
        async with remote() as (server, teacher):
            server.script = [(status, {"retry-after": "30"})]
            first = await refusal(teacher.answer(item()))
            second = await refusal(teacher.answer(item()))
            assert first.refusal == second.refusal == "unavailable"
            assert second.retry_after_s is not None and 29 < second.retry_after_s <= 30
            assert len(server.seen) == 1 and teacher.counts.held_back == 1

    asyncio.run(check())


def test_after_faults_in_a_row_it_is_left_alone_and_one_request_tries():
    async def check():
        async with remote(faults=2, open_s=0.05) as (server, teacher):
            server.script = [(500, {}), completion(), (500, {}), (500, {})]
            for _ in range(4):
                await asyncio.gather(teacher.answer(item()), return_exceptions=True)
            assert not teacher.is_available
            await refusal(teacher.answer(item()))
            assert len(server.seen) == 4  # what came between was a success, so it took two more
            while (await asyncio.gather(teacher.answer(item()), return_exceptions=True))[
                0
            ].__class__ is ServiceError:
                await asyncio.sleep(0.005)
            assert teacher.is_available and len(server.seen) == 5

    asyncio.run(check())


def test_a_service_that_is_not_there_is_unavailable():
    async def check():
        async with remote() as (server, _):
            url = server.url
        teacher = TeacherService(url, KEY, model_sha256=DIGEST)
        error = await refusal(teacher.answer(item()))
        assert (error.refusal, teacher.counts.faults) == ("unavailable", 1)
        await teacher.close()

    asyncio.run(check())


def test_more_than_may_be_under_way_are_refused_at_once():
    async def check():
        async with remote(most=1) as (server, teacher):
            server.go.clear()
            first = asyncio.create_task(teacher.answer(item()))
            await server.arrived.wait()
            error = await refusal(teacher.answer(item()))
            assert (error.refusal, teacher.counts.shed) == ("overloaded", 1)
            server.go.set()
            await first
            await teacher.answer(item())

    asyncio.run(check())


# --- Time and leaving -----------------------------------------------------------------------------


def test_time_that_is_over_ends_the_request_at_the_service():
    async def check():
        async with remote(faults=1) as (server, teacher):
            server.go.clear()
            while not server.arrived.is_set():  # a busy machine may take longer to get there
                error = await refusal(teacher.answer(item(timeout_s=0.3)))
            assert error.refusal == "expired" and teacher.counts.expired == teacher.counts.asked
            await asyncio.wait_for(server.left.wait(), 30)
            assert teacher.is_available  # so short a time is no fault of the teacher's

    asyncio.run(check())


def test_a_caller_who_leaves_closes_the_connection():
    async def check():
        async with remote() as (server, teacher):
            server.go.clear()
            task = asyncio.create_task(teacher.answer(item()))
            await server.arrived.wait()
            task.cancel()
            await asyncio.wait([task])
            await asyncio.wait_for(server.left.wait(), 30)
            assert (teacher.counts.left, teacher.counts.faults) == (1, 0)

    asyncio.run(check())
