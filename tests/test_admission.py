"""The gate: its order, its limits, its exemptions; garbage neither passes nor breaks it."""

import asyncio
import logging

import pytest
from gate_cases import Client, Route, answer, ask, chunk, gate
from hypothesis import given, settings
from hypothesis import strategies as st

from serving._exchange import Rendered
from serving._items import ServiceError
from serving._keys import Keyring
from serving._queue_bound import QueueBound
from serving.keys import add_key


@pytest.fixture
def acme(tmp_path):
    """A keyring with one key, and the headers that show it."""
    file = tmp_path / "keys"
    presented, key = add_key(file, "acme", {"requests_per_minute": 3, "tokens_per_minute": 100})
    return Keyring(file), [("authorization", f"Bearer {presented}")], key


def test_who_is_let_in_reaches_the_route_with_all_it_needs(acme):
    ring, headers, key = acme
    seen = []

    async def route(scope, receive, send):
        seen.append(scope["state"]["admitted"])
        await answer(scope, receive, send)

    caller = ask(
        chunk(b"one ", True),
        chunk(b"two"),
        opened=gate(route, ring),
        headers=[*headers, ("x-request-timeout-s", "2.5")],
    )
    assert (caller.status, caller.body) == (200, b"one two")
    (admitted,) = seen
    assert (admitted.tenant, admitted.key_id, admitted.deadline_s) == ("acme", key.id, 2.5)
    assert 0 < admitted.remaining_s() <= 2.5
    assert caller.headers["x-request-id"] == admitted.request_id


def test_a_stranger_is_refused_before_its_body_is_read(acme):
    for address, opened, status in (
        ("127.0.0.1", gate(keyring=acme[0]), 401),
        ("10.0.0.1", gate(), 403),
    ):
        caller = ask(chunk(b"x" * 10), opened=opened, address=address)
        assert (caller.status, caller.read) == (status, 0)
        assert caller.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


def test_the_order_of_refusals_is_key_length_rate_room_deadline_body(acme):
    ring, good, _ = acme
    bound, counted = QueueBound(1, 1000), []
    opened = gate(keyring=ring, bound=bound, counted=counted)
    bad = [("content-length", "101"), ("x-request-timeout-s", "soon")]

    def refuse(*headers):
        return ask(chunk(b"x" * 101), opened=opened, headers=headers).status

    place = bound.enter()
    assert refuse(*bad) == 401
    assert refuse(*good, *bad) == 413
    assert refuse(*good, bad[1]) == 503
    place.release()
    assert refuse(*good, bad[1]) == 422
    assert refuse(*good) == 413
    bound.enter()
    assert refuse(*good, bad[1]) == 429
    assert counted == [
        *("invalid_key", "body_too_large", "overloaded"),
        *("invalid_request", "body_too_large", "rate_limited"),
    ]


def test_of_many_at_once_exactly_as_many_are_let_in_as_there_are_places():
    async def main():
        route, bound = Route(), QueueBound(3, 1000)
        opened = gate(route, bound=bound)
        callers = [Client() for _ in range(40)]
        asked = [asyncio.create_task(caller.ask(opened)) for caller in callers]
        while sum(caller.status is not None for caller in callers) < 37:
            await asyncio.sleep(0)
        held = bound.requests
        route.go_on.set()
        await asyncio.gather(*asked)
        return held, len(route.scopes), callers, bound.requests

    held, let_in, callers, left = asyncio.run(main())
    assert (held, let_in, left) == (3, 3, 0)
    refused = [caller for caller in callers if caller.status == 503]
    assert len(refused) == 37
    assert all(int(caller.headers["retry-after"]) >= 1 for caller in refused)


def test_of_many_at_once_exactly_one_passes_a_limit_of_one():
    async def main():
        opened = gate(local_requests_per_minute=1)
        return await asyncio.gather(*(Client().ask(opened) for _ in range(50)))

    statuses = asyncio.run(main())
    assert sorted(set(statuses)) == [200, 429] and statuses.count(200) == 1


def test_tokens_are_reserved_in_the_queue_and_for_the_key_and_given_back(acme):
    ring, headers, _ = acme
    bound, seen = QueueBound(10, 1000), []

    async def route(scope, receive, send):
        admitted = scope["state"]["admitted"]
        await admitted.reserve_tokens(100)
        seen.append(bound.tokens)
        await admitted.correct_tokens(30)
        seen.append(bound.tokens)
        await answer(scope, receive, send)

    async def main():
        opened = gate(route, ring, bound)
        return [await Client(headers=headers).ask(opened) for _ in range(2)], seen

    # 30 of 100 are used, so the second bound of 100 does not fit
    assert asyncio.run(main()) == ([200, 429], [100, 30])
    assert bound.tokens == 0


def test_tokens_that_the_queue_refuses_are_not_charged_to_the_key(acme):
    ring, headers, _ = acme
    bound = QueueBound(10, 100)

    async def route(scope, receive, send):
        await scope["state"]["admitted"].reserve_tokens(100)
        await answer(scope, receive, send)

    async def main():
        opened = gate(route, ring, bound)
        with bound.enter() as place:
            place.take(1)
            refused = await Client(headers=headers).ask(opened)
        return refused, await Client(headers=headers).ask(opened)

    assert asyncio.run(main()) == (503, 200)


def test_tokens_that_the_key_has_not_left_are_no_work_that_was_done(acme):
    ring, headers, _ = acme
    seconds = iter(range(1000))
    bound, speeds = QueueBound(10, 1000, clock=lambda: next(seconds)), []

    async def route(scope, receive, send):
        speeds.append(bound.work_per_s)
        await scope["state"]["admitted"].reserve_tokens(90)
        await answer(scope, receive, send)

    async def main():
        opened = gate(route, ring, bound)
        return [await Client(headers=headers).ask(opened) for _ in range(3)]

    assert asyncio.run(main()) == [200, 429, 429]
    assert speeds[1] > speeds[2], "time passed, and nothing but requests left"


def test_what_is_exempt_is_exactly_that(acme):
    ring, headers, _ = acme
    opened = gate(keyring=ring, bound=QueueBound(0, 0))
    far = {"opened": opened, "address": "10.0.0.1"}
    assert ask(path="/livez", **far).status == 200
    assert ask(path="/metrics", opened=opened).status == 200
    assert ask(path="/metrics", **far).status == 401
    assert ask(path="/metrics", headers=headers, **far).status == 403
    assert ask(path="/v1/models", headers=headers, **far).status == 200
    for path in ("/livez/", "/livez\n", "//livez", "/livez/../generate", "/LIVEZ", ""):
        assert ask(path=path, opened=opened).status == 401
    for path in ("/generate", "/generate\n", "/v1/models/"):
        status = ask(path=path, headers=headers, opened=gate(keyring=ring, bound=QueueBound(0, 0)))
        assert status.status == 503


@pytest.mark.parametrize(
    ("paths", "status"),
    [(("/metrics",), 200), (None, 403), (("/",), 403), (("/metrics/",), 403), (("/v1/",), 403)],
)
def test_metrics_are_for_a_key_elsewhere_whose_paths_name_them(tmp_path, paths, status):
    presented, _ = add_key(tmp_path / "keys", "monitor", {"paths": paths})
    opened = gate(keyring=Keyring(tmp_path / "keys"), bound=QueueBound(0, 0))
    headers = [("authorization", f"Bearer {presented}")]
    caller = ask(opened=opened, path="/metrics", headers=headers, address="10.0.0.1")
    assert caller.status == status, "and it takes no place in the queue"


def test_metrics_are_read_from_elsewhere_while_it_drains_too(tmp_path):
    def drain():
        raise ServiceError("draining", "going down", retry_after_s=7)

    presented, _ = add_key(tmp_path / "keys", "monitor", {"paths": ("/metrics",)})
    opened = gate(keyring=Keyring(tmp_path / "keys"), parts={"check_open": drain})
    headers = [("authorization", f"Bearer {presented}")]
    caller = ask(opened=opened, path="/metrics", headers=headers, address="10.0.0.1")
    assert caller.status == 200


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "1e3", "", "5 s", "٣", "9" * 400])
def test_a_deadline_that_is_none_is_422(value):
    caller = ask(headers=[("x-request-timeout-s", value)])
    assert (caller.status, b"x-request-timeout-s" in caller.body) == (422, True)


def test_a_deadline_is_capped_and_has_a_default():
    seen = []

    async def route(scope, receive, send):
        seen.append(scope["state"]["admitted"].deadline_s)
        await answer(scope, receive, send)

    opened = gate(route, timeout_s=30.0, max_timeout_s=60.0)
    ask(opened=opened)
    ask(opened=opened, headers=[("x-request-timeout-s", "99999")])
    assert seen == [30.0, 60.0]


def test_a_refusal_is_told_in_the_form_of_its_path_and_counted():
    def render(error, path):
        return Rendered(418, [(b"retry-after", b"7")], f"{path} {error.refusal}".encode())

    def drain():
        raise ServiceError("draining", "going down", retry_after_s=7)

    counted = []
    caller = ask(opened=gate(counted=counted, parts={"render": render, "check_open": drain}))
    assert (caller.status, caller.body) == (418, b"/generate draining")
    assert caller.headers["content-length"] == str(len(caller.body))
    assert counted == ["draining"]


def test_what_is_not_http_is_passed_on_or_closed():
    passed = []

    async def app(scope, receive, send):
        passed.append(scope["type"])

    async def main():
        lifespan, socket = Client(), Client()
        await gate(app)({"type": "lifespan"}, lifespan.receive, lifespan.send)
        await gate(app)({"type": "websocket"}, socket.receive, socket.send)
        return socket.sent

    assert asyncio.run(main()) == [{"type": "websocket.close", "code": 1008}]
    assert passed == ["lifespan"]


def test_no_log_has_a_body_or_a_key(acme, caplog):
    caplog.set_level(logging.DEBUG)
    ring, headers, _ = acme
    ask(chunk(b"a secret prompt"), opened=gate(keyring=ring), headers=headers)
    ask(chunk(b"a secret prompt" * 99), opened=gate(keyring=ring), headers=headers)
    assert "secret" not in caplog.text and headers[0][1][7:] not in caplog.text


@pytest.fixture(scope="module")
def acme_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    add_key(file, "acme", {})
    return file


NAMES = st.sampled_from(
    [b"authorization", b"content-length", b"x-request-timeout-s", b"x-request-id", b"cookie"]
)


@settings(max_examples=60, deadline=None)
@given(
    headers=st.lists(st.tuples(NAMES, st.binary(max_size=40)), max_size=6),
    path=st.text(max_size=20),
    query=st.binary(max_size=20),
    body=st.binary(max_size=120),
    keys=st.booleans(),
)
def test_no_header_path_or_query_is_a_500(acme_file, headers, path, query, body, keys):
    caller = Client(chunk(body), path=path)
    caller.scope |= {"headers": headers, "query_string": query}
    caller.leave.set()
    status = asyncio.run(caller.ask(gate(keyring=Keyring(acme_file if keys else None))))
    assert status in ({401, 200} if keys else {200, 413, 422})
    assert all(b"\n" not in value + name for name, value in caller.sent[0]["headers"])
