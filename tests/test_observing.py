"""Every request is counted, logged and traced once, whatever comes of it."""

import asyncio
import json
from contextlib import suppress
from io import StringIO
from socket import create_connection
from types import SimpleNamespace

import pytest
from metric_samples import samples, value
from served_process import Served

from serving._metrics import Metrics
from serving._observing import ObserveRequests, Observers, observers_from, record_of, span_of
from serving._request_log import RequestLog
from serving._tracing import Tracing
from serving.errors import StillhouseError


def watch(app, path="/generate", received=(), headers=()):
    """Metrics, log lines and response of one request through the watching layer."""
    log, sent = StringIO(), []
    observers = Observers(Metrics(), RequestLog(log), Tracing())
    messages = list(received)

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers)}
    with suppress(RuntimeError, asyncio.CancelledError):
        asyncio.run(ObserveRequests(app, lambda: observers)(scope, receive, send))
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    return observers.metrics, lines, sent


def reply(status):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    return app


@pytest.mark.parametrize(
    ("status", "outcome", "reason"),
    [
        (200, "answered", None),
        (401, "refused", "invalid_key"),
        (404, "refused", "invalid_request"),
        (503, "refused", "unavailable"),
        (500, "failed", "internal"),
        (504, "failed", "internal"),
    ],
)
def test_a_request_is_counted_once_by_route_and_outcome(status, outcome, reason):
    metrics, (line,), sent = watch(reply(status), "/compare")
    assert value(metrics, "requests_total", route="/compare", outcome=outcome) == 1
    refused = {k: v for k, v in samples(metrics.exposition()).items() if "refusals_total" in k[0]}
    assert sum(refused.values()) == (reason is not None)
    assert (line["outcome"], line.get("refusal"), line["status"]) == (outcome, reason, status)
    assert (b"x-request-id", line["id"].encode()) in sent[0]["headers"]


def test_a_part_that_knows_better_says_the_reason():
    async def app(scope, receive, send):
        record_of(scope).refusal = "draining"
        await reply(503)(scope, receive, send)

    metrics, (line,), _ = watch(app)
    assert value(metrics, "refusals_total", reason="draining") == 1
    assert line["refusal"] == "draining"


def test_the_line_has_what_admission_chose_and_the_response_one_id():
    async def app(scope, receive, send):
        scope["state"] = {**scope["state"], "admitted": SimpleNamespace(tenant="a", key_id="k1")}
        headers = [(b"x-request-id", b"theirs")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body"})

    _, (line,), sent = watch(app)
    assert [value for name, value in sent[0]["headers"] if name == b"x-request-id"] == [b"theirs"]
    assert (line["id"], line["tenant"], line["key_id"]) == ("theirs", "a", "k1")


def test_a_stream_that_its_caller_cuts_is_counted_as_left():
    async def stream(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await receive()
        raise asyncio.CancelledError

    metrics, (line,), _ = watch(stream, "/v1/completions", [{"type": "http.disconnect"}])
    assert value(metrics, "requests_total", route="/v1/completions", outcome="left") == 1
    assert value(metrics, "requests_under_way") == 0
    assert (line["outcome"], "refusal" in line) == ("left", False)


def test_a_connection_that_closes_after_the_whole_answer_is_not_left():
    async def app(scope, receive, send):
        await reply(200)(scope, receive, send)
        await receive()

    assert watch(app, received=[{"type": "http.disconnect"}])[1][0]["outcome"] == "answered"


def test_an_exception_is_a_failure_of_ours():
    async def app(scope, receive, send):
        raise RuntimeError("secret words of the prompt")

    metrics, (line,), _ = watch(app)
    assert value(metrics, "requests_total", route="/generate", outcome="failed") == 1
    assert line["refusal"] == "internal"
    assert "secret" not in json.dumps(line)


def test_probes_and_scrapes_are_not_requests():
    metrics, lines, _ = watch(reply(200), "/readyz")
    assert lines == []
    assert value(metrics, "requests_total", route="other", outcome="answered") == 0


def test_a_callers_trace_is_passed_on_without_a_tracer():
    given, seen = f"00-{'a' * 32}-{'b' * 16}-01", []

    async def app(scope, receive, send):
        seen.append(span_of(scope).traceparent)
        await reply(200)(scope, receive, send)

    lines = watch(app, headers=[(b"traceparent", given.encode())])[1]
    assert seen == [given]
    assert lines[0]["trace_id"] == "a" * 32
    watch(app, headers=[(b"traceparent", b"00-forged\n-01")])
    assert seen[1] is None


@pytest.mark.parametrize("price", ["cheap", "-1", "nan", "inf"])
def test_a_wrong_price_is_a_mistake_at_start(price):
    with pytest.raises(StillhouseError, match="STILLHOUSE_USD_PER_HOUR"):
        observers_from({"STILLHOUSE_USD_PER_HOUR": price}, "x")


SERVICE = """
import os
from functools import cache
import bentoml
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route
from serving._observing import ObserveRequests, observers_from, show_metrics
from serving._request_log import log_as_json

OFF = {"metrics": {"enabled": False}, "logging": {"access": {"enabled": False}}}

@cache
def observers():
    return observers_from(os.environ, "entry")

async def stream(request):
    async def pieces():
        with observers().metrics.stream_alive():
            while True:
                yield "data: piece\\n\\n"
                await __import__("asyncio").sleep(0.02)
    return StreamingResponse(pieces(), media_type="text/event-stream")

def model(name):
    @bentoml.service(name=name, **OFF)
    class Model:
        def __init__(self):
            observers().metrics.set_limits(name, 64, 8)
        @bentoml.api
        async def work(self, number: int) -> int:
            observers().metrics.count_tokens(name, 3, number)
            return number
    return Model

Student, Baseline = model("student"), model("baseline")
routes = [Route("/metrics", show_metrics(observers)), Route("/v1/completions", stream)]

@bentoml.service(name="entry", http={"host": "127.0.0.1"}, **OFF)
@bentoml.asgi_app(Starlette(routes=routes), path="/")
class Entry:
    student, baseline = bentoml.depends(Student), bentoml.depends(Baseline)
    def __init__(self):
        log_as_json()
    @bentoml.api
    async def compare(self, number: int) -> int:
        return await self.student.work(number) + await self.baseline.work(number)

Entry.add_asgi_middleware(ObserveRequests, observers=observers)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """An entry with two models: four processes with the supervisor."""
    served = Served(tmp_path_factory.mktemp("served"), SERVICE)
    yield served
    served.stop()


@pytest.mark.slow
def test_all_three_processes_appear_once(served):
    assert served.ask("/compare", {"number": 5}) == (200, b"10")
    found = samples(served.ask("/metrics")[1])
    for model in ("student", "baseline"):
        assert found["stillhouse_completion_tokens_total", ("model", model)] == 5
        assert found["stillhouse_token_budget", ("model", model)] == 64
    answered = (("outcome", "answered"), ("route", "/compare"))
    assert found["stillhouse_requests_total", *answered] == 1
    parts = {dict(key[1:])["part"] for key in found if "stillhouse_memory" in key[0]}
    assert {"supervisor", "entry", "student", "baseline"} <= parts
    assert not [key for key in found if "bentoml" in key[0]]


@pytest.mark.slow
def test_a_stream_that_is_cut_over_a_socket_is_counted(served):
    with create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(b"GET /v1/completions HTTP/1.1\r\nhost: x\r\n\r\n")
        reader = connection.makefile("rb")
        while b"piece" not in reader.readline():
            pass
        reader.close()
    left = ("stillhouse_requests_total", ("outcome", "left"), ("route", "/v1/completions"))
    for _ in range(200):
        found = samples(served.ask("/metrics")[1])
        if found[left]:
            break
    assert (found[left], found["stillhouse_streams_alive",]) == (1, 0), served.log.read_text()


@pytest.mark.slow
def test_nothing_that_a_caller_sends_stands_in_the_log_or_forges_a_line(served):
    assert served.ask("/compare", {"number": "secret words"})[0] == 400
    assert served.ask("/x%0A%7B%22kind%22:%22forged%22%7D")[0] == 404
    text = served.log.read_text()
    assert "secret" not in text
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert {line["kind"] for line in lines} == {"request", "log"}
    assert [line["exception"] for line in lines if "exception" in line] == ["ValidationError"]
