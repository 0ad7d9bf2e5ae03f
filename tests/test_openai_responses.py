"""What the OpenAI routes send: objects, streams, errors; and that work ends when nobody waits."""

import asyncio
import json
import logging
from functools import partial
from types import SimpleNamespace

import pytest
from scripted_backend import (
    CHAT,
    TEXT,
    Scripted,
    answered,
    ask,
    choice,
    events_of,
    forever,
    pieces,
)

from serving._items import Answer, ServiceError
from serving._openai_errors import KINDS, error_body, error_headers
from serving._openai_responses import Answered, Begun, Ended, Piece
from serving._openai_routes import build_app

STREAM = CHAT | {"stream": True}


def test_a_chat_is_the_protocols_object():
    body = ask(Scripted(), body=CHAT).json()
    identifier, created = body.pop("id"), body.pop("created")
    assert identifier.startswith("chatcmpl-") and type(created) is int
    message = {"role": "assistant", "content": "pong", "refusal": None}
    choices = [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]
    assert body == {
        "object": "chat.completion",
        "model": "still-1",
        "system_fingerprint": "fp_0123456789ab",
        "choices": choices,
        "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
    }


def test_how_sure_the_model_was_is_said_where_it_is_known():
    sure = choice(confidence=0.9, mean_logprob=-0.2, min_logprob=-1.0)
    backend = Scripted(Answered([Answer(id="a", choices=[sure])]))
    (found,) = ask(backend, body=CHAT).json()["choices"]
    assert (found["confidence"], found["mean_logprob"], found["min_logprob"]) == (0.9, -0.2, -1.0)
    backend.events = [Begun(1), Ended("stop", 1, confidence=0.5)]
    assert events_of(ask(backend, body=STREAM))[-2]["choices"][0]["confidence"] == 0.5


def test_the_best_are_returned_and_all_are_counted():
    body = TEXT | {"n": 1, "best_of": 3, "temperature": 1}
    found = ask(Scripted(answered("a", "b", "c")), "/v1/completions", body).json()
    assert [one["text"] for one in found["choices"]] == ["a"]
    assert found["usage"]["completion_tokens"] == 9


def test_equal_answers_are_one_and_indices_still_tell_the_prompts_apart():
    answers = [Answer(id="1", choices=[choice("a")]), Answer(id="2", choices=[choice("b")])]
    body = TEXT | {"prompt": ["x", "y"], "n": 3, "temperature": 1}
    found = ask(Scripted(Answered(answers)), "/v1/completions", body).json()
    assert [one["index"] for one in found["choices"]] == [0, 3]


def test_a_refused_prompt_refuses_the_request():
    whole = Answered([Answer(id="a", refusal="expired", message="too late")])
    response = ask(Scripted(whole), body=CHAT)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["message"] == "too late"


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_text_cuts_the_answer(stream):
    whole = Answered([Answer(id="a", choices=[choice("one two", "length")])])
    backend = Scripted(whole, [Begun(1), *pieces("one", " t", "wo", reason="length")])
    body = TEXT | {"stop": ["tw", "zzz"], "stream": stream}
    response = ask(backend, "/v1/completions", body)
    chunks = events_of(response)[:-1] if stream else [response.json()]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "one "
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_text_that_only_began_a_stop_text_is_sent_at_the_end():
    backend = Scripted(events=[Begun(1), *pieces("one t", reason="length")])
    chunks = events_of(ask(backend, "/v1/completions", TEXT | {"stop": "two", "stream": True}))
    assert [one["choices"][0]["text"] for one in chunks[:-1]] == ["one ", "t", ""]
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"


def test_a_stream_ends_with_its_reason_its_usage_and_the_last_word():
    response = ask(Scripted(), body=STREAM)
    *_, last, word = events_of(response)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert word == "[DONE]"


def test_usage_is_null_until_its_chunk_where_it_is_asked_for():
    body = STREAM | {"stream_options": {"include_usage": True}}
    backend = Scripted(events=[Begun(5, 30, 2), *pieces("pong")])
    *chunks, last, _ = events_of(ask(backend, body=body))
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks)
    assert last["choices"] == []
    assert (last["usage"]["dropped_tokens"], last["usage"]["dropped_turns"]) == (30, 2)


def test_an_error_before_the_first_piece_is_an_http_error():
    error = ServiceError("overloaded", "the queue is full", 7)
    response = ask(Scripted(events=[Begun(5), error]), body=STREAM)
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")
    assert response.headers["content-type"] == "application/json"


def test_an_error_after_it_is_an_event_and_the_end_without_the_last_word():
    error = ServiceError("expired", "the deadline passed")
    response = ask(Scripted(events=[Begun(5), Piece("po"), error]), body=STREAM)
    *chunks, last = events_of(response)
    assert response.status_code == 200
    assert len(chunks) == 2
    assert last["error"]["code"] == "deadline_exceeded"


@pytest.mark.parametrize(
    "events", [[Begun(5), Piece("po")], [Begun(5), *pieces("po"), Piece("x", index=1)]]
)
def test_a_stream_without_a_finish_reason_is_an_error(events):
    backend = Scripted(events=events)
    assert events_of(ask(backend, body=STREAM | {"n": 2}))[-1]["error"]["code"] == "internal_error"


def test_a_stream_of_nothing_is_an_http_error():
    assert ask(Scripted(events=[Begun(5)]), body=STREAM).status_code == 500


def test_what_comes_after_a_choices_end_is_left_out():
    backend = Scripted(events=[Begun(1), *pieces("a"), Piece("late"), *pieces("b", index=1)])
    body = TEXT | {"n": 2, "stream": True}
    chunks = events_of(ask(backend, "/v1/completions", body))[:-1]
    assert "".join(one["choices"][0]["text"] for one in chunks) == "ab"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [ValueError, partial(ServiceError, "internal")])
def test_a_fault_of_ours_is_a_500_whose_log_holds_no_text(stream, kind, caplog):
    error = kind("the prompt was: my secret")
    backend = Scripted(error, [Begun(1), error])
    with caplog.at_level(logging.DEBUG):
        response = ask(backend, body=CHAT | {"stream": stream})
    identifier = response.headers["x-request-id"]
    assert response.status_code == 500
    assert "secret" not in response.text + caplog.text
    assert identifier in response.json()["error"]["message"]
    assert f"{identifier} failed: {type(error).__name__} at" in caplog.text


@pytest.mark.parametrize("stream", [False, True])
def test_work_that_was_cancelled_from_inside_is_answered(stream):
    async def cancelled():
        raise asyncio.CancelledError

    backend = Scripted(cancelled, [Begun(1), cancelled])
    assert ask(backend, body=CHAT | {"stream": stream}).status_code in (500, 503)


@pytest.mark.parametrize("refusal", sorted(KINDS))
def test_every_refusal_has_the_protocols_form(refusal):
    error = ServiceError(refusal, "why", parameter="n")
    body = error_body(error).model_dump()["error"]
    assert (body["message"], body["param"]) == ("why", "n")
    assert body["type"] and body["code"]
    assert ("retry-after" in error_headers(error)) == (error.status in (429, 503))


@pytest.mark.parametrize(
    ("seconds", "header"),
    [(0.0, "1"), (-3, "1"), (0.2, "1"), (1.01, "2"), (60, "60"), (float("inf"), "1")],
)
def test_retry_after_is_whole_seconds(seconds, header):
    error = ServiceError("rate_limited", "slowly", seconds)
    assert error_headers(error) == {"retry-after": header}


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/chat/completions", "GET", 405),
        ("/v1/chat/completions", "PUT", 405),
        ("/v1/models", "POST", 405),
        ("/v1/models/still-1", "DELETE", 405),
        ("/v1/chat/completions/", "POST", 404),
        ("/v1/embeddings", "POST", 404),
        ("/v1/models/gpt-4", "GET", 404),
        ("/v1/models/", "GET", 404),
        ("/v1", "GET", 404),
        ("/elsewhere", "GET", 404),
    ],
)
def test_paths_and_methods_that_are_not_there(path, method, status):
    response = ask(Scripted(), path, CHAT, method=method)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    assert ("allow" in response.headers) == (status == 405)


def test_models_are_listed():
    body = ask(Scripted(), "/v1/models", method="GET").json()
    first = {"id": "still-1", "object": "model", "created": 1_700_000_000}
    assert body["data"][0] == first | {"owned_by": "stillhouse"}
    assert ask(Scripted(), "/v1/models/org/still-2", method="GET").json()["id"] == "org/still-2"


async def drive(app, body, gone, state=None, sent=None):
    """One request by hand; `gone` says when the client leaves. Returns the messages sent."""
    parts = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    messages = [] if sent is None else sent

    async def receive():
        if parts:
            return parts.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        messages.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "root_path": ""}
    scope |= {"headers": [(b"content-type", b"application/json")], "query_string": b""}
    await app(scope | {"state": {} if state is None else state}, receive, send)
    return messages


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("told", [0, 1])
def test_a_client_that_leaves_ends_the_work_at_once(stream, told):
    async def leave():
        gone = asyncio.Event()

        async def never():
            gone.set()
            await forever()

        before = [Piece("po")] if told else []
        backend = Scripted(never, [Begun(5), *before, never])
        await drive(build_app(backend), CHAT | {"stream": stream}, gone)
        return backend.left.is_set()

    assert asyncio.run(leave())


def test_a_client_that_reads_slowly_slows_the_model_down():
    async def read(count):
        backend = Scripted(events=[Begun(5), *pieces(*"abcdefghij")])
        gone, stuck = asyncio.Event(), asyncio.Event()

        class Full(list):
            def append(self, message):
                super().append(message)
                if len(self) == count:
                    stuck.set()
                    raise OSError

        await asyncio.wait_for(drive(build_app(backend), STREAM, gone, sent=Full()), 20)
        return stuck.is_set(), backend.told

    was_stuck, told = asyncio.run(read(3))
    assert was_stuck
    assert told <= 6  # of 12: those sent and a frame or two ahead


def test_the_requests_state_reaches_the_backend_and_names_the_answer():
    backend = Scripted()
    state = {"admitted": SimpleNamespace(id="unique", request_id="the-callers")}
    messages = asyncio.run(drive(build_app(backend), CHAT, asyncio.Event(), state))
    assert backend.states == [state]
    assert json.loads(messages[-1]["body"])["id"] == "chatcmpl-unique"
    assert (b"x-request-id", b"the-callers") in messages[0]["headers"]


def test_chunks_are_ascii_in_one_line():
    backend = Scripted(events=[Begun(1), *pieces("ü\u2028\r\n\x85\U0001f43f")])
    response = ask(backend, body=STREAM)
    assert response.content.isascii()
    assert events_of(response)[1]["choices"][0]["delta"]["content"] == "ü\u2028\r\n\x85\U0001f43f"
