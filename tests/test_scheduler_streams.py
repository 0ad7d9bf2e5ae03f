"""Streams and micro-batches share one thread, and neither waits long for the other."""

from threading import Event

import pytest
from scheduler_cases import Listener, ask, busy, item, running
from scripted_predictors import SECONDS, Script

from serving._scheduler_limits import Limits


def test_a_stream_is_pieces_and_then_the_answer():
    script, heard = Script(), Listener()
    with running(script) as scheduler:
        scheduler.stream(item("3 7"), heard)
        answer = heard.answer
        assert scheduler.drain(SECONDS) and scheduler.counts.answered == 1
        (choice,) = answer.choices
        assert heard.pieces == ["a", "b", "c"] and choice.text == "abc"
        (expected,) = ask_alone("3 7")
    assert (answer.prompt_tokens, choice) == (expected.prompt_tokens, expected.choices[0])


def ask_alone(prompt):
    with running(Script()) as scheduler:
        return ask(scheduler, prompt)


def test_a_stream_can_be_shorter_by_demand():
    script, heard = Script(), Listener()
    with running(script) as scheduler:
        scheduler.stream(item("9", decoding={"max_new_tokens": 2}), heard)
        (choice,) = heard.answer.choices
    assert (choice.text, choice.finish_reason, script.steps["9"]) == ("ab", "length", 2)


def test_streams_without_batches_take_turns():
    script, one, two = Script(), Listener(), Listener()
    order = []
    script.on_step = lambda prompt, step: order.append(prompt)
    with running(script) as scheduler:
        with busy(script, scheduler):
            scheduler.stream(item("3 1"), one)
            scheduler.stream(item("3 2"), two)
        assert one.answer.refusal is two.answer.refusal is None
    steps = [prompt for prompt in order if prompt != "1"]
    assert steps == ["3 1", "3 2"] * 4


def test_between_two_micro_batches_every_stream_advances():
    script, one, two = Script(), Listener(), Listener()
    seen = []
    script.cost_s = lambda prompts: seen.append(script.steps["9 1"]) or 1.0
    limits = Limits(max_rows=1, gather_s=0.0, stream_share=0.0)
    with running(script, limits) as scheduler:
        with busy(script, scheduler):
            scheduler.stream(item("9 1"), one)
            scheduler.stream(item("9 2"), two)
            futures = scheduler.submit_many([item(f"2 {number}") for number in range(1, 6)])
        assert [future.result(SECONDS).refusal for future in futures] == [None] * 5
        assert one.answer.refusal is two.answer.refusal is None
    assert seen == [0, 1, 2, 3, 4, 5], "one step after each batch, and a batch after each step"


def test_streams_have_a_share_of_the_time_and_not_more():
    script, heard = Script(), Listener()
    seen = []
    script.cost_s = lambda prompts: seen.append(script.steps["19"]) or 12.0
    limits = Limits(max_rows=1, gather_s=0.0, stream_share=0.25)
    with running(script, limits) as scheduler:
        with busy(script, scheduler):
            scheduler.stream(item("19"), heard)
            futures = scheduler.submit_many([item(f"2 {number}") for number in range(1, 4)])
        assert [future.result(SECONDS).refusal for future in futures] == [None] * 3
        assert heard.answer.refusal is None
    assert seen == [0, 3, 6, 9], "a step takes a second: a quarter of twelve is three"


@pytest.mark.parametrize("step", [1, 5])
def test_computing_stops_within_one_step_of_a_disconnect(step):
    script, heard, left = Script(), Listener(), Event()
    script.on_step = lambda prompt, number: left.set() if number == step else None
    seen = []
    with running(script, observe_stream=seen.append) as scheduler:
        scheduler.stream(item("15 15"), heard, left)
        assert heard.answer.refusal == "expired"
        assert scheduler.drain(SECONDS)
        counts = scheduler.counts
    assert script.steps["15 15"] == step, "of sixteen"
    assert (counts.cancelled, counts.wasted_tokens, counts.live_streams) == (1, step, 0)
    assert [(one.tokens, one.wasted_tokens, one.left) for one in seen] == [(step, step, True)]


def test_a_listener_that_fails_is_one_who_left():
    script, other = Script(), Listener()

    def fail(what):
        raise RuntimeError("the loop is closed")

    with running(script) as scheduler:
        scheduler.stream(item("15 15"), fail)
        scheduler.stream(item("2"), other)
        assert other.answer.choices[0].text == "ab"
        assert scheduler.drain(SECONDS) and scheduler.counts.cancelled == 1
    assert script.steps["15 15"] == 1


def test_no_more_streams_than_may_be_are_live_at_once():
    script = Script()
    listeners = [Listener() for _ in range(3)]
    order = []
    script.on_step = lambda prompt, step: order.append(prompt)
    with running(script, Limits(max_streams=2, gather_s=0.0)) as scheduler:
        with busy(script, scheduler):
            for number, heard in enumerate(listeners, start=1):
                scheduler.stream(item(f"2 {number}"), heard)
        assert [heard.answer.choices[0].text for heard in listeners] == ["ab"] * 3
    steps = [prompt for prompt in order if prompt != "1"]
    assert steps == ["2 1", "2 2"] * 3 + ["2 3"] * 3


@pytest.mark.parametrize("tokens", [None, 2], ids=["uncounted", "counted wrongly"])
def test_a_stream_is_refused_like_any_item(tokens):
    script, heard = Script(), Listener()
    with running(script) as scheduler:
        scheduler.stream(item("1 " * 41, prompt_tokens=tokens), heard)
        assert heard.answer.refusal == "prompt_too_long"
        scheduler.stream(item("3", decoding={"topk": 1}), heard)
        assert heard.answer.refusal == "invalid_request"
    assert not heard.pieces and not script.steps


def test_an_expired_stream_is_not_begun():
    script, heard = Script(), Listener()
    script.cost_s = lambda prompts: 5.0
    with running(script) as scheduler:
        with busy(script, scheduler):
            scheduler.stream(item("3", timeout_s=4.0), heard)
        assert heard.answer.refusal == "expired"
    assert script.steps["3"] == 0


def test_where_answers_compete_the_text_comes_whole():
    script, heard = Script(), Listener()
    with running(script, decoding={"method": "beam", "beams": 2}) as scheduler:
        scheduler.stream(item("3"), heard)
        assert heard.answer.choices[0].text == "abc"
    assert heard.pieces == ["abc"] and script.batches == [["3"]]


def test_first_token_and_gaps_are_told():
    script, heard, seen = Script(), Listener(), []
    with running(script, observe_stream=seen.append) as scheduler:
        with busy(script, scheduler):
            scheduler.stream(item("2"), heard)
        assert heard.answer.refusal is None
        assert scheduler.drain(SECONDS)
    (stream,) = seen
    assert (stream.first_token_s, stream.gaps_s) == (2.0, (1.0, 1.0)), "a batch, then steps"
    assert (stream.tokens, stream.wasted_tokens) == (3, 0)


def test_a_streams_own_time_is_told_apart_from_its_waiting():
    script, one, two, seen = Script(), Listener(), Listener(), []
    with running(script, observe_stream=seen.append) as scheduler:
        with busy(script, scheduler):
            scheduler.stream(item("3 7"), one)
            scheduler.stream(item("3 8"), two)
        answers = [one.answer, two.answer]
        assert scheduler.drain(SECONDS)
    assert [(answer.queue_s, answer.compute_s) for answer in answers] == [(1.0, 4.0)] * 2
    told = [(stream.prompt_tokens, stream.queue_s, stream.compute_s) for stream in seen]
    assert told == [(2, 1.0, 4.0)] * 2, "a batch before, then four steps each, in turns"


def test_a_stream_that_fails_has_cost_its_steps():
    script, heard, seen = Script(), Listener(), []

    def fail(prompt, step):
        script.now += 0.5
        if step == 2:
            raise RuntimeError("broken")

    script.on_step = fail
    with running(script, observe_stream=seen.append) as scheduler:
        scheduler.stream(item("3 7"), heard)
        assert heard.answer.refusal == "internal"
    assert [(stream.tokens, stream.compute_s) for stream in seen] == [(1, 2.0)]
