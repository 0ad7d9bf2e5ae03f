"""The breaker: open after faults, tried by one, closed by what works; what counts as a fault."""

import pytest

from serving._breaker import Breaker, OpenError
from serving._cascade.faults import FaultError, watch
from serving._items import ServiceError


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def attempt(breaker, error=None):
    with watch(breaker, "teacher"):
        if error:
            raise error


def test_faults_in_a_row_open_it_and_a_success_between_starts_the_row_anew():
    breaker = Breaker(3, 5.0, Clock())
    for outcome in ("failed", "failed", "worked", "failed", "failed"):
        with breaker.attempt() as one:
            getattr(one, outcome)()
    assert breaker.is_closed
    with breaker.attempt() as one:
        one.failed()
    with pytest.raises(OpenError) as caught, breaker.attempt():
        pass
    assert caught.value.left_s == 5.0


def test_an_attempt_that_says_nothing_changes_nothing():
    clock = Clock()
    breaker = Breaker(2, 5.0, clock)
    for outcome in ("failed", None, "failed"):
        with breaker.attempt() as one:
            if outcome:
                getattr(one, outcome)()
    assert not breaker.is_closed  # what said nothing did not break the row
    clock.now += 5.0
    with breaker.attempt():
        pass
    assert not breaker.is_closed


def test_refusals_show_that_the_other_side_is_there_and_short_time_shows_nothing():
    breaker = Breaker(2, 5.0, Clock())
    fault = FaultError("unavailable", "x")
    for error in (fault, ServiceError("invalid_request", "x"), fault):
        with pytest.raises(ServiceError):
            attempt(breaker, error)
    assert breaker.is_closed
    for error in (ServiceError("expired", "x"), fault):
        with pytest.raises(ServiceError):
            attempt(breaker, error)
    assert not breaker.is_closed


def test_a_probe_that_fails_opens_again_and_one_that_is_cancelled_lets_the_next_try():
    clock, fault = Clock(), FaultError("unavailable", "x")
    breaker = Breaker(1, 5.0, clock)
    for _ in range(2):
        with pytest.raises(FaultError):
            attempt(breaker, fault)
        with pytest.raises(ServiceError, match="left alone"):
            attempt(breaker)
        clock.now += 5.0
    with pytest.raises(KeyboardInterrupt):
        attempt(breaker, KeyboardInterrupt())
    attempt(breaker)
    assert breaker.is_closed


def test_while_one_tries_nobody_else_does_and_a_late_success_ends_no_pause():
    clock = Clock()
    breaker = Breaker(1, 5.0, clock)
    with watch(breaker, "teacher"):  # sent before the fault, answered after it
        with pytest.raises(FaultError):
            attempt(breaker, FaultError("unavailable", "x", hold_s=60.0))
        clock.now += 30.0
    assert not breaker.is_closed
    clock.now += 30.0
    with watch(breaker, "teacher"), pytest.raises(ServiceError, match="left alone"):
        attempt(breaker)
    assert breaker.is_closed
