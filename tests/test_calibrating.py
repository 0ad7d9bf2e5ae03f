"""A threshold whose error bound holds: against values worked out by hand, and by simulation."""

import numpy as np
import pytest
from scipy.special import bdtr

from stages._calibrating import (
    choose_threshold,
    common_level,
    fewest_answers,
    interval,
    most_errors,
    passing_probability,
    upper_bound,
)

DELTA = 0.05
RUNS = 200


def test_without_an_error_the_bound_is_the_root_of_delta():
    assert upper_bound(0, 59, 0.05) == pytest.approx(1.0 - 0.05 ** (1 / 59))
    assert upper_bound(0, 1, 0.05) == pytest.approx(0.95)
    assert upper_bound(7, 7, 0.05) == 1.0
    assert upper_bound(0, 0, 0.05) == 1.0


def test_the_bound_is_the_rate_at_which_so_few_errors_are_as_likely_as_delta():
    bound = upper_bound(3, 80, 0.05)
    assert bdtr(3, 80, bound) == pytest.approx(0.05)


def test_the_interval_is_clopper_and_pearson_s():
    assert interval(10, 100, 0.95) == pytest.approx((0.04900, 0.17622), abs=1e-5)
    assert interval(0, 0, 0.95) == (0.0, 1.0)


def test_it_takes_59_answers_without_an_error_to_show_5_percent():
    assert fewest_answers(0.05, 0.05) == 59
    assert most_errors(59, 0.05, 0.05) == 0
    assert most_errors(58, 0.05, 0.05) == -1
    assert most_errors(93, 0.05, 0.05) == 1
    assert most_errors(92, 0.05, 0.05) == 0


@pytest.mark.parametrize(
    ("trials", "allowed", "probability"),
    [
        ([1], [0], 0.5),
        ([1, 2], [0, 0], 0.5),  # none of two is none of one
        ([1, 2], [-1, 1], 0.75),
        ([1, 2], [0, 1], 0.75),  # right; or wrong, then right
        ([1, 3], [0, 1], 0.625),  # right; or wrong, right, right
    ],
)
def test_the_chance_to_pass_at_any_step_is_counted_out(trials, allowed, probability):
    assert passing_probability(trials, allowed, 0.5) == pytest.approx(probability)


def test_the_level_of_every_step_is_between_an_even_split_and_all_of_delta():
    trials = (60, 90, 140, 200, 300)
    level = common_level(trials, 0.1, DELTA)
    allowed = [most_errors(count, 0.1, level) for count in trials]
    assert DELTA / 5 < level < DELTA
    assert passing_probability(trials, allowed, 0.1) <= DELTA
    assert common_level((60,), 0.1, DELTA) == DELTA


def test_the_least_threshold_whose_answers_are_right_enough_is_chosen():
    scores = np.linspace(1.0, 0.0, 400)
    wrong = np.arange(400) >= 200  # the surer half is right
    choice = choose_threshold(scores, wrong, alpha=0.1, delta=DELTA)
    assert 195 <= choice.step.accepted < 225
    assert choice.step.bound <= 0.1
    assert (scores >= choice.step.threshold).sum() == choice.step.accepted
    assert wrong[scores >= choice.step.threshold].sum() == choice.step.errors


def test_answers_with_one_score_are_accepted_together():
    scores = np.repeat([0.9, 0.8, 0.1], 100)
    wrong = np.repeat([False, False, True], 100)
    choice = choose_threshold(scores, wrong, alpha=0.1, delta=DELTA)
    assert [step.accepted for step in choice.steps] == [100, 200, 300]
    assert choice.step.threshold == 0.8


def test_too_few_answers_show_nothing():
    choice = choose_threshold(np.ones(20), np.zeros(20, dtype=bool), alpha=0.05, delta=DELTA)
    assert (choice.step, choice.steps) == (None, ())
    assert choose_threshold(np.ones(0), np.zeros(0, dtype=bool), 0.05, DELTA).step is None


def test_a_ceiling_of_one_accepts_everything_and_of_zero_nothing():
    scores, wrong = np.linspace(0, 1, 30), np.ones(30, dtype=bool)
    assert choose_threshold(scores, wrong, 1.0, DELTA).step.threshold == 0.0
    assert choose_threshold(scores, ~wrong, 0.0, DELTA).step is None


@pytest.mark.parametrize(
    ("rate", "true_rate", "useful"),
    [
        # a score that says nothing: whatever is accepted breaks the promise
        (lambda rank: np.full_like(rank, 0.101), lambda share: 0.101, 0.0),
        # surer answers are better: 0.1 on average over the surest 63 %
        (lambda rank: 0.02 + 0.38 * rank**2, lambda share: 0.02 + 0.38 * share**2 / 3, 0.3),
        # most are right, then hardly any: the bound lies at a cliff
        (lambda rank: np.where(rank < 0.6, 0.03, 0.8), lambda share: 0.03, 0.0),
    ],
)
def test_the_bound_holds_in_at_least_95_of_100_calibrations(rate, true_rate, useful):
    random, held, shares = np.random.default_rng(11), 0, []
    for _ in range(RUNS):
        rank = random.random(300)  # 0 for the surest of all answers
        choice = choose_threshold(-rank, random.random(300) < rate(rank), 0.1, DELTA)
        share = -choice.step.threshold if choice.step else 0.0
        is_cliff = share > 0.6 and rate(np.array([1.0]))[0] == 0.8
        error = (0.018 + 0.8 * (share - 0.6)) / share if is_cliff else true_rate(share)
        held += choice.step is None or error <= 0.1
        shares.append(share)
    # 180 of 200 or fewer are seen in 4 of 1,000 tries where the promise holds 95 times in 100
    assert bdtr(180, RUNS, 1.0 - DELTA) < 0.005
    assert held > 180
    assert np.mean(shares) >= useful
