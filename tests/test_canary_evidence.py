"""The canary's test: figures worked out by hand, and its promises, tried on simulated traffic."""

import math

import numpy as np
import pytest

from stages._canary.evidence import (
    STAKES,
    Counts,
    Split,
    log_evidence_above,
    log_evidence_below,
    log_evidence_most,
    log_evidence_split,
    lower_bound,
    upper_bound,
)

EVEN = Split(0.5, 0.5)  # x is 1 where the challenger went bad or the champion did not, else -1
NONE = Counts(0, 0)
RUNS, LOOKS, REQUESTS = 200, 40, 100  # simulated canaries: looks, and requests between two


def test_nothing_counted_is_no_evidence():
    assert log_evidence_above(0.1, NONE, NONE, EVEN) == pytest.approx(0.0)
    assert (lower_bound(0.05, NONE, NONE, EVEN), upper_bound(0.05, NONE, NONE, EVEN)) == (-1.0, 1.0)


def test_one_bad_request_of_the_challenger_wins_each_stake():
    found = log_evidence_above(0.0, NONE, Counts(1, 1), EVEN)
    assert math.exp(found) == pytest.approx(1.0 + STAKES.mean())


def test_a_bad_request_of_each_loses_the_square_of_the_stake():
    found = log_evidence_above(0.0, Counts(1, 1), Counts(1, 1), EVEN)
    assert math.exp(found) == pytest.approx(1.0 - (STAKES**2).mean())


def test_values_of_an_uneven_split_by_hand():
    """x of a bad request at a share of 0.2 and a centre of 0.1 is 0.9 / 0.2; least: -0.9 / 0.8."""
    found = log_evidence_above(0.02, NONE, Counts(1, 1), Split(0.2, 0.1))
    stakes = STAKES / (0.02 + 1.125)
    assert math.exp(found) == pytest.approx((1.0 + stakes * (4.5 - 0.02)).mean())


def test_evidence_below_is_evidence_above_with_the_names_exchanged():
    champion, challenger = Counts(7, 100), Counts(3, 20)
    below = log_evidence_below(0.05, champion, challenger, Split(0.2, 0.1))
    assert below == log_evidence_above(-0.05, challenger, champion, Split(0.8, 0.1))


def test_a_bound_is_where_the_evidence_is_one_in_alpha():
    champion, challenger, split = Counts(40, 800), Counts(30, 200), Split(0.2, 0.06)
    low = lower_bound(0.05, champion, challenger, split)
    high = upper_bound(0.05, champion, challenger, split)
    assert low < 0.1 < high  # 15 % less 5 %
    assert log_evidence_above(low, champion, challenger, split) == pytest.approx(
        math.log(20), abs=0.05
    )
    assert log_evidence_below(high, champion, challenger, split) == pytest.approx(
        math.log(20), abs=0.05
    )


@pytest.mark.parametrize("split", [Split(0.2, 0.2), Split(0.02, 0.999), Split(0.98, 0.001)])
def test_bounds_hold_for_any_split_and_centre(split):
    theirs = round(100 * split.share)
    for bad in (0, 1):
        arms = Counts(bad * (100 - theirs), 100 - theirs), Counts(bad * theirs, theirs)
        low, high = lower_bound(0.05, *arms, split), upper_bound(0.05, *arms, split)
        assert -1.0 <= low < 0.0 < high <= 1.0


def simulate(seed, chances, share=0.2):
    """Counts of both arms at each look; `chances`: of champion and challenger, by look."""
    random = np.random.default_rng(seed)
    champion = challenger = NONE
    for look in range(LOOKS):
        ours, theirs = chances(look)
        sent = int(random.binomial(REQUESTS, share))
        challenger += Counts(int(random.binomial(sent, theirs)), sent)
        champion += Counts(int(random.binomial(REQUESTS - sent, ours)), REQUESTS - sent)
        yield champion, challenger


def burst(look):
    """Half of all requests go bad in every fifth look, on both arms alike."""
    return (0.5, 0.55) if look % 5 == 0 else (0.02, 0.07)


@pytest.mark.parametrize("chances", [lambda _: (0.05, 0.1), burst])
def test_looking_at_any_time_finds_a_difference_of_the_margin_to_be_more_in_few_runs(chances):
    """The difference is 0.05 throughout, so that every alarm on either side of 0.05 is false."""
    split, needed = Split(0.2, 0.08), math.log(1 / 0.05)
    above = below = 0
    for seed in range(RUNS):
        looks = list(simulate(seed, chances))
        above += any(log_evidence_above(0.05, *look, split) >= needed for look in looks)
        below += any(log_evidence_below(0.05, *look, split) >= needed for look in looks)
    most = RUNS * 0.05 + 2 * math.sqrt(RUNS * 0.05 * 0.95)
    assert above <= most
    assert below <= most
    assert above + below > 0, "a test that never errs has no power"


def test_a_difference_is_found_with_a_few_thousand_requests():
    split, needed = Split(0.2, 0.05), math.log(4 / 0.05)
    found = sum(
        any(
            log_evidence_above(0.03, *look, split) >= needed
            for look in simulate(seed, lambda _: (0.05, 0.15))
        )
        for seed in range(50)
    )
    assert found >= 48


def test_seven_of_seven_are_most_and_eight_of_twelve_are_not_yet():
    assert math.exp(log_evidence_most(2, 1)) == pytest.approx(
        ((1 + STAKES) ** 2 * (1 - STAKES)).mean()
    )
    assert log_evidence_most(7, 0) > math.log(20) > log_evidence_most(8, 4)
    assert log_evidence_most(0, 50) < 0.0


def test_a_split_as_stated_is_not_doubted_and_another_is():
    random, needed, doubted = np.random.default_rng(5), math.log(1000), 0
    for _ in range(RUNS):
        sent = np.cumsum(random.binomial(REQUESTS, 0.2, LOOKS))
        ended = REQUESTS * np.arange(1, LOOKS + 1)
        doubted += any(
            log_evidence_split(0.2, int(all_ - ours), int(ours)) >= needed
            for ours, all_ in zip(sent, ended, strict=True)
        )
    assert doubted <= 1
    assert log_evidence_split(0.2, 1000, 0) >= needed
    assert log_evidence_split(0.2, 2000, 1000) >= needed
