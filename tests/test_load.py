"""The load benchmark's statistics, and its generator against a scripted server."""

import asyncio
import itertools

import pytest
from load_server import load_on, reply, scripted, stream

from benchmarks._ratios import ratio_of_medians
from benchmarks.serve_load.figures import percentile, summarise
from benchmarks.serve_load.load import (
    Outcome,
    poisson_arrivals,
    run_closed_loop,
    run_open_loop,
)
from benchmarks.serve_load.wire import has_text


def outcome(due, done, result=200, tokens=10, **more):
    return Outcome(due, more.pop("sent", due), done, result, tokens, **more)


def test_a_percentile_is_a_value_that_was_measured():
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, share) for share in (0.0, 0.2, 0.5, 0.81, 1.0)] == [1, 1, 3, 5, 5]
    assert percentile([7.0], 0.99) == 7.0


def test_rates_count_what_ends_in_the_window_and_latencies_what_was_due_in_it():
    found = summarise(
        [
            outcome(0.0, 1.5, tokens=100),  # due before, done inside
            outcome(1.0, 2.0, tokens=20),
            outcome(2.5, 9.0, tokens=40),  # due inside, done after
            outcome(3.0, 3.5, tokens=1000),  # after
        ],
        1.0,
        3.0,
    )
    assert found["tokens_per_s"] == (100 + 20) / 2
    assert found["answers_per_s"] == 1.0
    assert found["requests"] == 2
    assert found["latency_ms"]["max"] == 6500.0
    assert found["tokens_per_answer"] == 30.0


def test_latency_counts_from_when_a_request_was_due_not_from_when_it_was_sent():
    stalled = [outcome(due, 10.0, sent=9.9) for due in (0.0, 1.0, 2.0, 3.0)]
    found = summarise(stalled, 0.0, 5.0)
    assert found["latency_ms"]["p50"] == 8000.0
    assert found["sent_late_ms"]["max"] == 9900.0


def test_refusals_and_failures_are_told_apart():
    outcomes = [
        outcome(0.0, 0.5),
        outcome(0.1, 4.0),
        outcome(0.2, 0.3, 429, retry_after_s=2.0),
        outcome(0.3, 0.4, 503, retry_after_s=5.0),
        outcome(0.4, 0.5, 503),
        outcome(0.5, 0.6, 500),
        outcome(0.6, 2.0, "timeout"),
    ]
    found = summarise(outcomes, 0.0, 1.0, deadline_s=3.0)
    assert found["results"] == {"200": 2, "429": 1, "500": 1, "503": 2, "timeout": 1}
    assert found["retry_after"] == {"share": 2 / 3, "least_s": 2.0, "most_s": 5.0}
    assert found["late_answers"] == 1
    assert found["unanswered_in_time"] == 3  # the late answer, the 500 and the timeout


def test_arrivals_follow_their_rate_seed_and_bounds():
    times = poisson_arrivals(50.0, 100.0, 10**6, seed=1)
    assert times == poisson_arrivals(50.0, 100.0, 10**6, seed=1)
    assert times != poisson_arrivals(50.0, 100.0, 10**6, seed=2)
    assert times == sorted(times) and times[-1] < 100.0
    assert len(times) == pytest.approx(5000, abs=5 * 5000**0.5)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert sum(gap > 0.02 for gap in gaps) / len(gaps) == pytest.approx(2.718**-1, abs=0.03)
    assert len(poisson_arrivals(50.0, 100.0, 30, seed=1)) == 30


def test_a_ratio_of_equal_rounds_is_certain_and_of_unequal_ones_is_not():
    assert ratio_of_medians([4.0, 4.0], [2.0, 2.0]) == {"ratio": 2.0, "low": 2.0, "high": 2.0}
    found = ratio_of_medians([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert found["low"] < found["ratio"] < found["high"]


def test_every_status_is_counted_and_retry_after_is_read():
    script = [
        reply(),
        reply(429, {}, "Retry-After: 7\r\n"),
        reply(503, {}),
        reply(500, {}),
        reply(200, {"choices": []}),
        b"",  # closes instead of answering
    ]

    async def answer(number, writer):
        writer.write(script[number])
        if not script[number]:
            raise ConnectionError

    with scripted(answer) as port:
        found = run_closed_loop(load_on(port, most=5), clients=1)
        lost = run_closed_loop(load_on(port, most=1), clients=1)
    assert [o.result for o in found] == [200, 429, 503, 500, "broken"]
    assert [o.tokens for o in found] == [3, 0, 0, 0, 0]
    assert found[1].retry_after_s == 7.0 and found[2].retry_after_s is None
    assert [o.result for o in lost] == ["connection"]


def test_a_silent_server_is_left_after_the_timeout():
    async def answer(number, writer):
        pass

    with scripted(answer) as port:
        found = run_closed_loop(load_on(port, most=2, timeout_s=0.05), clients=1)
    assert [o.result for o in found] == ["timeout", "timeout"]


def test_a_closed_loop_has_as_many_under_way_as_it_has_clients():
    all_here, seen = asyncio.Barrier(3), []

    async def answer(number, writer):
        seen.append(writer)
        await all_here.wait()  # with fewer clients nobody would be answered
        writer.write(reply())

    with scripted(answer) as port:
        found = run_closed_loop(load_on(port, most=6), clients=3)
    assert [o.result for o in found] == [200] * 6
    assert len(set(seen)) == 3, "connections are kept"


def test_an_open_loop_sends_on_while_earlier_requests_wait():
    second_came = asyncio.Event()

    async def answer(number, writer):
        await second_came.wait() if number == 0 else second_came.set()
        writer.write(reply())

    with scripted(answer) as port:
        found = run_open_loop(load_on(port), [0.0, 0.001])
    assert [o.result for o in found] == [200, 200]
    assert [o.due_s for o in found] == [0.0, 0.001]


def test_what_waits_for_a_connection_waits_in_its_latency():
    async def answer(number, writer):
        writer.write(reply())

    with scripted(answer) as port:
        found = run_open_loop(load_on(port), [0.0, 0.0, 0.0], connections=1)
    assert all(o.latency_s == o.done_s - o.due_s for o in found)
    assert found[2].sent_s >= found[1].done_s >= found[0].done_s
    assert found[2].latency_s > found[2].done_s - found[2].sent_s


def test_a_connection_closed_while_idle_is_opened_again_and_nothing_is_lost():
    async def answer(number, writer):
        writer.write(reply())
        writer.close()  # without a word of it in the reply

    with scripted(answer) as port:
        found = run_closed_loop(load_on(port, most=4), clients=1)
    assert [o.result for o in found] == [200] * 4


def test_an_accepted_request_is_never_sent_twice():
    numbers = []

    async def answer(number, writer):
        numbers.append(number)
        writer.write(reply() if number == 0 else b"HTTP/1.1 200 OK\r\ncontent-le")
        if number:
            writer.close()

    with scripted(answer) as port:
        found = run_closed_loop(load_on(port, most=2), clients=1)
    assert [o.result for o in found] == [200, "connection"]
    assert numbers == [0, 1]


def test_a_stream_has_a_first_text_and_counts_as_whole_with_its_usage():
    begun = {"choices": [{"text": ""}]}
    text, end = (
        {"choices": [{"text": "fish"}]},
        {"choices": [{"text": "", "finish_reason": "stop"}]},
    )
    usage = {"choices": [], "usage": {"completion_tokens": 2}}
    script = [stream(begun, text, end, usage), stream(begun, text)]

    async def answer(number, writer):
        writer.write(script[number])

    with scripted(answer) as port:
        whole, cut = run_closed_loop(load_on(port, most=2), clients=1)
    assert (whole.result, whole.tokens) == (200, 2)
    assert whole.sent_s <= whole.first_text_s <= whole.done_s
    assert cut.result == "broken"
    assert not has_text(b'data: {"choices": [{"text": ""}]}\n\ndata: {"choices": [{"text": "f')
    assert has_text(b'data: {"choices": [{"delta": {"content": "f"}}]}\n\n')


def test_a_load_ends_with_its_time():
    async def answer(number, writer):
        writer.write(reply())

    with scripted(answer) as port:
        assert run_closed_loop(load_on(port, seconds=0.0), clients=2) == []
