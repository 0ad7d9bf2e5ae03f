"""One request and its response: the body's bounds, who leaves when, and what is given back once."""

import asyncio
import contextlib
import json

import httpx
import pytest
import uvicorn
from gate_cases import END, LIMIT, Client, answer, ask, chunk, gate

from serving._leaving import until_gone
from serving._queue_bound import QueueBound


@pytest.mark.parametrize(
    ("messages", "headers"),
    [
        ([chunk(b"x" * 60, True), chunk(b"x" * 41, True), chunk(b"x", True), END], []),
        ([chunk(b"x" * 101)], []),
        ([chunk(b"x" * 101)], [("content-length", "7")]),
        ([chunk(b"x" * 50, True), chunk(b"x" * 52)], [("content-length", "102")]),
    ],
)
def test_a_body_is_bounded_by_what_it_says_and_by_what_it_is(messages, headers):
    bound = QueueBound(1, 1)
    headers = headers or [("transfer-encoding", "chunked")]
    caller = ask(*messages, opened=gate(bound=bound), headers=headers)
    assert (caller.status, bound.requests) == (413, 0)
    assert json.loads(caller.body)["error"]["code"] == "body_too_large"
    assert ask(chunk(b"x" * LIMIT)).status == 200


def test_who_sends_too_much_is_heard_out_a_little_and_then_cut_off():
    async def main():
        caller = Client(chunk(b"x", True), chunk(b"x"), headers=[("content-length", "999")])
        await caller.ask(gate())
        return caller

    caller = asyncio.run(main())
    assert caller.headers["connection"] == "close"
    assert [message.get("more_body") for message in caller.sent[1:]] == [True, False]
    assert caller.read == 2, "so that closing does not reset the connection"


def test_a_body_that_comes_too_slowly_is_refused():
    bound = QueueBound(1, 1)

    async def main():
        opened = gate(bound=bound, body_timeout_s=0.01)
        caller = Client(chunk(b"x", True), headers=[("content-length", "9")])
        asked = asyncio.create_task(caller.ask(opened))
        while not caller.sent:
            await asyncio.sleep(0)
        caller.leave.set()
        return await asked, caller.headers["connection"]

    assert asyncio.run(main()) == (422, "close")
    assert bound.requests == 0


def test_who_leaves_while_sending_is_not_answered():
    bound, counted = QueueBound(1, 1), []
    caller = ask(chunk(b"x", True), END, opened=gate(bound=bound, counted=counted))
    assert (caller.sent, counted, bound.requests) == ([], [], 0)


async def fail(scope, receive, send):
    raise ZeroDivisionError


async def break_off(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise ZeroDivisionError


@pytest.mark.parametrize("route", [fail, break_off])
def test_a_route_that_fails_gives_its_place_back(route):
    bound = QueueBound(1, 1)
    with pytest.raises(ZeroDivisionError):
        ask(opened=gate(route, bound=bound))
    assert bound.requests == 0


def test_a_route_that_is_cancelled_gives_place_and_tokens_back():
    async def main():
        bound = QueueBound(1, 100)
        begun = asyncio.Event()

        async def route(scope, receive, send):
            await scope["state"]["admitted"].reserve_tokens(60)
            begun.set()
            await asyncio.Event().wait()

        asked = asyncio.create_task(Client().ask(gate(route, bound=bound)))
        await begun.wait()
        held = bound.requests, bound.tokens
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        return held, (bound.requests, bound.tokens)

    assert asyncio.run(main()) == ((1, 60), (0, 0))


def test_a_route_learns_that_its_client_left_and_then_gives_its_place_back():
    async def main():
        bound, seen = QueueBound(1, 1), []

        async def route(scope, receive, send):
            await receive()
            caller.leave.set()
            seen.append(bound.requests)
            await scope["state"]["admitted"].left.wait()
            seen.append((await receive())["type"])

        caller = Client()
        await caller.ask(gate(route, bound=bound))
        return seen, bound.requests

    assert asyncio.run(main()) == ([1, "http.disconnect"], 0)


class Closing(Client):
    """Told by its server that all is over as soon as the last byte is out, as servers do."""

    async def send(self, message):
        await super().send(message)
        if message["type"] == "http.response.body":
            self.leave.set()
            for _ in range(3):
                await asyncio.sleep(0)


def test_the_place_is_free_when_the_last_byte_is_out_and_nobody_left_early():
    async def main():
        bound, seen = QueueBound(1, 1), []

        async def route(scope, receive, send):
            await answer(scope, receive, send)
            seen.append(bound.requests)
            seen.append((await receive())["type"])
            seen.append(scope["state"]["admitted"].left.is_set())

        await Closing().ask(gate(route, bound=bound))
        return seen, bound.requests

    assert asyncio.run(main()) == ([0, "http.disconnect", False], 0)


class Slow(Client):
    """Takes the last piece only after a while, as servers do whose buffer is full."""

    async def send(self, message):
        if message["type"] == "http.response.body":
            for _ in range(9):
                await asyncio.sleep(0)
        await super().send(message)


def test_the_last_piece_is_not_cut_off_where_the_server_takes_its_time():
    async def main():
        async def route(scope, receive, send):
            async def stream():
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"", "more_body": False})

            await until_gone(receive, stream())

        caller = Slow()
        await caller.ask(gate(route))
        return [message["type"] for message in caller.sent]

    assert asyncio.run(main()) == ["http.response.start", "http.response.body"]


def test_a_stream_passes_piece_by_piece():
    async def main():
        read = asyncio.Event()

        async def route(scope, receive, send):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"1", "more_body": True})
            await read.wait()
            await send({"type": "http.response.body", "body": b"2"})

        caller = Client()
        asked = asyncio.create_task(caller.ask(gate(route)))
        while len(caller.sent) < 2:
            await asyncio.sleep(0)
        early = caller.body
        read.set()
        await asked
        return early, caller.body

    assert asyncio.run(main()) == (b"1", b"12")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("abc-1.2_X", True), ("a" * 65, False), ("", False), ("a b", False), ("a\n", False)],
)
def test_a_callers_id_is_taken_if_it_is_short_and_clean(sent, kept):
    refused = ask(headers=[("x-request-id", sent), ("x-request-timeout-s", "0")])
    passed = ask(headers=[("x-request-id", sent)])
    assert (refused.status, passed.status) == (422, 200)
    for caller in (refused, passed):
        assert (caller.headers["x-request-id"] == sent) is kept
        assert caller.headers["x-request-id"].isprintable() and caller.headers["x-request-id"]


def test_requests_under_one_callers_id_are_still_told_apart():
    seen = []

    async def route(scope, receive, send):
        seen.append(scope["state"]["admitted"])
        await answer(scope, receive, send)

    for _ in range(2):
        ask(opened=gate(route), headers=[("x-request-id", "same")])
    assert seen[0].request_id == seen[1].request_id == "same"
    assert seen[0].id != seen[1].id


@contextlib.asynccontextmanager
async def served(app):
    """The address of a real server in this event loop."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await running


def test_over_a_real_connection_too_large_a_body_is_told_so_while_it_is_sent():
    async def send_much():
        for _ in range(40):
            yield b"x" * 50_000

    async def main():
        async with served(gate()) as port, httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{port}/generate"
            answers = [
                await client.post(url, content=b"x" * 3_000_000),
                await client.post(url, content=send_much()),
                await client.post(url, content=b"short"),
            ]
        return [(answer.status_code, answer.headers.get("connection")) for answer in answers]

    assert asyncio.run(main()) == [(413, "close"), (413, "close"), (200, None)]


def test_over_a_real_connection_a_route_learns_that_its_client_left():
    async def main():
        bound, begun, told = QueueBound(1, 1), asyncio.Event(), asyncio.Event()

        async def route(scope, receive, send):
            begun.set()
            await scope["state"]["admitted"].left.wait()
            told.set()

        async with served(gate(route, bound=bound)) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
            await begun.wait()
            held = bound.requests
            writer.transport.abort()
            await told.wait()
        return held, bound.requests

    assert asyncio.run(main()) == (1, 0)


def test_over_a_real_connection_who_sends_too_slowly_is_told_and_cut_off():
    async def main():
        async with served(gate(body_timeout_s=0.01)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nslow")
            told = await reader.readuntil(b"\r\n\r\n")
            writer.write(b"down.")
            rest = await reader.read()
            writer.close()
        return told.split(b"\r\n")[0], b"connection: close" in told, json.loads(rest)

    status, closed, rest = asyncio.run(main())
    assert b" 422 " in status and closed
    assert rest["error"]["code"] == "invalid_request"
