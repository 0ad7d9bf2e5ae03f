"""The endpoint engine when the server fails: what is asked again, what is told, what is kept."""

import logging
from dataclasses import replace
from threading import Event, Thread

import pytest
from endpoint_predictors import predictors
from endpoint_server import (
    KEY,
    Reply,
    answers,
    as_json,
    endpoint_server,
    error,
    told,
)

from serving import endpoint_engine
from serving._endpoint_account import Usage
from serving._endpoint_answers import hide
from serving.completion import Request
from serving.endpoint_settings import estimate_cost

SECRET = "name[The Eagle], phone[+44 1223 495 123]"


@pytest.fixture
def predictor_on(tmp_path, monkeypatch):
    """Makes a predictor of a server; it notes its pauses in `pauses` and takes none."""
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with predictors(tmp_path) as make:
        yield make


# --- Faults ---------------------------------------------------------------------------------------

PASSING = {
    "500": error(500),
    "503 page": Reply(b"<html>busy</html>", 503),
    "429 at once": error(429, retry_after="0"),
    "408": error(408),
    "not JSON": Reply(b"oops"),
    "not UTF-8": Reply(b'{"choices": "\xff'),
    "deep": Reply(b"[" * 100_000),
    "a list": as_json([1]),
    "no choices": as_json({"choices": [], "usage": {}}),
    "an error called 200": as_json({"error": {"message": "overloaded"}}),
    "no message": as_json({"choices": [{}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}),
    "no text": answers(None),
    "no reason": answers("x", finish_reason=None),
    "odd logprobs": answers("x", logprobs={"content": [{"logprob": "low"}]}),
    "logprobs NaN": answers("x", logprobs={"content": [{"logprob": float("nan")}]}),
    "cut off": Reply(parts=[b'{"choices"'], declared=500),
    "nothing": Reply(parts=[], declared=500),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_is_survived(predictor_on, fault):
    with endpoint_server(fault) as server:
        predictor = predictor_on(server)
        assert predictor.answer([Request("fish")])[0].text == "echo of Say: fish"
    assert (predictor.usage.requests, predictor.usage.retries) == (2, 1)


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_stays_is_told_in_one_line(predictor_on, fault):
    with endpoint_server(*[fault] * 3) as server:
        predictor = predictor_on(server)
        line = told(lambda: predictor.answer([Request("fish")]))
    assert line.startswith(f"{server.url}/chat/completions gave ") and "after 3 attempts" in line
    assert len(server.seen) == 3
    assert fault.status == 200 or str(fault.status) in line


@pytest.mark.parametrize(
    "reply", [Reply(hold=Event()), Reply(parts=[], declared=9999, drip=True)], ids=["hang", "drip"]
)
def test_a_server_that_hangs_is_given_up(predictor_on, reply):
    with endpoint_server(reply, reply) as server:
        predictor = predictor_on(server, timeout_s=0.08, max_retries=1)
        line = told(lambda: predictor.answer([Request("fish")]))
    assert "no answer within 0.08 s after 2 attempts. Raise timeout_s" in line


def test_a_server_that_is_not_there_is_told(predictor_on):
    with endpoint_server() as server:
        pass
    line = told(lambda: predictor_on(server).answer([Request("fish")]))
    assert "no connection" in line and "Start the server" in line


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_request_that_is_wrong_fails_at_once_with_the_server_s_words(predictor_on, status):
    with endpoint_server(error(status, "because\nof\x1b[1m this " * 40)) as server:
        line = told(lambda: predictor_on(server).answer([Request("fish")]))
    assert f"gave {status}" in line and "because of [1m this" in line
    assert len(server.seen) == 1


def test_a_redirect_is_not_followed(predictor_on):
    with (
        endpoint_server() as other,
        endpoint_server(
            Reply(status=307, headers={"location": other.url + "/chat/completions"})
        ) as server,
    ):
        predictor = predictor_on(server, api_key_env="TEACHER_KEY")
        assert "Redirects are not followed" in told(lambda: predictor.answer([Request("fish")]))
    assert other.seen == []


def test_no_proxy_reads_what_goes_unencrypted(predictor_on, monkeypatch):
    with endpoint_server() as proxy, endpoint_server() as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        predictor_on(server).answer([Request("fish")])
    assert (len(server.seen), proxy.seen) == (1, [])


def test_pauses_grow_at_random_and_keep_to_what_the_server_asks(predictor_on):
    script = [error(500)] * 6 + [error(429, retry_after="40")]
    with endpoint_server(*script) as server:
        predictor = predictor_on(server, max_retries=8)
        predictor.answer([Request("fish")])
    assert len(predictor.pauses) == 7
    assert all(0 <= p <= 0.5 * 2**n for n, p in enumerate(predictor.pauses[:6]))
    assert len(set(predictor.pauses)) == 7 and predictor.pauses[6] == 40


def test_a_server_that_asks_for_too_long_a_pause_is_given_up(predictor_on):
    with endpoint_server(error(429, "later", retry_after="3600")) as server:
        predictor = predictor_on(server)
        line = told(lambda: predictor.answer([Request("fish")]))
    assert 'gave 429 and asks to wait 3600 s ("later"). Lower concurrency' in line
    assert predictor.pauses == []


def test_all_pauses_together_keep_to_their_limit(predictor_on):
    with endpoint_server(*[error(503, retry_after="3")] * 9) as server:
        predictor = predictor_on(server, max_retries=9, max_wait_s=10.0)
        told(lambda: predictor.answer([Request("fish")]))
    assert predictor.pauses == [3, 3, 3]


QUOTES = {
    "whole": f"bad prompt: {SECRET} with key {KEY}",
    "part": f"bad prompt: {SECRET[5:24]}… with key {KEY[:9]}***{KEY[-5:]}",
    "escaped": f"bad prompt: {SECRET.replace(',', chr(92) + 'u002c')!r} {KEY!r}",
    "lines": "bad prompt: " + SECRET.replace(" ", "\n  "),
}


@pytest.mark.parametrize("quote", QUOTES.values(), ids=QUOTES)
@pytest.mark.parametrize("status", [400, 500])
def test_neither_key_nor_prompt_is_in_an_error_or_a_log(predictor_on, caplog, quote, status):
    caplog.set_level(logging.DEBUG)
    with endpoint_server(*[error(status, quote)] * 3) as server:
        predictor = predictor_on(server, api_key_env="TEACHER_KEY")
        line = told(lambda: predictor.answer([Request(SECRET)]))
    assert "bad prompt: " in line
    logged = line + "".join(f"{record.getMessage()}" for record in caplog.records)
    assert "HTTP Request" in logged, "the client's own log must have been read"
    for private in ("Eagle", "phone", "1223", KEY[:7], KEY[-5:]):
        assert private not in logged


def test_hidden_text_is_marked_and_other_words_stay():
    assert hide("model is overloaded", ["a prompt about fish"], 8) == "model is overloaded"
    assert hide("no fish here", ["fish"], 8) == "no … here"
    assert hide("say \\u0444\\u044b\\u0432", ["фыв"], 8) == "say …"


# --- Many at once ---------------------------------------------------------------------------------


def test_a_fatal_error_stops_the_rest_and_loses_no_answer(predictor_on):
    with endpoint_server(*map(answers, "ab"), error(401)) as server:
        predictor = predictor_on(server, concurrency=1)
        each = predictor.answer_each([Request("fish")] * 10)
        found = [next(each), next(each)]
        assert "gave 401" in told(lambda: next(each))
    assert [(number, c.text) for number, c in found] == [(0, "a"), (1, "b")]
    assert len(server.seen) == 3


def test_an_answer_under_way_is_given_before_the_error(predictor_on):
    with endpoint_server() as server:
        release = Event()
        server.replies["Say: slow"] = replace(answers("paid for"), hold=release)
        server.replies["Say: bad"] = error(404)
        predictor = predictor_on(server, concurrency=2)
        requests = [Request("slow"), Request("bad"), Request("never"), Request("never")]
        Thread(target=set_after_first, args=(predictor, release)).start()
        each = predictor.answer_each(requests)
        number, completion = next(each)
        assert (number, completion.text) == (0, "paid for")
        assert "gave 404" in told(lambda: next(each))
    assert len(server.seen) == 2


def set_after_first(predictor, event):
    """Set `event` when one request is done with, and its thread has had time to say so."""
    while predictor.usage.requests < 1:
        Event().wait(0.002)
    Event().wait(0.05)
    event.set()


def test_a_caller_that_breaks_off_cancels_the_rest(predictor_on, monkeypatch):
    release, cancel = Event(), endpoint_engine._cancel

    def cancel_then_release(*given):
        cancel(*given)
        release.set()

    with endpoint_server() as server:
        predictor = predictor_on(server, concurrency=1)
        server.replies["Say: second"] = replace(answers("x"), hold=release)
        requests = [Request("first"), Request("second"), Request("never")]
        each = predictor.answer_each(requests)
        next(each)
        monkeypatch.setattr(endpoint_engine, "_cancel", cancel_then_release)
        each.close()
    assert len(server.seen) <= 2


def test_the_account_adds_up_over_threads(predictor_on):
    requests = [Request("one two three")] * 60
    with endpoint_server(error(500), error(500)) as server:
        predictor = predictor_on(server, concurrency=8)
        predictor.answer(requests)
    usage = predictor.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (60 * 4, 60 * 6)
    assert (usage.requests, usage.retries, usage.unmetered) == (62, 2, 0)
    assert usage.cost_usd == pytest.approx(estimate_cost(240, 360, predictor.settings))
    assert usage.seconds > 0


def test_garbage_that_was_paid_for_is_on_the_account(predictor_on):
    paid = as_json({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}})
    with endpoint_server(paid, Reply(b"oops"), answers("x y")) as server:
        predictor = predictor_on(server)
        predictor.answer([Request("fish")])
    expected = Usage(prompt_tokens=12, completion_tokens=11, requests=3, retries=2, unmetered=1)
    assert replace(predictor.usage, cost_usd=0.0, seconds=0.0) == expected
