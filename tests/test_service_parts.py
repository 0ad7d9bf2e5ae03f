"""What the processes do with items, and which bodies they take at all."""

import asyncio
import json
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from serving._admission import TIMEOUT_HEADER, read_deadline
from serving._baseline_service import answer_items
from serving._entry_gate import limits_of
from serving._items import Answer, Item, ServiceError
from serving._model_gate import PICKLE, RefusePickle
from serving._native import AskBody, CheckNativeBodies, GenerateBody, check_body, native_asked
from serving._service_settings import ServiceSettings
from serving._student_service import StudentWork
from serving.completion import Completion
from serving.errors import StillhouseError

JSON = {"content-type": "application/json"}


class Scheduling:
    """A scheduler that keeps what it was handed."""

    def __init__(self):
        self.left, self.emits = {}, []

    def submit_many(self, items, left):
        self.left |= {item.id: event for item, event in zip(items, left, strict=True)}
        futures = [Future() for _ in items]
        for item, future in zip(items, futures, strict=True):
            future.set_result(Answer(id=item.id, refusal="expired" if item.id == "late" else None))
        return futures

    def stream(self, item, emit, left):
        self.left[item.id] = left
        self.emits.append(emit)


class Predicting:
    """A predictor that fails where it reads "bad"."""

    contract = SimpleNamespace(limits={"max_prompt_chars": 10})

    def answer(self, requests):
        if any(request.prompt == "bad" for request in requests):
            raise StillhouseError("bad is not good")
        return [Completion(r.prompt.upper(), 1, 2, "stop", 0.5) for r in requests]


def item(name, prompt="fish"):
    return Item(id=name, prompt=prompt)


def test_answers_come_in_order_with_their_refusals():
    work = StudentWork(Scheduling())
    found = asyncio.run(work.answer([item("a"), item("late")]))
    assert [(answer.id, answer.refusal) for answer in found] == [("a", None), ("late", "expired")]


def test_an_item_whose_caller_left_before_it_came_is_marked_so_once():
    scheduling = Scheduling()
    work = StudentWork(scheduling)
    work.cancel(["a"])
    asyncio.run(work.answer([item("a"), item("b")]))
    assert (scheduling.left["a"].is_set(), scheduling.left["b"].is_set()) == (True, False)
    asyncio.run(work.answer([item("a")]))
    assert not scheduling.left["a"].is_set()


def test_a_stream_is_lines_of_pieces_and_its_answer():
    scheduling = Scheduling()

    async def read():
        lines = StudentWork(scheduling).lines(item("s"))
        first = await anext(lines)
        reading = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        for one in ("é\n", Answer(id="s")):
            scheduling.emits[0](one)
        return [first, await reading, *[line async for line in lines]]

    empty, piece, answer = asyncio.run(read())
    assert (empty, json.loads(piece)) == ("\n", {"piece": "é\n"})
    assert json.loads(answer)["answer"]["id"] == "s"
    assert all(line.count("\n") == 1 for line in (piece, answer))


@pytest.mark.parametrize("by", ["closing", "id"])
def test_a_stream_whose_caller_left_is_marked_so(by):
    scheduling = Scheduling()

    async def leave():
        work = StudentWork(scheduling)
        lines = work.lines(item("s"))
        await anext(lines)
        reading = asyncio.ensure_future(anext(lines))
        await asyncio.sleep(0)
        assert not scheduling.left["s"].is_set()
        if by == "id":
            work.cancel(["s"])
            assert scheduling.left["s"].is_set()
        reading.cancel()

    asyncio.run(leave())
    assert scheduling.left["s"].is_set()


def test_one_bad_item_does_not_fail_the_baselines_batch():
    found = answer_items(Predicting(), [item("a"), item("b", "bad"), item("c", "pie")])
    assert [answer.refusal for answer in found] == [None, "invalid_request", None]
    assert [found[0].choices[0].text, found[2].choices[0].text] == ["FISH", "PIE"]
    assert found[1].message == "bad is not good"


def test_the_baseline_does_not_look_at_what_is_too_long():
    found = answer_items(Predicting(), [item("a", "x" * 11), item("b"), item("c", "bad" * 4)])
    assert [answer.refusal for answer in found] == ["prompt_too_long", None, "prompt_too_long"]
    assert [answer.id for answer in found] == ["a", "b", "c"]


SECRET = "secret words"


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [SECRET]}, "prompt"),
        ({"prompt": "x", "slots": {"a": 1}}, "slots"),
        ({"prompt": "x", SECRET: 1}, None),
        ({"prompt": "x", "answers": "2"}, "answers"),
        ({"prompt": "x", "answers": 0}, "answers"),
        ({"prompt": "x", "decoding": SECRET}, "decoding"),
        ({"prompt": "x", "decoding": {SECRET: 1}}, "decoding"),
        ({"prompt": "x", "decoding": {"cache": "static"}}, "decoding"),
        ({"prompt": "x", "decoding": {"batch_tokens": 9}}, "decoding"),
        ({"prompt": "x", "decoding": {"method": SECRET}}, "decoding.method"),
        ({"prompt": "x", "decoding": {"beams": True}}, "decoding.beams"),
        ({"prompt": "x", "decoding": {"answers": "2"}}, "decoding.answers"),
        ({"prompt": "x", "decoding": {"seed": 2**64}}, "decoding.seed"),
        ({"prompt": "x", "decoding": {"temperature": 0}}, "decoding.temperature"),
    ],
)
def test_a_wrong_native_body_names_its_field_and_quotes_nothing(body, parameter):
    with pytest.raises(ServiceError) as caught:
        check_body(GenerateBody, JSON, json.dumps(body).encode())
    assert (caught.value.status, caught.value.parameter) == (422, parameter)
    assert SECRET not in caught.value.message


def test_an_unknown_setting_is_answered_with_those_that_there_are():
    with pytest.raises(ServiceError) as caught:
        check_body(GenerateBody, JSON, b'{"prompt": "x", "decoding": {"cache": "static"}}')
    settings = "max_new_tokens, method, beams, length_penalty, temperature, top_p, seed, answers"
    assert f"known: {settings}." in caught.value.message


def test_a_setting_that_is_null_is_the_contracts():
    decoding = {"method": "sample", "temperature": 1, "top_p": None}
    check_body(GenerateBody, JSON, json.dumps({"prompt": "x", "decoding": decoding}).encode())
    asked = native_asked("x", decoding=decoding)
    assert asked.decoding == {"method": "sample", "temperature": 1}


@pytest.mark.parametrize(("header", "seconds"), [(None, 20), (b"90", 20), (b"3", 3)])
def test_a_caller_may_ask_for_less_time_than_the_deadline_and_not_for_more(header, seconds):
    headers = [(TIMEOUT_HEADER, header)] if header else []
    assert read_deadline(headers, limits_of(ServiceSettings(deadline_s=20.0))) == seconds


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"prompt": "\xff"}', b'{"prompt": NaN}'])
def test_what_is_no_json_object_is_refused(content):
    with pytest.raises(ServiceError) as caught:
        check_body(AskBody, JSON, content)
    assert 400 <= caught.value.status < 500


async def echo(scope, receive, send):
    body = (await receive())["body"]
    await PlainTextResponse(body)(scope, receive, send)


def test_a_good_body_reaches_its_route_whole_and_a_wrong_one_does_not():
    client = TestClient(CheckNativeBodies(echo))
    assert client.post("/generate", json={"prompt": "é"}).json() == {"prompt": "é"}
    assert client.post("/elsewhere", content=b"anything").text == "anything"
    refused = client.post("/compare", json={"prompt": "é", "answers": 2})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, None)


@pytest.mark.parametrize("kind", [PICKLE, f"{PICKLE.upper()}; x=1"])
def test_a_pickle_is_refused_unread(kind):
    client = TestClient(RefusePickle(echo))
    assert client.post("/answer", content=b"x", headers={"content-type": kind}).status_code == 415
    assert client.post("/answer", content=b"x", headers=JSON).text == "x"
