"""Maximum mean discrepancy against its definition, and its p-value with and without drift."""

import math

import numpy as np
import pytest

from stages._drift.mmd import mmd


def generator(seed=0):
    return np.random.default_rng(seed)


def run(reference, current, permutations=199, seed=0, **more):
    rng = generator(seed)
    return mmd(
        np.asarray(reference), np.asarray(current), permutations=permutations, rng=rng, **more
    )


def by_pairs(reference, current, width):
    """Equation 3 of Gretton et al. 2012, pair by pair."""

    def k(x, y):
        return math.exp(-((x - y) ** 2) / (2 * width**2))

    n, m = len(reference), len(current)
    inside = [
        sum(k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j)
        / len(s)
        / (len(s) - 1)
        for s in (reference, current)
    ]
    across = sum(k(x, y) for x in reference for y in current) / (n * m)
    return sum(inside) - 2 * across, 2 - 2 * across


def test_the_statistic_and_the_effect_are_those_of_the_definition():
    reference, current = [0.0, 1.0, 3.0], [4.0, 6.0]
    # distances 1 3 4 6 2 3 5 1 3 2, their median 3
    result = run([[x] for x in reference], [[x] for x in current])
    assert result.bandwidth == pytest.approx(3.0)
    squared, between = by_pairs(reference, current, 3.0)
    assert result.mmd2 == pytest.approx(squared)
    assert result.effect == pytest.approx(math.sqrt(squared / between))


def test_the_p_value_is_that_of_all_ways_to_deal_out_labels():
    # 10 ways to choose 2 of 5; only the pair at the far end is this far apart
    result = run([[0.0], [0.1], [0.2]], [[9.0], [9.1]], permutations=4999)
    assert result.p_value == pytest.approx(0.1, abs=0.02)


def test_the_effect_is_one_for_two_points_and_none_for_one():
    assert run([[0.0, 1.0]] * 20, [[1.0, 0.0]] * 10).effect == pytest.approx(1.0)
    same = run([[0.3, 1.0]] * 20, [[0.3, 1.0]] * 10)
    assert (same.mmd2, same.effect, same.p_value, same.bandwidth) == (0.0, 0.0, 1.0, 0.0)


def test_the_effect_is_about_proportional_to_the_share_of_new_rows():
    rng = generator(1)
    reference, new = rng.normal(0, 1, (600, 8)), rng.normal(0, 1, (600, 8)) + 3.0
    effects = []
    for share in (0.1, 0.2, 0.4):
        changed = np.arange(600)[:, None] < share * 600
        effects.append(run(reference, np.where(changed, new, rng.normal(0, 1, (600, 8))), 1).effect)
    assert effects[1] / effects[0] == pytest.approx(2.0, abs=0.5)
    assert effects[2] / effects[1] == pytest.approx(2.0, abs=0.5)


def test_mostly_copies_still_have_a_width():
    points = np.zeros((50, 3))
    points[:5] = np.eye(3)[np.arange(5) % 3]
    assert run(points[::2], points[1::2]).bandwidth > 0.5


def test_fewer_than_two_rows_show_nothing():
    alone = run(np.eye(4), np.ones((1, 4)))
    assert (alone.p_value, alone.effect, alone.n_current) == (1.0, 0.0, 1)
    assert run(np.eye(4), np.zeros((0, 4))).p_value == 1.0


def test_no_more_rows_than_asked_for_are_compared():
    rng = generator(2)
    result = run(rng.normal(size=(300, 4)), rng.normal(1.0, 1, (90, 4)), most=60)
    assert (result.n_reference, result.n_current) == (60, 60)
    assert result.p_value == pytest.approx(1 / 200)


def test_the_input_is_left_as_it_was():
    reference, current = np.eye(6, dtype=np.float32), np.ones((5, 6), dtype=np.float32)
    run(reference, current)
    assert (reference == np.eye(6)).all()
    assert (current == 1).all()


def test_rows_of_one_distribution_raise_no_alarm_even_with_copies():
    rng = generator(3)
    points = rng.normal(size=(40, 6))  # each row is one of these
    alarms = 0
    for seed in range(100):
        rows = points[rng.integers(0, 40, 120)]
        alarms += run(rows[:90], rows[90:], 99, seed).p_value <= 0.05
    assert alarms <= 11  # 5 expected; more than 11 once in 200


def test_same_generator_same_result():
    rng = generator(4)
    before, after = rng.normal(size=(70, 5)), rng.normal(size=(50, 5))
    assert run(before, after, most=40) == run(before, after, most=40)
