"""Bodies of the OpenAI protocol: what is taken, what is refused, what it asks of a model."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_backend import CHAT, TEXT, Scripted, ask

from serving._decoding import Decoding
from serving._openai_errors import RequestError
from serving._openai_fields import IGNORED, REFUSED_IN_CHATS, REFUSED_IN_COMPLETIONS
from serving._openai_requests import Limits, Turn, read_chat, read_completion

LIMITS = Limits()
CONTRACT = {"max_new_tokens": 64, "answers": 4}


def chat(**fields):
    return read_chat(CHAT | fields, LIMITS)


def text(**fields):
    return read_completion(TEXT | fields, LIMITS)


def refused(read, body):
    with pytest.raises(RequestError) as caught:
        read(body, LIMITS)
    return caught.value


def test_what_is_not_said_is_the_models_own():
    assert chat().decoding == {}
    assert (chat().answers, chat().candidates, chat().stop, chat().stream) == (1, 1, (), False)


def test_null_is_the_same_as_absent():
    names = ["temperature", "top_p", "n", "seed", "stop", "stream", "stream_options", "user"]
    names += ["max_tokens", "max_completion_tokens", "context", "slots", *REFUSED_IN_CHATS]
    assert chat(**dict.fromkeys(names)) == chat()


@pytest.mark.parametrize(
    ("fields", "decoding"),
    [
        ({"temperature": 0}, {"method": "greedy", "beams": 1, "answers": 1}),
        ({"temperature": 0.001, "seed": 1}, {"method": "greedy", "seed": 1}),
        ({"temperature": 0.7, "seed": 7}, {"method": "sample", "temperature": 0.7, "seed": 7}),
        ({"top_p": 0.5, "seed": 7}, {"method": "sample", "top_p": 0.5, "seed": 7}),
        ({"n": 3}, {"method": "beam", "beams": 3, "answers": 1}),
        ({"n": 2, "temperature": 1, "seed": 0}, {"method": "sample", "beams": 1}),
        ({"max_tokens": 9}, {"max_new_tokens": 9}),
        ({"max_completion_tokens": 9}, {"max_new_tokens": 9}),
        ({"top_p": 1, "seed": 3}, {"seed": 3}),
    ],
)
def test_decoding_follows_from_the_request(fields, decoding):
    found = chat(**fields).decoding
    assert found.items() >= decoding.items()
    Decoding.from_dict(CONTRACT | found)  # what is not said is the contract's


def test_a_sample_without_a_seed_is_a_new_one_each_time():
    first, second = (chat(temperature=1).decoding["seed"] for _ in range(2))
    assert first != second


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_seed_of_the_protocol_is_one_of_ours(seed):
    found = Decoding.from_dict(CONTRACT | chat(temperature=1, seed=seed).decoding).seed
    assert found == (seed if seed >= 0 else seed + 2**64)


def test_earlier_messages_are_turns():
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "", "refusal": None, "annotations": [], "name": "x"},
        {"role": "user", "content": "now"},
    ]
    asked = chat(messages=messages)
    assert asked.turns == (Turn("system", "Be brief."), Turn("user", "a\nb"), Turn("assistant", ""))
    assert asked.prompts == ("now",)


def test_completions_take_one_prompt_or_several():
    assert text().prompts == ("ping",)
    assert text(prompt=["a", "b"]).prompts == ("a", "b")


def test_the_best_of_several_are_made_to_be_chosen_from():
    asked = text(n=2, best_of=5, temperature=1)
    assert (asked.answers, asked.candidates) == (2, 5)


def test_stop_is_one_text_or_several():
    assert chat(stop="x").stop == ("x",)
    assert chat(stop=["x", "y"]).stop == ("x", "y")


def test_what_changes_nothing_is_ignored():
    assert chat(**{name: {"any": 1} for name in IGNORED}) == chat()


@pytest.mark.parametrize("name", sorted(REFUSED_IN_CHATS))
def test_a_chats_field_that_would_change_the_answer_is_refused_by_name(name):
    error = refused(read_chat, CHAT | {name: {"something": True}})
    assert (error.status, error.code, error.parameter) == (422, "unsupported_parameter", name)
    for neutral in REFUSED_IN_CHATS[name].neutral:
        assert chat(**{name: neutral}) == chat()


@pytest.mark.parametrize("name", sorted(REFUSED_IN_COMPLETIONS))
def test_a_completions_field_that_would_change_the_answer_is_refused_by_name(name):
    error = refused(read_completion, TEXT | {name: 1})
    assert (error.code, error.parameter) == ("unsupported_parameter", name)
    for neutral in REFUSED_IN_COMPLETIONS[name].neutral:
        assert text(**{name: neutral}) == text()


def test_false_is_no_number_among_neutral_values():
    assert refused(read_chat, CHAT | {"presence_penalty": False}).parameter == "presence_penalty"


@pytest.mark.parametrize(
    ("fields", "parameter", "told"),
    [
        ({"temperature": -0.1}, "temperature", "from 0 (the likeliest token) to 2, found -0.1"),
        ({"temperature": True}, "temperature", "found true"),
        ({"temperature": "1"}, "temperature", "found a text of 1 characters"),
        ({"top_p": 0}, "top_p", "above 0, at most 1, found 0"),
        ({"top_p": 1.5}, "top_p", "found 1.5"),
        ({"n": 0}, "n", "from 1, found 0"),
        ({"n": True}, "n", "found true"),
        ({"n": 9}, "n", "at most 8, found 9"),
        ({"n": 10**40}, "n", "found a number of 41 digits"),
        ({"n": 2, "temperature": 0}, "n", "temperature 0 has one answer"),
        ({"max_tokens": 0}, "max_tokens", "from 1 [tokens], found 0"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "differ"),
        ({"seed": 2**63}, "seed", "64 bits"),
        ({"stop": ""}, "stop", "found an empty text"),
        ({"stop": list("abcde")}, "stop", "at most 4 texts, found 5"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"stream_options": {}}, "stream_options", "stream true"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown"),
        ({"slots": {"a": 1}}, "slots.a", "texts by slot name"),
        ({"model": ""}, "model", "/v1/models"),
        ({"messages": []}, "messages", "found an empty list"),
        ({"messages": "ping"}, "messages", "found a text"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "last message"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages", "not be empty"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "tools are not"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
        ({"messages": ["ping"]}, "messages[0]", "found a text"),
        ({"temprature": 1}, "temprature", "unknown here"),
    ],
)
def test_a_wrong_field_of_a_chat_is_named(fields, parameter, told):
    error = refused(read_chat, CHAT | fields)
    assert (error.status, error.parameter) == (422, parameter)
    assert told in error.message


@pytest.mark.parametrize(
    ("fields", "parameter", "told"),
    [
        ({"prompt": ""}, "prompt", "found an empty text"),
        ({"prompt": []}, "prompt", "found an empty list"),
        ({"prompt": [1, 2]}, "prompt[0]", "no token ids"),
        ({"prompt": [[1, 2]]}, "prompt[0]", "no token ids"),
        ({"prompt": ["a"] * 33}, "prompt", "at most 32, found 33"),
        ({"prompt": ["a", "b"], "slots": {"x": "y"}}, "slots", "one prompt"),
        ({"n": 3, "best_of": 2}, "best_of", "at least n, found 2 and 3"),
        ({"best_of": 9}, "best_of", "at most 8, found 9"),
        ({"best_of": 2, "stream": True}, "best_of", "at the end only"),
    ],
)
def test_a_wrong_field_of_a_completion_is_named(fields, parameter, told):
    error = refused(read_completion, TEXT | fields)
    assert (error.status, error.parameter) == (422, parameter)
    assert told in error.message


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_other_than_text_in_a_message_is_refused(kind):
    parts = [{"type": "text", "text": "see"}, {"type": kind, kind: {"url": "x"}}]
    error = refused(read_chat, CHAT | {"messages": [{"role": "user", "content": parts}]})
    assert error.parameter == "messages[0].content[1].type"
    assert "images" in error.message


def test_several_mistakes_are_told_together():
    error = refused(read_chat, {"model": "m", "n": 0, "temperature": 3, "messages": []})
    assert all(name in error.message for name in ("n must", "temperature must", "messages must"))


def test_limits_are_settings():
    few = replace(LIMITS, answers=1)
    with pytest.raises(RequestError, match="at most 1"):
        read_chat(CHAT | {"n": 2}, few)


BODY = json.dumps(CHAT).encode()


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "empty"),
        (b"{", 400, "line 1, column 2"),
        (b'{"model": "secret" "x"}', 400, "column 20"),
        (b"[1]", 400, "found a list"),
        (b'"text"', 400, "found a text"),
        (b"null", 400, "found null"),
        (BODY[:-1] + b', "seed": NaN}', 400, "NaN"),
        (BODY[:-1] + b', "seed": -Infinity}', 400, "-Infinity"),
        (BODY[:-1] + b', "top_p": 1e999}', 400, "too large"),
        (BODY[:-1] + b', "seed": ' + b"9" * 5000 + b"}", 400, "5,000 digits"),
        (BODY[:-1] + b', "n": 1, "n": 2}', 400, "'n' is there twice"),
        (b"[" * 100_000, 400, "deeper"),
        (b'{"store":' * 40 + b"1" + b"}" * 40, 400, "deeper"),
        (b'\xff\xfe{"model": 1}', 400, "byte 0"),
        (BODY[:-2] + b"\xc3(}", 400, "not UTF-8"),
        (b'\xef\xbb\xbf{"model": 1}', 400, "not JSON"),
        (BODY[:-1] + b', "user": "\\ud800"}', 400, "surrogate"),
        (BODY[:-1] + b', "user": "a\nb"}', 400, "not JSON"),
    ],
)
def test_a_body_that_is_not_one_json_object_is_a_400(body, status, told):
    response = ask(Scripted(), body=body)
    error = response.json()["error"]
    assert response.status_code == status
    assert told in error["message"]
    assert error["code"] == "invalid_json"
    assert "secret" not in response.text


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": None},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-encoding": "gzip"},
    ],
)
def test_another_content_type_is_a_415(headers):
    response = ask(Scripted(), body=CHAT, headers=headers)
    assert response.status_code == 415
    assert response.json()["error"]["code"] == "unsupported_media_type"


@pytest.mark.parametrize("kind", ["application/json;charset=UTF-8", "Application/JSON"])
def test_json_has_several_spellings(kind):
    assert ask(Scripted(), body=CHAT, headers={"content-type": kind}).status_code == 200


@pytest.mark.parametrize(
    ("accept", "stream", "status"),
    [
        ("*/*", True, 200),
        ("text/event-stream", True, 200),
        ("application/json", True, 200),  # the official client asks so
        ("TEXT/*;q=0.5, image/png", True, 200),
        ("", True, 200),
        ("text/event-stream", False, 406),
        ("text/html", True, 406),
        ("*/*, text/event-stream;q=0, application/json;q=0", True, 406),
        ("text/event-stream;q=2", True, 400),
        ("text/event-stream;q=", True, 400),
        ("event-stream", True, 400),
        ("text/event-stream text/html", True, 400),
        ("*/event-stream", True, 400),
        ("text/", True, 400),
    ],
)
def test_the_accept_header_is_read(accept, stream, status):
    response = ask(Scripted(), body=CHAT | {"stream": stream}, headers={"accept": accept})
    assert response.status_code == status
    if status != 200:
        wanted = {400: "invalid_accept", 406: "not_acceptable"}[status]
        assert response.json()["error"]["code"] == wanted


def test_no_error_repeats_a_text_of_the_request():
    texts = {"content": "my secret", "role": "my secret"}
    for body in (CHAT | {"messages": [texts]}, CHAT | {"stop": ["my secret"] * 9}):
        response = ask(Scripted(), body=body)
        assert response.status_code == 422
        assert "secret" not in response.text
