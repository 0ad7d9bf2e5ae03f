"""The bound of what is taken on: exact, given back once, with a wait worked out by hand."""

import asyncio

import pytest

from serving._items import ServiceError
from serving._queue_bound import HALF_LIFE_S, QueueBound


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def refused(call):
    with pytest.raises(ServiceError) as caught:
        call()
    assert (caught.value.refusal, caught.value.status) == ("overloaded", 503)
    return caught.value


def work(bound, clock, tokens, seconds):
    with bound.enter() as place:
        place.take(tokens)
        clock.now += seconds


def test_no_more_requests_are_taken_on_than_the_bound_says():
    bound = QueueBound(max_requests=2, max_tokens=100)
    first, _ = bound.enter(), bound.enter()
    refused(bound.enter)
    refused(bound.check)
    first.release()
    bound.check()
    bound.enter()
    assert bound.requests == 2


def test_no_more_tokens_are_taken_on_than_the_bound_says():
    bound = QueueBound(max_requests=9, max_tokens=100)
    first, second = bound.enter(), bound.enter()
    first.take(60)
    refused(lambda: second.take(41))
    assert bound.tokens == 60, "what is refused takes nothing"
    second.take(40)
    first.correct(10)
    assert bound.tokens == 50
    first.correct(30)
    assert bound.tokens == 50, "a correction only gives back"


def test_what_is_larger_than_everything_is_let_in_alone():
    bound = QueueBound(max_requests=9, max_tokens=100)
    large, other = bound.enter(), bound.enter()
    large.take(1000)
    refused(lambda: other.take(1))
    large.release()
    other.take(1)
    refused(lambda: bound.enter().take(1000))


def test_a_place_is_given_back_once_however_it_ends():
    bound = QueueBound(max_requests=9, max_tokens=100)
    with pytest.raises(ZeroDivisionError), bound.enter() as place:
        place.take(10)
        raise ZeroDivisionError
    place.release()
    place.correct(0)
    place.take(5)
    assert (bound.requests, bound.tokens) == (0, 0)


def test_cancelled_callers_give_their_places_back():
    bound = QueueBound(max_requests=50, max_tokens=500)

    async def hold():
        with bound.enter() as place:
            place.take(10)
            await asyncio.Event().wait()

    async def main():
        tasks = [asyncio.create_task(hold()) for _ in range(60)]
        await asyncio.sleep(0)
        held = bound.requests, bound.tokens
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return held

    assert asyncio.run(main()) == (50, 500)
    assert (bound.requests, bound.tokens) == (0, 0)


def test_the_wait_is_the_work_under_way_at_the_measured_speed(clock):
    bound = QueueBound(max_requests=2, max_tokens=1000, clock=clock)
    for _ in range(20):
        work(bound, clock, tokens=99, seconds=1.0)
    # 100 units (99 tokens and a request) at the end of each second, halved every HALF_LIFE_S:
    # a geometric series over the integral of the same weights
    fade = 0.5 ** (1 / HALF_LIFE_S)
    done = 100 * (1 - fade**20) / (1 - fade)
    seconds = HALF_LIFE_S / 0.6931471805599453 * (1 - fade**20)
    assert bound.work_per_s == pytest.approx(done / seconds)
    assert bound.work_per_s == pytest.approx(100, rel=0.05)
    bound.enter().take(499)
    bound.enter().take(499)
    assert refused(bound.enter).retry_after_s == pytest.approx(1000 / bound.work_per_s)


def test_what_is_corrected_waits_and_leaves_by_the_same_measure(clock):
    bound = QueueBound(max_requests=9, max_tokens=1000, clock=clock)
    for _ in range(20):
        with bound.enter() as place:
            place.take(99)
            clock.now += 1.0
            place.correct(9)
    bound.enter().take(499)
    # 100 units of bounds leave per second, and 500 of bounds wait, whatever came of them
    assert bound.wait_s() == pytest.approx(5.0, rel=0.05)


def test_the_wait_is_the_same_before_and_after_a_correction(clock):
    bound = QueueBound(max_requests=9, max_tokens=1000, clock=clock)
    work(bound, clock, tokens=99, seconds=10.0)
    place = bound.enter()
    place.take(499)
    before = bound.wait_s()
    place.correct(100)
    assert bound.wait_s() == before
    assert bound.tokens == 100


def test_what_was_never_taken_on_says_nothing_about_speed(clock):
    bound = QueueBound(max_requests=9, max_tokens=1000, clock=clock)
    work(bound, clock, tokens=99, seconds=10.0)
    before = bound.work_per_s
    with bound.enter() as place:
        place.take(900)
        place.undo()
        assert bound.tokens == 0
    assert bound.work_per_s == pytest.approx(before * 101 / 100), "a request, and no tokens"


def test_idle_time_says_nothing_about_speed(clock):
    bound = QueueBound(max_requests=9, max_tokens=1000, clock=clock)
    work(bound, clock, tokens=99, seconds=2.0)
    before = bound.work_per_s
    clock.now += 3600
    assert bound.work_per_s == before


def test_a_stall_lengthens_the_wait(clock):
    bound = QueueBound(max_requests=9, max_tokens=1000, clock=clock)
    work(bound, clock, tokens=99, seconds=1.0)
    bound.enter().take(400)
    waits = []
    for _ in range(3):
        waits.append(bound.wait_s())
        clock.now += 5.0
    assert waits == sorted(set(waits)) and waits[0] == pytest.approx(401 / 100, rel=0.05)


def test_at_start_the_wait_is_as_long_as_work_has_taken_so_far(clock):
    bound = QueueBound(max_requests=1, max_tokens=10, clock=clock)
    assert bound.work_per_s is None
    bound.enter()
    assert refused(bound.enter).retry_after_s == 1.0, "never none at all"
    clock.now += 4.0
    assert refused(bound.enter).retry_after_s == pytest.approx(4.0, rel=0.15)
    clock.now += 4000.0
    assert refused(bound.enter).retry_after_s <= 60.0


def test_requests_without_tokens_have_a_speed_too(clock):
    bound = QueueBound(max_requests=9, max_tokens=10, clock=clock)
    for _ in range(5):
        work(bound, clock, tokens=0, seconds=0.5)
    assert bound.work_per_s == pytest.approx(2.0, rel=0.05)
