"""One computation for equal requests at once, whoever leaves; answers that are found again."""

import asyncio

import pytest
from response_cache_cases import KEY, Events, key, memory_cache, until

from serving._items import ServiceError


class Work:
    """Something to compute, that waits until `gate` is open."""

    def __init__(self, body=None, fault=None, waits=True):
        self.body = {"text": "an answer"} if body is None else body
        self.fault = fault
        self.begun = 0
        self.gate = asyncio.Event()
        if not waits:
            self.gate.set()

    async def __call__(self):
        self.begun += 1
        await self.gate.wait()
        if self.fault:
            raise self.fault
        return self.body or None


async def start(cache, works):
    """Begin to fetch, each with a work of its own, in this order."""
    tasks = []
    for work in works:
        tasks.append(asyncio.create_task(cache.fetch(KEY, work)))
        await asyncio.sleep(0)
    return tasks


def test_a_second_request_finds_the_answer_of_the_first():
    async def main():
        cache, work = memory_cache(), Work(waits=False)
        assert await cache.fetch(KEY, work) == (work.body, "miss")
        assert await cache.fetch(KEY, work) == (work.body, "memory")
        assert await cache.fetch(key(2), work) == (work.body, "miss")
        assert work.begun == 2

    asyncio.run(main())


def test_of_equal_requests_at_once_one_computes_and_all_have_their_own_copy():
    async def main():
        events = Events()
        cache, work = memory_cache(events), Work({"text": ["x"], "uncertainty": float("inf")})
        tasks = await start(cache, [work] * 20)
        work.gate.set()
        results = await asyncio.gather(*tasks)
        assert work.begun == 1 and events["cache", "shared"] == 19
        assert [outcome for _, outcome in results] == ["miss"] + ["shared"] * 19
        results[0][0]["text"].append("mine")
        assert all(body["text"] == ["x"] for body, _ in results[1:])

    asyncio.run(main())


def test_when_those_who_compute_are_cancelled_those_who_wait_take_over():
    async def main():
        cache, works = memory_cache(), [Work(), Work(), Work({"text": "third"}), Work()]
        tasks = await start(cache, works)
        for number in (0, 1):
            tasks[number].cancel()
            await until(lambda next=works[number + 1]: next.begun)
        works[2].gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results[:2]] == [asyncio.CancelledError] * 2
        assert results[2:] == [({"text": "third"}, "miss"), ({"text": "third"}, "shared")]
        assert works[3].begun == 0

    asyncio.run(main())


@pytest.mark.parametrize("fault", [TimeoutError(), ServiceError("expired", "too late")])
def test_who_runs_out_of_time_takes_nobody_along(fault):
    async def main():
        cache, works = memory_cache(), [Work(fault=fault), Work(waits=False)]
        tasks = await start(cache, works)
        works[0].gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results == [fault, (works[1].body, "miss")]

    asyncio.run(main())


def test_a_failure_of_the_work_goes_to_all_who_wait_and_to_nobody_later():
    async def main():
        fault = ServiceError("overloaded", "full")
        cache, work = memory_cache(), Work(fault=fault)
        tasks = await start(cache, [work] * 3)
        work.gate.set()
        assert await asyncio.gather(*tasks, return_exceptions=True) == [fault] * 3
        assert work.begun == 1
        work.fault = None
        assert await cache.fetch(KEY, work) == (work.body, "miss")

    asyncio.run(main())


def test_one_who_waits_may_leave_without_ending_the_work():
    async def main():
        cache, work = memory_cache(), Work()
        tasks = await start(cache, [work] * 3)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await tasks[1]
        work.gate.set()
        assert await tasks[0] == (work.body, "miss")
        assert await tasks[2] == (work.body, "shared")

    asyncio.run(main())


def test_what_is_not_to_be_kept_is_neither_kept_nor_shared():
    async def main():
        cache, works = memory_cache(), [Work({}), Work({}), Work({})]
        tasks = await start(cache, works)
        works[0].gate.set()
        await until(lambda: works[1].begun and works[2].begun)  # at once, not in turn
        for work in works:
            work.gate.set()
        assert await asyncio.gather(*tasks) == [(None, "miss")] * 3
        assert await cache.fetch(KEY, Work(waits=False)) == ({"text": "an answer"}, "miss")

    asyncio.run(main())


def test_an_answer_that_is_not_json_is_a_fault_of_the_work():
    async def main():
        cache = memory_cache()
        with pytest.raises(TypeError):
            await cache.fetch(KEY, Work({"text": object()}, waits=False))

    asyncio.run(main())
