"""The entry between the routes and the models: choices, refusals, and streams that end."""

import asyncio
from contextlib import aclosing, suppress
from types import SimpleNamespace

import pytest
from entry_cases import Account

from serving._entry import Entry
from serving._entry_items import Prepared
from serving._entry_streams import StudentStreams
from serving._items import Answer, Choice, Item, ServiceError
from serving._lifecycle import Lifecycle
from serving._native import native_asked
from serving._observing import RequestRecord
from serving._openai_responses import Begun, Ended, ModelCard, Piece
from serving._paying import Paying
from serving._service_settings import ServiceSettings
from serving._spending.budgets import open_budgets


class Preparing:
    """Makes items whose prompts are the ids; what it is made with was dropped."""

    async def prepare(self, asked, state):
        items = tuple(
            Item(id=p, prompt=p, answers=asked.answers, prompt_tokens=2, timeout_s=30.0)
            for p in asked.prompts
        )
        return Prepared(items, dropped_tokens=2, dropped_turns=1)


class Model:
    """Answers with the prompt in capitals; "late" refuses, "never" says nothing more."""

    def __init__(self):
        self.closed, self.tasks = [], []

    async def answer(self, item):
        self.tasks.append(asyncio.current_task())
        if item.id == "never":
            await asyncio.Event().wait()
        if item.id == "late":
            return Answer(id=item.id, refusal="expired", message="too late")
        choice = Choice(text=item.prompt.upper(), finish_reason="stop", completion_tokens=3)
        made = {"compute_s": 3.6, "batch_rows": 2, "prompt_tokens": item.prompt_tokens or 0}
        return Answer(id=item.id, choices=[choice] * item.answers, **made)

    async def stream(self, item):
        try:
            if item.answers == 1:
                yield item.prompt[:1].upper()
                yield item.prompt[1:].upper()
            yield await self.answer(item)
        finally:
            self.closed.append(item.id)


def opened(**changes):
    entry = Entry(Lifecycle())
    entry.settings = ServiceSettings(usd_per_hour=1.0, **changes)
    entry.student = entry.baseline = Model()
    entry.preparer = Preparing()
    entry.card = ModelCard("student", 0, "us")
    entry.paying = Paying(open_budgets(lambda _tenant: None), 1.0, 30.0)
    entry.streams = StudentStreams(entry.student, entry.lifecycle, entry.paying, None)
    return entry


def asked(*prompts, answers=1):
    one = native_asked(prompts[0], answers=answers)
    return SimpleNamespace(**{**vars(one), "prompts": prompts})


async def events(entry, request, state=None):
    return [one async for one in entry.stream(request, state if state is not None else {})]


def test_the_native_answer_has_its_text_and_its_price():
    found = asyncio.run(opened().generate(asked("fish"), {}))
    assert (found["text"], found["dropped"]) == ("FISH", {"tokens": 2, "turns": 1})
    assert found["cost_usd"] == pytest.approx(3.6 / 2 / 3600)


def test_a_refusal_of_one_prompt_is_the_requests():
    with pytest.raises(ServiceError) as caught:
        asyncio.run(opened().answer(asked("fish", "late"), {}))
    assert caught.value.refusal == "expired"


def test_a_stream_says_its_pieces_and_how_it_ended():
    found = asyncio.run(events(opened(), asked("fish")))
    assert found[0] == Begun(2, 2, 1)
    assert [one.text for one in found if isinstance(one, Piece)] == ["F", "ISH"]
    assert isinstance(found[-1], Ended)
    assert (found[-1].finish_reason, found[-1].completion_tokens) == ("stop", 3)


def test_choices_of_several_prompts_are_numbered_through():
    found = asyncio.run(events(opened(), asked("fish", "pie", answers=2)))
    said = {one.index: one.text for one in found if isinstance(one, Piece)}
    assert said == {0: "FISH", 1: "FISH", 2: "PIE", 3: "PIE"}
    assert sorted(one.index for one in found if isinstance(one, Ended)) == [0, 1, 2, 3]


def test_a_stream_that_is_left_ends_at_the_model():
    entry = opened()

    async def leave():
        stream = entry.stream(asked("never"), {})
        await anext(stream)
        await anext(stream)
        await stream.aclose()
        await asyncio.sleep(0)  # the cancelled task takes its turn
        await asyncio.sleep(0)

    asyncio.run(leave())
    assert entry.student.closed == ["never"]


def test_a_stream_is_told_that_the_service_goes_down():
    entry = opened()

    async def go_down():
        stream = entry.stream(asked("never"), {})
        for _ in range(3):  # begun, and both pieces
            await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        for tell in list(entry.lifecycle._told):
            tell()
        await waiting

    with pytest.raises(ServiceError) as caught:
        asyncio.run(go_down())
    assert caught.value.refusal == "draining"


def test_an_answer_that_does_not_come_in_time_is_refused():
    with pytest.raises(ServiceError) as caught:
        item = Item(id="never", prompt="x")
        asyncio.run(opened(deadline_s=0.001).ask_baseline(item))
    assert caught.value.refusal == "expired"


def charged(work):
    """What is charged in the end of a request that had 100 tokens reserved; errors are let go."""
    account = Account()
    account.tokens = 100

    async def run():
        with suppress(ServiceError):
            await work({"admitted": account})

    asyncio.run(run())
    return account.tokens


@pytest.mark.parametrize(
    ("prompts", "tokens"), [(["fish"], 5), (["late"], 0), (["fish", "late"], 5)]
)
def test_an_answer_is_charged_and_a_refusal_is_not(prompts, tokens):
    assert charged(lambda state: opened().answer(asked(*prompts), state)) == tokens


@pytest.mark.parametrize(("prompt", "tokens"), [("fish", 5), ("late", 0)])
def test_a_comparison_is_charged_the_students_tokens(prompt, tokens):
    item = Item(id="pie", prompt="pie")
    assert charged(lambda state: opened().compare(asked(prompt), item, state)) == tokens


def test_a_comparison_without_any_answer_is_charged_nothing():
    item = Item(id="late", prompt="late")
    assert charged(lambda state: opened().compare(asked("late"), item, state)) == 0


@pytest.mark.parametrize(
    ("prompt", "answers", "read", "tokens"),
    [
        ("never", 1, 1, 2),  # left after the prompt was read
        ("never", 1, 3, 4),  # and after two pieces
        ("fish", 1, 4, 5),  # closed at the last end, as the routes do
        ("fish", 2, 5, 8),
        ("fish", 1, 9, 5),
        ("late", 2, 9, 0),  # refused before it said anything
    ],
)
def test_a_stream_is_charged_what_it_has_said_when_it_ends(prompt, answers, read, tokens):
    async def work(state):
        stream = opened().stream(asked(prompt, answers=answers), state)
        async with aclosing(stream):
            for _ in range(read):
                if await anext(stream, None) is None:
                    break

    assert charged(work) == tokens


def test_a_lone_prompt_is_asked_without_a_task_of_its_own():
    entry = opened()

    async def run():
        await entry.answer(asked("fish"), {"admitted": Account()})
        return asyncio.current_task()

    assert [asyncio.run(run())] == entry.student.tasks


def test_the_baseline_has_the_time_that_is_left_to_the_request():
    state = {"admitted": Account(left_s=0.001)}
    item = Item(id="never", prompt="x")

    async def run(work):
        return await asyncio.wait_for(work, 10)  # below the deadline, which must not be waited for

    with pytest.raises(ServiceError) as caught:
        asyncio.run(run(opened().ask_baseline(item, state)))
    assert caught.value.refusal == "expired"
    told = asyncio.run(run(opened().compare(asked("fish"), item, state)))
    assert told["baseline"]["error"]["code"] == "expired"
    assert told["student"]["text"] == "FISH"


def test_a_stream_that_is_closed_at_its_last_end_tells_its_record_all():
    record = RequestRecord()
    state = {"record": record}

    async def run():
        async with aclosing(opened().stream(asked("fish"), state)) as stream:
            while not isinstance(await anext(stream), Ended):
                pass

    asyncio.run(run())
    assert (record.compute_ms, record.completion_tokens, record.answer) == (3600.0, 3, "FISH")
    assert record.first_token_ms is not None
