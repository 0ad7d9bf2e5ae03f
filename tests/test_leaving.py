"""Work for a caller who may leave: how it ends, who hears of it, and what stays behind."""

import asyncio

import pytest
from starlette.requests import ClientDisconnect

from serving._items import ServiceError
from serving._leaving import until_gone

GONE = {"type": "http.disconnect"}


class Caller:
    """Leaves when it is told to."""

    def __init__(self, *first):
        self.first, self.leave = list(first), asyncio.Event()

    async def receive(self):
        if self.first:
            return self.first.pop(0)
        await self.leave.wait()
        return GONE


class Work:
    """Notes how far it came; waits for ever, or until it may go on."""

    def __init__(self, cleanup_steps=0):
        self.begun, self.go_on, self.said = asyncio.Event(), asyncio.Event(), []
        self.cleanup_steps = cleanup_steps

    async def __call__(self):
        self.begun.set()
        try:
            await self.go_on.wait()
            self.said.append("done")
        finally:
            for _ in range(self.cleanup_steps):
                await asyncio.sleep(0)
            self.said.append("ended")


async def end_of(task):
    """How a task ended, and how often it is asked to be cancelled still."""
    (done,), _ = await asyncio.wait([task], timeout=5.0)
    if done.cancelled():
        return "cancelled", task.cancelling()
    return type(done.exception()).__name__, task.cancelling()


async def begin(caller, work, around=None):
    """A task that has come to where its work waits."""
    task = asyncio.create_task((around or until_gone)(caller.receive, work()))
    await work.begun.wait()
    await asyncio.sleep(0)
    return task


def test_work_that_ends_leaves_nobody_listening():
    async def main():
        work = Work()
        work.go_on.set()
        await until_gone(Caller().receive, work())
        await asyncio.sleep(0)
        return work.said, len(asyncio.all_tasks())

    assert asyncio.run(main()) == (["done", "ended"], 1)


def test_what_the_work_raises_comes_through_as_it_is():
    async def main():
        async def fail():
            raise KeyError("x")

        with pytest.raises(KeyError):
            await until_gone(Caller().receive, fail())
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1


def test_a_caller_who_leaves_ends_the_work_and_all_of_its_cleanup_comes_first():
    async def main():
        caller, work, told = Caller(), Work(cleanup_steps=3), []

        async def around(receive, coroutine):
            try:
                await until_gone(receive, coroutine)
            except ClientDisconnect:
                told.extend([*work.said, asyncio.current_task().cancelling()])
                await asyncio.sleep(0)  # may wait again: nobody cancels this task any more
                told.append("went on")

        task = await begin(caller, work, around)
        caller.leave.set()
        return await end_of(task), told

    assert asyncio.run(main()) == (("NoneType", 0), ["ended", 0, "went on"])


def test_more_of_the_request_is_no_leaving():
    async def main():
        caller, work = Caller({"type": "http.request", "body": b"x"}), Work()
        task = await begin(caller, work)
        work.go_on.set()
        return await end_of(task), work.said

    assert asyncio.run(main()) == (("NoneType", 0), ["done", "ended"])


def test_for_a_caller_who_has_left_already_work_is_done_as_far_as_it_does_not_wait():
    async def main():
        work, quick = Work(), Work()
        quick.go_on.set()
        await until_gone(Caller(GONE).receive, quick())
        with pytest.raises(ClientDisconnect):
            await until_gone(Caller(GONE).receive, work())
        return quick.said, work.said, asyncio.current_task().cancelling()

    assert asyncio.run(main()) == (["done", "ended"], ["ended"], 0)


@pytest.mark.parametrize("order", [1, -1])
def test_leaving_in_the_moment_of_the_end_cancels_nothing_that_comes_later(order):
    async def main():
        caller, work, later = Caller(), Work(), []

        async def around(receive, coroutine):
            try:
                await until_gone(receive, coroutine)
            except ClientDisconnect:
                later.append("gone")
            for _ in range(5):  # a cancellation on its way would arrive here
                await asyncio.sleep(0)
            later.append("later")

        task = await begin(caller, work, around)
        for event in (caller.leave, work.go_on)[::order]:
            event.set()
        return await end_of(task), later[-1]

    assert asyncio.run(main()) == (("NoneType", 0), "later")


def test_work_that_will_not_be_cancelled_is_waited_for_and_counts_as_done():
    async def main():
        caller, begun, said = Caller(), asyncio.Event(), []

        async def stubborn():
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                said.append("all the same")

        task = asyncio.create_task(until_gone(caller.receive, stubborn()))
        await begun.wait()
        await asyncio.sleep(0)
        caller.leave.set()
        return await end_of(task), said

    assert asyncio.run(main()) == (("NoneType", 0), ["all the same"])


def test_work_that_refuses_when_it_is_cancelled_is_heard():
    async def main():
        caller, work = Caller(), Work()

        async def refusing():
            try:
                await work()
            except asyncio.CancelledError:
                raise ServiceError("expired", "too late. Ask again.") from None

        task = asyncio.create_task(until_gone(caller.receive, refusing()))
        await work.begun.wait()
        await asyncio.sleep(0)
        caller.leave.set()
        return await end_of(task)

    assert asyncio.run(main()) == ("ServiceError", 0)


def test_who_cancels_from_outside_is_obeyed_with_their_word():
    async def main():
        caller, work, told = Caller(), Work(cleanup_steps=2), []

        async def around(receive, coroutine):
            try:
                await until_gone(receive, coroutine)
            except asyncio.CancelledError as error:
                told.append(error.args)
                raise

        task = await begin(caller, work, around)
        task.cancel("time is up")
        return await end_of(task), told, work.said, len(asyncio.all_tasks())

    assert asyncio.run(main()) == (("cancelled", 1), [("time is up",)], ["ended"], 1)


@pytest.mark.parametrize("order", ["leave cancel", "cancel leave", "together"])
def test_leaving_does_not_hide_that_the_task_was_cancelled_from_outside(order):
    async def main():
        caller, work = Caller(), Work(cleanup_steps=5)
        task = await begin(caller, work)
        for step in order.replace("together", "leave+cancel").split():
            if "leave" in step:
                caller.leave.set()
            if "cancel" in step:
                task.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return await end_of(task)

    assert asyncio.run(main()) == ("cancelled", 1)


def test_a_time_limit_inside_of_the_work_stays_the_works_own():
    async def main():
        async def limited():
            async with asyncio.timeout(0):
                await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            await until_gone(Caller().receive, limited())
        return asyncio.current_task().cancelling()

    assert asyncio.run(main()) == 0


def test_leaving_within_time_limits_is_no_time_that_was_over():
    async def main():
        caller, work = Caller(), Work()

        async def limited():
            async with asyncio.timeout(60):
                await work()

        async def around(receive, _):
            async with asyncio.timeout(60):
                await until_gone(receive, limited())

        task = asyncio.create_task(around(caller.receive, None))
        await work.begun.wait()
        await asyncio.sleep(0)
        caller.leave.set()
        return await end_of(task)

    assert asyncio.run(main()) == ("ClientDisconnect", 0)


def test_a_time_limit_around_all_of_it_holds_though_the_caller_leaves():
    async def main():
        caller, work = Caller(), Work(cleanup_steps=3)

        async def around(receive, coroutine):
            async with asyncio.timeout(60) as limit:
                work.limit = limit
                await until_gone(receive, coroutine)

        task = await begin(caller, work, around)
        work.limit.reschedule(asyncio.get_running_loop().time())
        caller.leave.set()
        return await end_of(task), work.said

    assert asyncio.run(main()) == (("TimeoutError", 0), ["ended"])


def test_work_that_was_cancelled_by_itself_is_a_refusal():
    async def main():
        async def broken():
            inner = asyncio.create_task(asyncio.Event().wait())
            inner.cancel()
            await inner

        with pytest.raises(ServiceError, match="was cancelled") as refused:
            await until_gone(Caller().receive, broken())
        return refused.value.refusal, asyncio.current_task().cancelling()

    assert asyncio.run(main()) == ("unavailable", 0)


def test_one_who_leaves_takes_no_other_callers_work_along():
    async def main():
        leaving, staying, works = Caller(), Caller(), [Work(), Work()]
        tasks = [await begin(*pair) for pair in zip((leaving, staying), works, strict=True)]
        leaving.leave.set()
        first = await end_of(tasks[0])
        works[1].go_on.set()
        return first, await end_of(tasks[1]), works[1].said

    expected = (("ClientDisconnect", 0), ("NoneType", 0), ["done", "ended"])
    assert asyncio.run(main()) == expected
