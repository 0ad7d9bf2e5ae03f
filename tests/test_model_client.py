"""The entry's client of a model's process: lists, streams, and what ends with a caller."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from serving._items import Answer, Item, ServiceError
from serving._model_client import ModelClient


class Model:
    """A model's process that answers when it is let, and notes what it was asked."""

    def __init__(self):
        self.lists, self.cancelled, self.stream_ended = [], [], asyncio.Event()
        self.go = asyncio.Event()
        self.asked = asyncio.Event()
        self.status, self.notices = 200, 0

    async def answer(self, request):
        items = (await request.json())["items"]
        self.lists.append([item["id"] for item in items])
        self.asked.set()
        await self.go.wait()
        answers = [Answer(id=item["id"], batch_rows=len(items)).model_dump() for item in items]
        return web.json_response(answers, status=self.status)

    async def cancel(self, request):
        self.cancelled += (await request.json())["ids"]
        self.notices += 1
        self.asked.set()
        return web.json_response(True)

    async def stream(self, request):
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for piece in ("é", "\n", "x" * 100_000):
                line = json.dumps({"piece": piece}).encode()
                for half in (line[:3], line[3:] + b"\n"):
                    await response.write(half)
            await self.go.wait()
            await response.write(json.dumps({"answer": {"id": "s"}}).encode() + b"\n")
        finally:
            self.stream_ended.set()
        return response


@asynccontextmanager
async def running(folder, **options):
    model = Model()
    app = web.Application()
    app.add_routes([web.post(f"/{n}", getattr(model, n)) for n in ("answer", "cancel", "stream")])
    # a handler is cancelled when its client leaves, as BentoML's streams are
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "s")).start()
    client = ModelClient(f"file://{folder}/s", "/answer", **options)
    try:
        yield model, client
    finally:
        await client.close()
        await runner.cleanup()


def item(name):
    return Item(id=name, prompt="fish")


def ask(client, *names):
    return [asyncio.ensure_future(client.answer(item(name))) for name in names]


def test_what_waits_while_lists_are_under_way_goes_as_one(tmp_path):
    async def check():
        async with running(tmp_path, most=3, calls=1) as (model, client):
            tasks = ask(client, "a", "b", "c", "d", "e")
            model.go.set()
            answers = await asyncio.gather(*tasks)
            assert model.lists == [["a"], ["b", "c", "d"], ["e"]]
            assert [answer.id for answer in answers] == ["a", "b", "c", "d", "e"]

    asyncio.run(check())


def test_callers_that_were_just_answered_are_waited_for(tmp_path):
    async def check():
        async with running(tmp_path, calls=1) as (model, client):
            model.go.set()

            async def ask_twice(name):
                await client.answer(item(f"{name}1"))
                await client.answer(item(f"{name}2"))

            await asyncio.gather(*map(ask_twice, "abc"))
            # a1 goes alone, b1 and c1 are next; a2 came back in time for their list
            assert model.lists == [["a1"], ["b1", "c1", "a2"], ["b2", "c2"]]

    asyncio.run(check())


def test_callers_who_leave_meanwhile_are_told_in_one_notice(tmp_path):
    async def check():
        async with running(tmp_path, most=4, calls=4) as (model, client):
            tasks = ask(client, "a", "b", "c", "d")
            while len(model.lists) < 4:
                model.asked.clear()
                await model.asked.wait()
            model.asked.clear()
            for task in tasks:
                task.cancel()
            await model.asked.wait()
            assert sorted(model.cancelled) == ["a", "b", "c", "d"]
            assert model.notices == 1

    asyncio.run(check())


def test_a_caller_who_leaves_is_never_sent_or_is_cancelled_by_id(tmp_path):
    async def check():
        async with running(tmp_path, calls=1) as (model, client):
            sent, waiting = ask(client, "sent", "waiting")
            await model.asked.wait()
            model.asked.clear()
            for task in (sent, waiting):
                task.cancel()
            await model.asked.wait()
            assert model.cancelled == ["sent"]
            model.go.set()
            (answer,) = await asyncio.gather(*ask(client, "next"))
            assert (answer.id, model.lists) == ("next", [["sent"], ["next"]])

    asyncio.run(check())


def test_a_stream_keeps_its_pieces_whatever_the_chunks(tmp_path):
    async def check():
        async with running(tmp_path) as (model, client):
            model.go.set()
            found = [one async for one in client.stream(item("s"))]
            assert found == ["é", "\n", "x" * 100_000, Answer(id="s")]

    asyncio.run(check())


def test_a_stream_that_nobody_reads_on_ends_at_the_model(tmp_path):
    async def check():
        async with running(tmp_path) as (model, client):
            stream = client.stream(item("s"))
            assert await anext(stream) == "é"
            await stream.aclose()
            await asyncio.wait_for(model.stream_ended.wait(), 30)

    asyncio.run(check())


def test_many_more_requests_than_a_session_of_bentomls_lives_for_are_answered(tmp_path):
    async def check():
        async with running(tmp_path, most=1, calls=50) as (model, client):
            model.go.set()
            answers = await asyncio.gather(*ask(client, *map(str, range(300))))
            assert [answer.id for answer in answers] == [str(n) for n in range(300)]

    asyncio.run(check())


@pytest.mark.parametrize(("status", "refusal"), [(503, "overloaded"), (500, "internal")])
def test_a_model_that_refuses_is_told_apart_from_one_that_fails(tmp_path, status, refusal):
    async def check():
        async with running(tmp_path) as (model, client):
            model.status = status
            model.go.set()
            with pytest.raises(ServiceError) as caught:
                await client.answer(item("a"))
            assert caught.value.refusal == refusal

    asyncio.run(check())


def test_a_model_that_is_not_there_is_unavailable(tmp_path):
    async def check():
        client = ModelClient(f"file://{tmp_path}/none", "/answer")
        try:
            assert not await client.is_ready()
            with pytest.raises(ServiceError) as caught:
                await client.answer(item("a"))
            assert caught.value.refusal == "unavailable"
        finally:
            await client.close()

    asyncio.run(check())
