"""The cascade in the form of each route, and the student's own routes behind guard and budget."""

import asyncio
import json
from contextlib import aclosing
from types import SimpleNamespace

import pytest
from cascade_cases import answer, refusal
from flow_cases import UNSURE, Way, phrase_list

from serving._entry import Entry
from serving._entry_cascade import CascadeEntry
from serving._entry_items import Prepared
from serving._entry_streams import StudentStreams
from serving._guard import BlockedList, Guard, GuardPolicy
from serving._items import Answer, Choice, Item, ServiceError
from serving._lifecycle import Lifecycle
from serving._observing import RequestRecord
from serving._openai_requests import Limits, read_chat, read_completion
from serving._openai_responses import ABSTAINED, ModelCard, Reply
from serving._openai_routes import find_model
from serving._openai_streams import frames
from serving._paying import Paying
from serving._service_settings import ServiceSettings
from serving._spending.budgets import open_budgets
from serving._spending.periods import Budget

MAIL = "ann@example.com"
CARD = ModelCard("cascade", 0, "us")


async def prepare(asked, _state):
    items = tuple(
        Item(id=str(number), prompt=prompt, timeout_s=9.0, prompt_tokens=2)
        for number, prompt in enumerate(asked.prompts)
    )
    return Prepared(items, 0, 0)


def cascade(way):
    opened = SimpleNamespace(flow=way.flow, cascade=way.rungs.cascade, route=way.parts.route)
    return CascadeEntry(opened, prepare, "us", 0)


def chat(prompt="fish", model="cascade", **more):
    messages = [{"role": "user", "content": prompt}]
    return read_chat({"model": model, "messages": messages, **more}, Limits())


def text(prompt="fish", **more):
    return read_completion({"model": "cascade", "prompt": prompt, **more}, Limits())


async def whole(entry, asked):
    answered = await entry.answer(asked, {})
    return Reply("1", 0, CARD).whole(asked, answered).model_dump(exclude_unset=True)


async def streamed(entry, asked):
    """The chunks of a stream, without its end."""
    lines = []
    async with aclosing(frames(asked, Reply("1", 0, CARD), entry.stream(asked, {}))) as made:
        lines = [one async for one in made]
    assert b"[DONE]" in lines[-1]
    return [json.loads(one.removeprefix(b"data: ")) for one in lines[:-1]]


@pytest.mark.parametrize("asked", [chat(), text()])
def test_an_answer_says_its_routing_its_cost_and_its_uncertainty(asked):
    told = asyncio.run(whole(cascade(Way()), asked))
    choice = told["choices"][0]
    assert (choice["message"]["content"] if asked.chat else choice["text"]) == "a sure fish"
    assert choice["uncertainty"]["basis"] == "tokens"
    assert (told["routing"]["rung"], told["routing"]["source"]) == ("student", "miss")
    assert [one["outcome"] for one in told["routing"]["tried"]] == ["unsure", "accepted"]
    assert told["usage"]["cost_usd"] == pytest.approx(0.11)
    assert told["usage"]["cost_by_rung"] == {"baseline": 0.01, "student": 0.1}


@pytest.mark.parametrize("read", [chat, text])
@pytest.mark.parametrize("include", [True, False])
def test_a_stream_says_the_same_in_its_last_chunks(read, include):
    options = {"stream_options": {"include_usage": True}} if include else {}
    asked = read(stream=True, **options)
    chunks = asyncio.run(streamed(cascade(Way()), asked))
    choices = [one["choices"][0] for one in chunks if one["choices"]]
    said = [one["delta"].get("content", "") if asked.chat else one["text"] for one in choices]
    assert "".join(said) == "a sure fish"
    (end,) = [one for one in chunks if one["choices"] and one["choices"][0]["finish_reason"]]
    assert end["routing"]["rung"] == "student"
    assert end["choices"][0]["uncertainty"]["basis"] == "tokens"
    assert chunks[-1]["usage"]["cost_usd"] == pytest.approx(0.11)
    assert chunks[-1]["usage"]["completion_tokens"] == 5


def abstaining():
    return cascade(Way(UNSURE, ServiceError("unavailable", "away")))


def test_an_abstention_is_a_refusal_without_content():
    told = asyncio.run(whole(abstaining(), chat()))
    message = told["choices"][0]["message"]
    assert message["content"] is None and message["refusal"]
    assert (told["routing"]["rung"], told["routing"]["sure"]) == (None, False)
    assert told["usage"]["cost_usd"] == pytest.approx(0.11)
    assert "uncertainty" not in told["choices"][0]


def test_an_abstention_in_a_stream_is_a_refusal_without_content_too():
    chunks = asyncio.run(streamed(abstaining(), chat(stream=True)))
    deltas = [one["choices"][0]["delta"] for one in chunks]
    assert deltas == [{"role": "assistant", "content": None}, {"refusal": ABSTAINED}, {}]
    assert chunks[-1]["routing"]["rung"] is None and chunks[-1]["usage"]["completion_tokens"] == 0


def test_an_abstention_in_a_stream_of_a_completion_is_an_empty_text():
    chunks = asyncio.run(streamed(abstaining(), text(stream=True)))
    assert [one["choices"][0]["text"] for one in chunks] == [""]
    assert chunks[-1]["routing"]["rung"] is None


def test_the_native_answer_of_an_abstention_has_no_text():
    told = asyncio.run(abstaining().native(text(), {}))
    assert (told["text"], told["finish_reason"], told["completion_tokens"]) == (None, None, 0)


@pytest.mark.parametrize("asked", [chat(n=2), text(["fish", "pie"]), text(best_of=2)])
def test_more_than_one_answer_is_refused_and_asks_nobody(asked):
    async def work():
        way = Way()
        error = await refusal(cascade(way).answer(asked, {}))
        assert (error.refusal, error.parameter) == ("invalid_request", "n")
        assert set(way.asked().values()) == {0}

    asyncio.run(work())


def test_all_rungs_are_shown_and_the_first_that_is_sure_is_chosen():
    way = Way(answer("fish costs 12 pounds", mean=-0.1))
    told = asyncio.run(cascade(way).rungs(Item(id="1", prompt="fish")))
    assert told["chosen"] == "student"
    assert [one["rung"] for one in told["rungs"]] == ["baseline", "student", "teacher"]
    assert [one["accepted"] for one in told["rungs"]] == [False, True, True]
    (claim,) = told["rungs"][1]["checks"]["grounding"]["marks"]
    shown = told["rungs"][1]["text"]
    assert shown[claim["start"] : claim["end"]].startswith("12")


def test_a_comparison_masks_what_it_shows_and_keeps_personal_data_here():
    way = Way(answer(f"write to {MAIL}", mean=-0.1), policy="personal.out=mask")
    told = asyncio.run(cascade(way).rungs(Item(id="1", prompt=MAIL)))
    assert told["rungs"][1]["text"] == "write to [email]"
    assert told["rungs"][2]["error"]["code"] == "remote_forbidden"
    assert way.asked()["teacher"] == 0


def test_the_record_of_a_request_says_the_cascade_and_its_cost():
    record = RequestRecord()
    asyncio.run(cascade(Way()).answer(chat(), {"record": record}))
    assert (record.model, record.rung, record.source) == ("cascade", "student", "miss")
    assert record.cost_usd == pytest.approx(0.11)


class Student:
    """Says what it is told, streams it word by word, or refuses."""

    def __init__(self, said, refusal=None):
        self.said, self.refusal, self.asked = said, refusal, []

    async def answer(self, item):
        self.asked.append(item)
        if self.refusal:
            return Answer(id=item.id, refusal=self.refusal, message="no")
        choice = Choice(text=self.said, finish_reason="stop", completion_tokens=3)
        return Answer(id=item.id, choices=[choice], prompt_tokens=2, compute_s=3.6, batch_rows=2)

    async def stream(self, item):
        for word in self.said.split(" "):
            yield f"{word} "
        yield await self.answer(item)


class Preparing:
    """Makes items; a changed one is 7 tokens long."""

    prepare = staticmethod(prepare)

    def recount(self, item):
        return item.model_copy(update={"prompt_tokens": 7})


def student(said="a fish", policy="", phrases=None, usd=100.0, refusal=None):
    entry = Entry(Lifecycle())
    entry.settings = ServiceSettings(usd_per_hour=3600.0)
    entry.student = entry.baseline = Student(said, refusal)
    entry.preparer, entry.card = Preparing(), ModelCard("student", 0, "us")
    blocked = BlockedList(phrases) if phrases else None
    entry.guard = Guard(GuardPolicy.from_text(policy), blocked) if policy else None
    entry.budgets = open_budgets(lambda _: Budget(usd))
    entry.paying = Paying(entry.budgets, 3600.0, 30.0)
    entry.streams = StudentStreams(entry.student, entry.lifecycle, entry.paying, entry.guard)
    return entry


def test_a_model_that_there_is_not_is_a_404():
    with pytest.raises(ServiceError) as caught:
        find_model(student(), "cascade", {})
    assert (caught.value.status, caught.value.parameter) == (404, "model")
    error = asyncio.run(refusal(student().ask_cascade(text(), {})))
    assert error.status == 404 and "dvc repro route" in error.message


def test_with_a_route_the_cascade_is_listed_and_asked():
    entry = student()
    entry.cascade = cascade(Way())
    assert [card.id for card in entry.models({})] == ["student", "cascade"]
    told = asyncio.run(whole(entry, chat()))
    assert told["routing"]["rung"] == "student" and entry.student.asked == []
    assert "routing" not in asyncio.run(whole(entry, chat(model="student")))


def test_a_blocked_prompt_does_not_reach_the_student(tmp_path):
    entry = student(policy="blocked.in=block", phrases=phrase_list(tmp_path, "rotten"))
    error = asyncio.run(refusal(entry.answer(chat("a rotten fish", "student"), {})))
    assert error.refusal == "blocked" and entry.student.asked == []


def test_the_student_sees_a_masked_prompt_of_its_own_length_and_says_a_masked_answer():
    entry = student(f"to {MAIL}", policy="personal.in=mask,personal.out=mask")
    told = asyncio.run(whole(entry, chat(f"ask {MAIL}", "student")))
    (seen,) = entry.student.asked
    assert (seen.prompt, seen.prompt_tokens) == ("ask [email]", 7)
    assert told["choices"][0]["message"]["content"] == "to [email]"


def test_a_stream_of_the_student_is_masked_and_its_usage_counts_the_models_own_tokens():
    entry = student(f"write to {MAIL} please", policy="personal.out=mask")
    chunks = asyncio.run(streamed(entry, chat(model="student", stream=True)))
    said = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks)
    assert said.strip() == "write to [email] please"
    assert chunks[-1]["usage"]["completion_tokens"] == 3
    assert chunks[-1]["usage"]["cost_by_rung"] == {"student": pytest.approx(1.8)}


def test_a_stream_that_turns_bad_ends_as_blocked(tmp_path):
    phrases = phrase_list(tmp_path, "rotten fish")
    entry = student("a rotten fish and many more words", "blocked.out=block", phrases)
    error = asyncio.run(refusal(streamed(entry, chat(model="student", stream=True))))
    assert error.refusal == "blocked"


def test_the_student_is_paid_and_its_cost_is_told():
    async def work():
        entry = student(usd=10.0)
        told = await whole(entry, chat(model="student"))
        assert told["usage"]["cost_usd"] == pytest.approx(1.8)
        kept = await entry.budgets.reserve("anonymous", 8.2)
        await entry.budgets.settle(kept, 0.0)
        assert (
            await refusal(entry.budgets.reserve("anonymous", 8.21))
        ).refusal == "budget_exceeded"
        assert (await refusal(whole(student(usd=8.9), chat(model="student")))).status == 429

    asyncio.run(work())


def test_a_refusal_by_the_student_costs_nothing():
    async def work():
        entry = student(usd=10.0, refusal="overloaded")
        assert (await refusal(whole(entry, chat(model="student")))).refusal == "overloaded"
        await entry.budgets.reserve("anonymous", 10.0)

    asyncio.run(work())


def test_a_comparison_shows_masked_answers_alone():
    entry = student(f"to {MAIL}", policy="personal.out=mask")
    told = asyncio.run(entry.compare(text(), Item(id="2", prompt="fish"), {}))
    assert MAIL not in json.dumps(told)
