"""The teacher's service over HTTP: what is sent, what is believed, its address and its key."""

import asyncio
import logging

import pytest
from cascade_cases import DIGEST, KEY, completion, item, refusal, remote

from serving._cascade.teacher import TeacherService
from serving._cascade.teacher_protocol import body_of
from serving.errors import StillhouseError


def test_a_request_is_sent_whole_and_its_answer_is_ours():
    async def check():
        async with remote(longest=40) as (server, teacher):
            asked = item(
                context="menu",
                slots={"food": "fish"},
                timeout_s=9.0,
                decoding={"max_new_tokens": 64},
                traceparent="00-1-2-01",
            )
            found = await teacher.answer(asked)
            (body, headers) = server.seen[0]
            assert body == {
                "model": "student",
                "prompt": "fish",
                "context": "menu",
                "slots": {"food": "fish"},
                "max_tokens": 40,
            }
            assert headers["authorization"] == f"Bearer {KEY}"
            assert 8.5 < float(headers["x-request-timeout-s"]) < 9.0
            assert (headers["x-request-id"], headers["traceparent"]) == ("one", "00-1-2-01")
            (choice,) = found.choices
            assert (choice.text, choice.mean_logprob, choice.confidence) == ("a fish", -0.1, None)
            assert (found.prompt_tokens, choice.completion_tokens) == (7, 3)
            assert found.compute_s > 0 and found.batch_rows == 1

    asyncio.run(check())


@pytest.mark.parametrize(
    ("decoding", "answers", "said"),
    [
        ({"method": "greedy", "beams": 1, "answers": 1}, 1, {"temperature": 0}),
        (
            {"method": "sample", "temperature": 0.7, "seed": 2**64 - 1},
            1,
            {"temperature": 0.7, "seed": -1},
        ),
        ({"method": "sample", "top_p": 0.5}, 3, {"top_p": 0.5, "n": 3}),
        ({"method": "beam", "beams": 4, "answers": 1}, 4, {"n": 4}),
    ],
)
def test_decoding_is_said_in_the_protocol_s_words(decoding, answers, said):
    body = body_of(item(decoding=decoding, answers=answers), "student", None)
    assert body == {"model": "student", "prompt": "fish", **said}


@pytest.mark.parametrize(
    "decoding", [{"length_penalty": 2.0}, {"method": "beam", "beams": 4}, {"answers": 4}]
)
def test_decoding_that_has_no_words_is_refused_and_not_sent(decoding):
    async def check():
        async with remote() as (server, teacher):
            error = await refusal(teacher.answer(item(decoding=decoding)))
            assert error.refusal == "invalid_request" and server.seen == []

    asyncio.run(check())


def test_one_connection_serves_one_request_after_the_other():
    async def check():
        async with remote() as (server, teacher):
            for _ in range(3):
                await teacher.answer(item())
            assert len(server.connections) == 1 and teacher.counts.answered == 3

    asyncio.run(check())


# --- Whose answer it is ---------------------------------------------------------------------------


@pytest.mark.parametrize("fingerprint", ["0" * 12, None, DIGEST])
def test_an_answer_of_another_model_is_never_given(fingerprint):
    async def check():
        async with remote() as (server, teacher):
            server.script = [completion(), completion(fingerprint=fingerprint), completion()]
            await teacher.answer(item())
            error = await refusal(teacher.answer(item()))
            assert error.refusal == "unavailable" and "another model" in error.message
            await teacher.answer(item())  # one mistake is no outage
            counts = teacher.counts
            assert (counts.foreign, counts.faults, counts.answered) == (1, 1, 2)

    asyncio.run(check())


@pytest.mark.parametrize(
    "given",
    [
        [1, 2],
        completion() | {"choices": []},
        completion() | {"choices": completion()["choices"] * 2},
        completion(finish_reason="tired"),
        completion() | {"usage": {"prompt_tokens": -1, "completion_tokens": 3}},
        completion(text="x" * (5 << 20)),
    ],
)
def test_what_is_no_answer_is_not_given(given):
    async def check():
        async with remote() as (server, teacher):
            server.script = [given]
            error = await refusal(teacher.answer(item()))
            assert (error.refusal, teacher.counts.faults) == ("unavailable", 1)

    asyncio.run(check())


# --- Address and key ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["http://teacher.example", "ftp://x", "https://u:pw@x", "https://x/v1", "https://x:y", "unix:"],
)
def test_an_address_that_would_leak_or_is_none_is_refused_without_being_repeated(url):
    with pytest.raises(StillhouseError) as caught:
        TeacherService(url, KEY, model_sha256=DIGEST)
    assert "pw" not in str(caught.value) and KEY not in str(caught.value)


@pytest.mark.parametrize("url", ["https://teacher.example", "http://[::1]:3000", "unix:///run/t"])
def test_an_address_that_is_safe_is_taken(url):
    TeacherService(url, None, model_sha256=DIGEST)


def test_plain_http_beyond_this_machine_must_be_allowed_by_name():
    TeacherService("http://teacher:3000", KEY, model_sha256=DIGEST, allow_insecure=True)


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "é"])
def test_a_key_that_is_none_is_refused_without_being_repeated(key):
    with pytest.raises(StillhouseError, match="characters that no key has") as caught:
        TeacherService("https://x", key, model_sha256=DIGEST)
    assert not key or key not in str(caught.value)


def test_neither_key_nor_prompt_is_logged_or_told(caplog):
    async def check():
        caplog.set_level(logging.DEBUG)
        async with remote() as (server, teacher):
            server.script = [completion(), (401, {}), (500, {}), {"x": "secret"}]
            await teacher.answer(item("a secret"))
            errors = [await refusal(teacher.answer(item("a secret"))) for _ in range(3)]
            told = caplog.text + repr(errors) + repr(teacher)
            assert KEY not in told and "secret" not in told

    asyncio.run(check())
