"""The official client against a real server: what it asks works, what fails it understands."""

import asyncio

import openai
import pytest
from _bentoml_impl.server.mount import PassiveMount
from scripted_backend import CHAT, TEXT, Scripted, answered, choice, forever, pieces, serving
from starlette.applications import Starlette
from starlette.testclient import TestClient

from serving._items import Answer, ServiceError
from serving._openai_responses import ABSTAINED, Answered, Begun, Ended, Spent
from serving._openai_routes import build_app

pytestmark = pytest.mark.slow
WAIT_S = 20


@pytest.fixture(scope="module")
def backend():
    return Scripted()


@pytest.fixture(scope="module")
def address(backend):
    with serving(build_app(backend)) as found:
        yield found


@pytest.fixture
def client(backend, address):
    backend.__init__()
    with openai.OpenAI(api_key="k", base_url=f"{address}/v1", max_retries=0) as found:
        yield found


def run_async(address, call):
    async def run():
        url = f"{address}/v1"
        async with openai.AsyncOpenAI(api_key="k", base_url=url, max_retries=0) as client:
            return await call(client)

    return asyncio.run(run())


def test_a_chat_is_answered(client):
    answer = client.chat.completions.create(**CHAT)
    assert answer.choices[0].message.content == "pong"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.system_fingerprint == "fp_0123456789ab"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 3, 8)


def test_a_completion_is_answered(client):
    answer = client.completions.create(**TEXT)
    assert answer.choices[0].text == "pong"
    assert answer.object == "text_completion"
    assert answer.usage.total_tokens == 8


def test_answers_of_several_prompts_are_numbered_through(client, backend):
    one, two = [choice("a"), choice("b")], [choice("c")]
    backend.whole = Answered([Answer(id="1", choices=one), Answer(id="2", choices=two)])
    answer = client.completions.create(model="still-1", prompt=["x", "y"], n=2)
    assert [(c.index, c.text) for c in answer.choices] == [(0, "a"), (1, "b"), (2, "c")]


def test_a_chat_streams(client):
    chunks = list(client.chat.completions.create(**CHAT, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "pong"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks] == [None, None, None, "stop"]
    assert chunks[-1].usage.total_tokens == 8
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_that_is_asked_for_is_a_chunk_without_choices(client):
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(**CHAT, stream=True, stream_options=options))
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * 4
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 3


def test_a_completion_streams(client):
    chunks = list(client.completions.create(**TEXT, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "pong"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens == 8


def test_several_choices_stream_by_their_index(client, backend):
    one, two = pieces("a", "b", index=0), pieces("c", index=1, reason="length")
    backend.events = [Begun(5), one[0], two[0], one[1], two[1], one[2]]
    texts, reasons = ["", ""], [None, None]
    for chunk in client.chat.completions.create(**CHAT, n=2, temperature=1, stream=True):
        for part in chunk.choices:
            texts[part.index] += part.delta.content or ""
            reasons[part.index] = reasons[part.index] or part.finish_reason
    assert (texts, reasons) == (["ab", "c"], ["stop", "length"])
    assert chunk.usage.completion_tokens == 5


def test_the_clients_own_accumulation_of_a_stream_works(client):
    with client.chat.completions.stream(**CHAT) as stream:
        done = stream.get_final_completion()
    assert done.choices[0].message.content == "pong"
    assert done.usage.total_tokens == 8


def test_an_abstention_is_the_same_refusal_whether_it_streams_or_not(client, backend):
    routing = {"rung": None, "sure": False, "source": "miss", "tried": []}
    routing |= {"checks": {"slots": "not_run", "grounding": "not_run"}, "guard": {"in": "clean"}}
    backend.whole = answered("", routing=routing, abstained=True)
    backend.events = [Begun(5), Spent({}, routing), Ended("stop", 0)]
    whole = client.chat.completions.create(**CHAT).choices[0].message
    with client.chat.completions.stream(**CHAT) as stream:
        told = [one.delta for one in stream if one.type == "refusal.delta"]
        streamed = stream.get_final_completion().choices[0].message
    assert told == [ABSTAINED]
    for message in (whole, streamed):
        assert (message.content, message.refusal) == (None, ABSTAINED)


def test_text_beyond_ascii_arrives_whole(client, backend):
    text = "Straße \u2028 naïve \U0001f43f\r\n\x85 end"
    backend.events = [Begun(5), *pieces(*text)]
    chunks = client.chat.completions.create(**CHAT, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == text
    backend.whole = answered(text)
    assert client.chat.completions.create(**CHAT).choices[0].message.content == text


def test_our_own_fields_go_through_extra_body(client, backend):
    extra = {"context": "the runbook", "slots": {"service": "api"}}
    client.chat.completions.create(**CHAT, extra_body=extra)
    assert backend.asked[-1].context == "the runbook"
    assert backend.asked[-1].slots == {"service": "api"}


def test_what_was_dropped_is_in_usage(client, backend):
    backend.whole = answered("pong", dropped_tokens=40, dropped_turns=2)
    usage = client.chat.completions.create(**CHAT).usage
    assert (usage.dropped_tokens, usage.dropped_turns) == (40, 2)


def test_an_answer_can_be_sent_back_as_a_turn(client, backend):
    message = client.chat.completions.create(**CHAT).choices[0].message
    turns = [*CHAT["messages"], message, {"role": "user", "content": "again"}]
    client.chat.completions.create(model="still-1", messages=turns)
    assert [turn.text for turn in backend.asked[-1].turns] == ["ping", "pong"]
    assert backend.asked[-1].prompts == ("again",)


def test_models_are_listed_and_found(client):
    assert [model.id for model in client.models.list()] == ["still-1", "org/still-2"]
    assert client.models.retrieve("still-1").owned_by == "stillhouse"
    assert client.models.retrieve("org/still-2").created == 1_700_000_001


@pytest.mark.parametrize(
    ("refusal", "kind", "code"),
    [
        ("invalid_request", openai.UnprocessableEntityError, "invalid_value"),
        ("invalid_key", openai.AuthenticationError, "invalid_api_key"),
        ("forbidden", openai.PermissionDeniedError, "forbidden"),
        ("unknown_model", openai.NotFoundError, "model_not_found"),
        ("body_too_large", openai.APIStatusError, "request_too_large"),
        ("prompt_too_long", openai.UnprocessableEntityError, "context_length_exceeded"),
        ("rate_limited", openai.RateLimitError, "rate_limit_exceeded"),
        ("overloaded", openai.InternalServerError, "overloaded"),
        ("expired", openai.InternalServerError, "deadline_exceeded"),
        ("draining", openai.InternalServerError, "shutting_down"),
        ("unavailable", openai.InternalServerError, "unavailable"),
        ("internal", openai.InternalServerError, "internal_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_raises_the_clients_own_exception(client, backend, refusal, kind, code, stream):
    error = ServiceError(refusal, "no, because of a reason", 2.2, "messages")
    backend.whole, backend.events = error, [Begun(5), error]
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**CHAT, stream=stream)
    assert caught.value.code == code
    assert caught.value.request_id
    if refusal != "internal":
        assert "because of a reason" in caught.value.message
        assert caught.value.param == "messages"
        assert caught.value.response.headers["retry-after"] == "3"


def test_an_error_in_a_stream_raises_after_what_came(client, backend):
    error = ServiceError("draining", "the service is going down")
    backend.events = [Begun(5), pieces("po")[0], error]
    told = []
    with pytest.raises(openai.APIError, match="going down") as caught:
        for chunk in client.chat.completions.create(**CHAT, stream=True):
            told.append(chunk.choices[0].delta.content)
    assert told == ["", "po"]
    assert caught.value.code == "shutting_down"


def test_unknown_models_and_parameters_are_told(client):
    with pytest.raises(openai.NotFoundError, match="still-1"):
        client.chat.completions.create(model="gpt-4", messages=CHAT["messages"])
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.UnprocessableEntityError, match="tools") as caught:
        client.chat.completions.create(**CHAT, tools=[{"type": "function"}])
    assert (caught.value.code, caught.value.param) == ("unsupported_parameter", "tools")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="still-1", input="x")


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/v1/embeddings", "POST", 404), ("/v1/completions", "GET", 405)]
)
def test_bentomls_mount_leaves_the_protocols_errors_as_they_are(path, method, status):
    app = Starlette(routes=[PassiveMount("/", build_app(Scripted()))])
    response = TestClient(app).request(method, path, json=TEXT)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_the_asynchronous_client_is_answered(client, address):
    async def call(other):
        whole = await other.chat.completions.create(**CHAT)
        stream = await other.completions.create(**TEXT, stream=True)
        return whole.choices[0].message.content, [chunk.choices[0].text async for chunk in stream]

    assert run_async(address, call) == ("pong", ["po", "ng", ""])


def test_a_client_that_leaves_a_stream_ends_the_work(client, backend):
    backend.events = [Begun(5), *pieces("po")[:1], forever]
    stream = client.chat.completions.create(**CHAT, stream=True)
    next(iter(stream))
    stream.close()
    assert backend.left.wait(WAIT_S)


def test_a_client_that_leaves_before_the_answer_ends_the_work(address, client, backend):
    begun = asyncio.Event()

    async def leave(other):
        loop = asyncio.get_running_loop()

        async def never():
            loop.call_soon_threadsafe(begun.set)
            await forever()

        backend.whole = never
        asking = asyncio.create_task(other.chat.completions.create(**CHAT))
        await begun.wait()
        asking.cancel()

    run_async(address, leave)
    assert backend.left.wait(WAIT_S)


def test_a_stop_text_ends_the_work_of_a_stream(client, backend):
    backend.events = [Begun(5), *pieces("one ", "two", " three")[:3], forever, Ended("stop", 9)]
    chunks = list(client.chat.completions.create(**CHAT, stream=True, stop=[" th"]))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "one two"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 3
    assert backend.left.wait(WAIT_S)
