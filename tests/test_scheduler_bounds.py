"""What waits is bounded, going down is bounded in time, and the figures say what happened."""

from threading import Event, Thread

import pytest
from scheduler_cases import Listener, ask, busy, item, running
from scripted_predictors import SECONDS, Script

from serving._scheduler_limits import Limits


def test_beyond_the_most_items_the_scheduler_refuses():
    script = Script()
    with running(script, Limits(max_waiting=2, gather_s=0.0)) as scheduler:
        with busy(script, scheduler):
            futures = scheduler.submit_many([item(f"2 {n}") for n in range(1, 5)])
            heard = Listener()
            scheduler.stream(item("3"), heard)
            assert [futures[n].result(0).refusal for n in (2, 3)] == ["overloaded"] * 2
            assert heard.answer.refusal == "overloaded"
        assert [future.result(SECONDS).refusal for future in futures[:2]] == [None] * 2
        assert scheduler.counts.overloaded == 3
        assert ask(scheduler, "4")[0].refusal is None, "there is room again"
    assert ["2 1", "2 2"] in script.batches


@pytest.mark.parametrize("known", [True, False], ids=["counted", "guessed"])
def test_beyond_the_most_tokens_the_scheduler_refuses(known):
    script = Script()
    length = {"prompt_tokens": 10} if known else {}
    with running(script, Limits(max_waiting_tokens=70, gather_s=0.0)) as scheduler:
        with busy(script, scheduler):
            futures = scheduler.submit_many([item("2" + " 1" * 9, **length) for _ in range(3)])
            waiting = scheduler.counts
            assert futures[2].result(0).refusal == "overloaded"
        assert [future.result(SECONDS).refusal for future in futures[:2]] == [None] * 2
        after = scheduler.counts
    guessed = 19 // 3 + 1
    assert waiting.waiting_tokens == 2 * ((10 if known else guessed) + 20)
    assert (waiting.waiting_items, after.waiting_items, after.waiting_tokens) == (2, 0, 0)


def test_one_item_alone_may_be_above_the_bound_on_tokens():
    script = Script()
    with running(script, Limits(max_waiting_tokens=5, gather_s=0.0)) as scheduler:
        assert ask(scheduler, "2")[0].refusal is None


def test_draining_finishes_what_is_there_and_takes_nothing_new():
    script, heard, done = Script(), Listener(), []
    with running(script) as scheduler:
        with busy(script, scheduler):
            waiting = scheduler.submit(item("2"))
            scheduler.stream(item("3"), heard)
            draining = Thread(target=lambda: done.append(scheduler.drain(SECONDS)))
            draining.start()
            while not is_draining(scheduler):
                pass
        draining.join(SECONDS)
        assert waiting.result(0).choices[0].text == "ab"
        assert heard.answer.choices[0].text == "abc"
        assert ask(scheduler, "4")[0].refusal == "draining"
    assert done == [True] and script.steps["4"] == 0


def is_draining(scheduler):
    """While a micro-batch is held, only what is refused is answered at once."""
    future = scheduler.submit(item("9"), _set())
    return future.done() and future.result().refusal == "draining"


def _set():
    """A caller who has left already, so that its item costs nothing."""
    left = Event()
    left.set()
    return left


def test_when_the_time_to_drain_is_over_everything_ends_with_an_answer():
    script, streamed = Script(), Listener()
    over = []

    def end_the_time(prompt, step):
        if (prompt, step) == ("18", 3):
            over.append(scheduler.drain(0.0))

    script.on_step = end_the_time
    with running(script, Limits(max_rows=1, gather_s=0.0)) as scheduler:
        with busy(script, scheduler):
            scheduler.stream(item("19"), streamed)
            futures = scheduler.submit_many([item("18"), item("17")])
        assert [future.result(SECONDS).refusal for future in futures] == ["draining"] * 2
        assert streamed.answer.refusal == "draining"
        assert scheduler.drain(SECONDS)
        assert scheduler.counts.drained == 3
    assert over == [False]
    assert (script.steps["18"], script.steps["17"], script.steps["19"]) == (3, 0, 1)


def test_closing_ends_what_is_under_way():
    script = Script()
    with running(script) as scheduler:
        script.hold()
        future = scheduler.submit(item("5"))
        assert script.began.wait(SECONDS)
        scheduler.close(timeout_s=0.0)
        script.may_go_on.set()
        assert future.result(SECONDS).refusal == "draining"
        scheduler.close()
        assert ask(scheduler, "2")[0].refusal == "draining"


def test_a_batch_is_observed():
    script, seen = Script(), []
    script.cost_s = lambda prompts: 2.0
    with running(script, observe=seen.append) as scheduler:
        ask(scheduler, "1 1 1 1", "2 1")
        counts = scheduler.counts
    (batch,) = seen
    assert (batch.rows, batch.seconds, batch.queue_s) == (2, 2.0, (0.0, 0.0))
    made = 2 + 3
    assert (batch.made_tokens, batch.real_tokens) == (made, 4 + 2 + made)
    assert batch.padded_tokens == 4 + 4 + made
    assert batch.padded_share == pytest.approx(2 / (8 + made))
    assert (counts.batches, counts.rows, counts.busy_s) == (1, 2, 2.0)
    assert (counts.real_tokens, counts.padded_tokens) == (batch.real_tokens, batch.padded_tokens)


def test_what_was_dropped_is_told_with_the_next_batch_or_alone():
    script, seen, left = Script(), [], Event()
    script.cost_s = lambda prompts: 5.0
    script.on_step = lambda prompt, step: left.set() if (prompt, step) == ("15", 2) else None
    with running(script, observe=seen.append) as scheduler:
        with busy(script, scheduler):
            late = scheduler.submit(item("2", timeout_s=1.0))
            futures = [scheduler.submit(item("15"), left), scheduler.submit(item("3"))]
        assert [future.result(SECONDS).refusal for future in futures] == ["expired", None]
        gone = scheduler.submit(item("4"), _set())
        assert gone.result(SECONDS).refusal == late.result(0).refusal == "expired"
    facts = [(b.rows, b.expired, b.cancelled, b.left, b.wasted_tokens) for b in seen]
    assert facts == [(1, 0, 0, 0, 0), (2, 1, 0, 1, 2), (0, 0, 1, 0, 0)]


def test_an_observer_that_fails_ends_nobodys_answer():
    def fail(batch):
        raise RuntimeError("no metrics today")

    with running(Script(), observe=fail) as scheduler:
        assert ask(scheduler, "2")[0].choices[0].text == "ab"
        assert ask(scheduler, "3")[0].choices[0].text == "abc"


def test_a_short_wait_gathers_those_who_were_answered_together():
    script, heard, futures = Script(), Listener(), []

    def come_back(prompt, step):
        """One caller at the stream's second step, two at its fourth; a step takes a second."""
        if prompt == "9" and step in (2, 4):
            back = ["1 2"] if step == 2 else ["2 2", "3 2"]
            futures.extend(scheduler.submit_many([item(again) for again in back]))

    with running(script, Limits(gather_s=100.0)) as scheduler:
        ask(scheduler, "1", "2", "3")
        script.on_step = come_back
        scheduler.stream(item("9"), heard)
        assert heard.answer.refusal is None
        answers = [future.result(SECONDS) for future in futures]
    assert script.batches == [["1", "2", "3"], ["1 2", "2 2", "3 2"]]
    assert [answer.batch_rows for answer in answers] == [3, 3, 3]


def test_the_wait_for_others_is_short():
    script, heard, futures = Script(), Listener(), []

    def come_back(prompt, step):
        if (prompt, step) == ("9", 2):
            futures.append(scheduler.submit(item("1 2")))

    seen = []
    script.cost_s = lambda prompts: seen.append(script.steps["9"]) or 1.0
    with running(script, Limits(gather_s=3.0)) as scheduler:
        ask(scheduler, "1", "2", "3")
        script.on_step = come_back
        scheduler.stream(item("9"), heard)
        assert heard.answer.refusal is None
        assert futures[0].result(SECONDS).batch_rows == 1
    assert seen == [0, 4], "it came during the second step, a step takes a second"


def test_a_list_waits_for_nobody():
    script = Script()
    with running(script, Limits(gather_s=1e6)) as scheduler:
        ask(scheduler, "1", "2", "3")
        ask(scheduler, "1 2", "2 2")
    assert script.batches == [["1", "2", "3"], ["1 2", "2 2"]]


def break_thread(script, scheduler):
    """Let the thread run into a fault in the midst of a batch; the future of its item."""

    def broken():
        raise RuntimeError("no clock")

    script.hold()
    future = scheduler.submit(item("2"))
    assert script.began.wait(SECONDS)
    scheduler._turns._clock = broken
    script.may_go_on.set()
    return future


def test_if_the_thread_ends_by_a_fault_callers_hear_of_it():
    script = Script()
    with running(script) as scheduler:
        future = break_thread(script, scheduler)
        assert future.result(SECONDS).refusal == "unavailable"
        assert ask(scheduler, "3")[0].refusal == "unavailable"


def test_if_the_thread_ends_by_a_fault_its_owner_is_told_once_and_after_the_callers():
    script, told = Script(), []
    with running(script, on_death=lambda: told.append(scheduler.counts.under_way)) as scheduler:
        future = break_thread(script, scheduler)
        assert future.result(SECONDS).refusal == "unavailable"
        scheduler.close()
    assert told == [0]


def test_a_panic_below_python_is_told_as_well():
    class Panic(BaseException):
        """As those of Rust come to us."""

    script, told = Script(), []

    def panic(prompt, step):
        raise Panic

    script.on_step = panic
    with running(script, on_death=lambda: told.append("death")) as scheduler:
        assert ask(scheduler, "2")[0].refusal == "unavailable"
    assert told == ["death"]


def test_a_thread_that_is_closed_is_no_fault():
    told = []
    with running(Script(), on_death=lambda: told.append("death")) as scheduler:
        ask(scheduler, "2")
    assert told == []
