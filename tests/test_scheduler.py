"""The scheduler answers as the predictor does, and computes nothing that nobody waits for."""

from concurrent.futures import Future
from threading import Event

import pytest
from scheduler_cases import ask, busy, item, running
from scripted_predictors import SECONDS, Script

from serving._jobs import Job
from serving._scheduler_limits import Limits


def test_an_answer_has_what_the_predictor_says():
    script = Script()
    with running(script) as scheduler:
        (answer,) = ask(scheduler, "3 7")
    (choice,) = answer.choices
    assert (answer.id, answer.refusal, answer.prompt_tokens) == ("3 7", None, 2)
    assert (choice.text, choice.completion_tokens, choice.finish_reason) == ("abc", 4, "stop")
    assert (choice.mean_logprob, choice.min_logprob) == (-1.0, -1.0)


def test_what_arrives_together_goes_together_by_length():
    script = Script()
    with running(script, Limits(max_rows=2, gather_s=0.0)) as scheduler:
        answers = ask(scheduler, "1 1 1 1", "2", "3 1 1 1", "4")
    assert [answer.choices[0].text for answer in answers] == ["a", "ab", "abc", "abcd"]
    assert script.batches == [["1 1 1 1", "3 1 1 1"], ["2", "4"]]
    assert [answer.batch_rows for answer in answers] == [2] * 4


def test_as_many_as_a_micro_batch_may_have_are_one():
    script = Script()
    with running(script, Limits(max_rows=32)) as scheduler:
        answers = ask(scheduler, *[f"2 {number}" for number in range(32)])
    assert [len(batch) for batch in script.batches] == [32]
    assert [answer.batch_rows for answer in answers] == [32] * 32


def test_prompts_are_counted_in_tokens_where_the_sender_has_not():
    script = Script()
    short, long = ["1 1", "3 1000000000 1"], ["2 1 1 1", "4 1 1 1 1 1 1 1 1"]
    with running(script, Limits(max_rows=2, gather_s=0.0)) as scheduler:
        ask(scheduler, *short, *long)
    assert script.batches == [short, long], "by their bytes they would go otherwise"


def test_first_in_first_out_can_be_had_for_comparison():
    script = Script()
    limits = Limits(max_rows=2, gather_s=0.0, order="first_in_first_out")
    with running(script, limits) as scheduler:
        ask(scheduler, "1 1 1 1", "2", "3 1 1 1", "4")
    assert [set(batch) for batch in script.batches] == [{"1 1 1 1", "2"}, {"3 1 1 1", "4"}]


def test_different_settings_do_not_share_a_batch():
    script = Script()
    with running(script) as scheduler:
        items = [item("1"), item("5", decoding={"max_new_tokens": 3}), item("2")]
        answers = [future.result(SECONDS) for future in scheduler.submit_many(items)]
    assert script.batches == [["1", "2"], ["5"]]
    cut = answers[1].choices[0]
    assert (cut.text, cut.finish_reason) == ("abc", "length")


def test_queue_and_compute_are_told_apart():
    script = Script()
    script.cost_s = lambda prompts: 2.0
    with running(script, Limits(max_rows=1, gather_s=0.0)) as scheduler:
        first, second = ask(scheduler, "1", "2")
    assert (first.queue_s, first.compute_s) == (0.0, 2.0)
    assert (second.queue_s, second.compute_s) == (2.0, 2.0)


@pytest.mark.parametrize("tokens", [None, 2], ids=["uncounted", "counted wrongly"])
def test_a_prompt_that_is_too_long_is_refused_alone(tokens):
    script = Script()
    too_long = item("1 " * 41, prompt_tokens=tokens)
    with running(script) as scheduler:
        futures = scheduler.submit_many([item("3"), too_long, item("2")])
        good, bad, other = (future.result(SECONDS) for future in futures)
    assert bad.refusal == "prompt_too_long" and "41 tokens" in bad.message
    assert [good.choices[0].text, other.choices[0].text] == ["abc", "ab"]


def test_a_fault_of_one_item_is_its_own_and_quotes_no_prompt(caplog):
    script = Script()

    def fail(prompt, step):
        if prompt == "13 13":
            raise RuntimeError(f"cannot compute {prompt}")

    script.on_step = fail
    with running(script) as scheduler:
        good, bad, other = ask(scheduler, "3", "13 13", "2")
        assert ask(scheduler, "1")[0].refusal is None, "and it goes on"
    assert (bad.refusal, good.choices[0].text, other.choices[0].text) == ("internal", "abc", "ab")
    said = f"{bad.message} {caplog.text}"
    assert "RuntimeError" in caplog.text and "13 13 failed" in said and "compute 13" not in said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"decoding": {"topk": 5}}, "'topk' is unknown"),
        ({"decoding": {"max_new_tokens": 0}}, "max_new_tokens must"),
        ({"answers": 2}, "2 answers were asked of method greedy"),
        ({"answers": 3, "decoding": {"method": "beam", "beams": 2}}, "3 answers were asked"),
    ],
    ids=["unknown", "wrong", "greedy", "beams"],
)
def test_settings_that_cannot_be_are_refused_before_any_work(fields, said):
    script = Script()
    with running(script) as scheduler:
        (answer,) = ask(scheduler, "3", **fields)
    assert answer.refusal == "invalid_request" and said in answer.message
    assert not script.batches


@pytest.mark.parametrize("how", ["future", "event"])
def test_who_leaves_before_the_micro_batch_costs_nothing(how):
    script, left = Script(), Event()
    with running(script) as scheduler:
        with busy(script, scheduler):
            leaving = scheduler.submit(item("9"), left)
            staying = scheduler.submit(item("2"))
            leaving.cancel() if how == "future" else left.set()
        assert staying.result(SECONDS).choices[0].text == "ab"
        counts = scheduler.counts
    assert script.batches == [["1"], ["2"]] and script.steps["9"] == 0
    assert (counts.cancelled, counts.answered, counts.wasted_tokens) == (1, 2, 0)


class Asked(Future):
    """Counts how often it is asked, which takes its lock."""

    times = 0

    def cancelled(self):
        self.times += 1
        return super().cancelled()


def test_whether_somebody_waits_is_known_without_a_lock():
    future = Asked()
    job = Job(item("3"), 0.0, 1, Event(), Event(), future=future)
    request = job.request
    assert not (request.abandoned or job.gone or job.stopped)
    assert future.times == 0
    future.cancel()
    assert request.abandoned and job.gone and job.stopped


@pytest.mark.parametrize("flag", ["left", "over"])
def test_a_request_ends_with_its_caller_and_with_the_time_for_all(flag):
    job = Job(item("3"), 0.0, 1, Event(), Event())
    getattr(job, flag).set()
    assert job.request.abandoned and job.gone == (flag == "left")


@pytest.mark.parametrize("how", ["future", "event"])
def test_who_leaves_during_a_micro_batch_costs_one_more_step_at_most(how):
    script, left = Script(), Event()
    held = []
    script.on_step = lambda prompt, step: (
        (held[0].cancel() if how == "future" else left.set())
        if (prompt, step) == ("15 15", 4)
        else None
    )
    with running(script) as scheduler:
        with busy(script, scheduler):
            held.append(scheduler.submit(item("15 15"), left))
            staying = scheduler.submit(item("8"))
        assert staying.result(SECONDS).choices[0].text == "abcdefgh"
        assert scheduler.drain(SECONDS)
        counts = scheduler.counts
    assert script.steps["15 15"] == 4, "of sixteen"
    assert (counts.cancelled, counts.wasted_tokens) == (1, 4)
    if how == "event":
        assert held[0].result(SECONDS).refusal == "expired"


def test_an_expired_item_costs_nothing_and_a_late_one_is_still_begun():
    script = Script()
    script.cost_s = lambda prompts: 5.0
    with running(script) as scheduler:
        with busy(script, scheduler):
            late = scheduler.submit(item("9", timeout_s=4.9))
            in_time = scheduler.submit(item("2", timeout_s=5.1))
        assert late.result(SECONDS).refusal == "expired"
        assert in_time.result(SECONDS).choices[0].text == "ab"
        assert scheduler.counts.expired == 1
    assert script.batches == [["1"], ["2"]]


def test_near_its_deadline_an_item_goes_first():
    script = Script()
    limits = Limits(max_rows=1, gather_s=0.0, urgent_s=3.0)
    with running(script, limits) as scheduler, busy(script, scheduler):
        items = [item("2"), item("3"), item("4", timeout_s=4.0)]
        futures = scheduler.submit_many(items)
    assert [future.result(SECONDS).refusal for future in futures] == [None] * 3
    assert script.batches == [["1"], ["4"], ["2"], ["3"]]


def test_a_stream_of_urgent_items_does_not_starve_the_oldest():
    script = Script()
    limits = Limits(max_rows=1, gather_s=0.0, urgent_s=100.0)
    with running(script, limits) as scheduler:
        with busy(script, scheduler):
            oldest = scheduler.submit(item("2"))
            script.now += 0.1
            urgent = [item(f"3 {number}", timeout_s=50.0) for number in range(1, 6)]
            futures = scheduler.submit_many(urgent)
        assert oldest.result(SECONDS).refusal is None
        assert [future.result(SECONDS).refusal for future in futures] == [None] * 5
    assert script.batches.index(["2"]) == 2, "one urgent item went before it"


def test_several_answers_come_from_a_method_that_has_them():
    script = Script()
    with running(script) as scheduler:
        (answer,) = ask(scheduler, "3", answers=2, decoding={"method": "beam", "beams": 2})
    assert [choice.text for choice in answer.choices] == ["abc"], "beams with one text are one"
