"""Numbers, counts and shares against values worked out by hand, and their false alarms."""

from itertools import combinations

import numpy as np
import pytest

from stages._drift.permuting import (
    CELLS,
    join_labels,
    midranks,
    permutation_p,
    permuted_labels,
)
from stages._drift.two_samples import RARE_NAME, compare_counts, compare_numbers, compare_shares


def generator(seed=0):
    return np.random.default_rng(seed)


def numbers(reference, current, permutations=999, seed=0):
    return compare_numbers(reference, current, permutations=permutations, rng=generator(seed))


def counts(reference, current, permutations=999, seed=0):
    return compare_counts(reference, current, permutations=permutations, rng=generator(seed))


def false_alarms(p_values):
    return float((np.asarray(list(p_values)) <= 0.05).mean())


def test_a_p_value_counts_the_observed_labels_too():
    assert permutation_p(0, 99) == pytest.approx(0.01)
    assert permutation_p(99, 99) == 1.0


def test_drawn_labels_keep_the_numbers_and_come_in_bounded_chunks():
    rows = CELLS // 7
    chunks = list(permuted_labels(join_labels(rows - 2, 2), 25, generator()))
    assert [len(chunk) for chunk in chunks] == [7, 7, 7, 4]
    drawn = np.concatenate(chunks)
    assert (drawn.sum(axis=1) == 2).all()
    assert len(np.unique(drawn.argmax(axis=1))) > 20


def test_equal_numbers_share_their_rank():
    assert list(midranks(np.asarray([5.0, 1.0, 5.0, 9.0]))) == [2.5, 1.0, 2.5, 4.0]


def test_the_distance_looks_behind_equal_numbers_only():
    result = numbers([1, 1, 2, 3], [1, 3, 3, 3])
    # at most 1: 2/4 and 1/4; at most 2: 3/4 and 1/4
    assert result.statistic == result.effect == pytest.approx(0.5)
    # of 16 pairs 8 have the current one above (1: none; each 3: 3), 5 tie, 3 below
    assert result.cliffs_delta == pytest.approx((9 - 2) / 16)


def test_the_p_value_is_that_of_all_ways_to_deal_out_labels():
    pooled, observed = np.asarray([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), 1.0
    splits = list(combinations(range(6), 2))
    extreme = 0
    for current in splits:
        other = [i for i in range(6) if i not in current]
        gaps = [
            abs(np.mean(pooled[list(current)] <= x) - np.mean(pooled[other] <= x)) for x in pooled
        ]
        extreme += max(gaps) >= observed - 1e-9
    result = numbers(pooled[:4], pooled[4:], permutations=20_000)
    assert result.p_value == pytest.approx(extreme / len(splits), abs=0.01)


def test_constant_missing_and_infinite_numbers_show_nothing():
    same = numbers([3.0] * 9, [3.0] * 4)
    assert (same.p_value, same.effect) == (1.0, 0.0)
    none = numbers([1.0, 2.0], [np.nan, np.inf])
    assert (none.p_value, none.effect, none.n_current) == (1.0, 0.0, 0)


def test_shifted_numbers_are_found():
    rng = generator(1)
    result = numbers(rng.normal(0, 1, 300), rng.normal(1, 1, 100))
    assert result.p_value == pytest.approx(0.001)
    assert result.cliffs_delta > 0.4


def test_numbers_of_one_distribution_with_many_ties_raise_no_alarm():
    rng = generator(2)
    draws = [(rng.poisson(3, 150), rng.poisson(3, 50)) for _ in range(200)]
    assert false_alarms(numbers(*d, 199, i).p_value for i, d in enumerate(draws)) <= 0.08


def test_chi_square_and_distance_by_hand():
    # reference 6 a, 6 b; current 9 a, 3 b: expected 7.5 and 4.5 on each side
    result = counts([["a"]] * 6 + [["b"]] * 6, [["a"]] * 9 + [["b"]] * 3)
    assert result.statistic == pytest.approx(2 * (1.5**2 / 7.5 + 1.5**2 / 4.5))
    assert result.distance == pytest.approx(0.25)
    assert result.shares == [("a", 0.5, 0.75), ("b", 0.5, 0.25)]


def test_values_of_a_row_count_one_by_one_and_rows_without_any_not_at_all():
    result = counts([["a", "b"], []] * 5, [["a"], ["a"], ["b"]] * 5)
    assert (result.n_reference, result.n_current) == (5, 15)
    assert result.distance == pytest.approx(2 / 3 - 1 / 2)


def test_rare_values_count_together():
    new = [[f"new {i}"] for i in range(20)]
    result = counts([["a"]] * 100, [["a"]] * 20 + new)
    assert (RARE_NAME, 0.0, 0.5) in [(n, r, pytest.approx(c)) for n, r, c in result.shares]
    assert result.p_value == pytest.approx(0.001)


def test_chance_is_taken_off_the_distance_of_many_values():
    rng = generator(4)
    rows = [[str(value)] for value in rng.integers(0, 60, 550)]
    result = counts(rows[:500], rows[500:])
    assert result.distance > 0.25  # by chance alone, at 50 rows
    assert result.effect < 0.06


def test_the_effect_does_not_depend_on_the_number_of_rows():
    effects = []
    for rows in (100, 2000):
        rng = generator(5)
        before = [[str(v)] for v in rng.integers(0, 20, 2000)]
        after = [[str(v)] for v in np.where(rng.random(rows) < 0.5, 99, rng.integers(0, 20, rows))]
        effects.append(counts(before, after, 200).effect)
    assert effects == pytest.approx([0.5, 0.5], abs=0.12)


def test_sides_that_share_no_value_are_as_far_apart_as_can_be():
    result = counts([["a"], ["b"]] * 20, [["c"], ["d"]] * 10)
    assert (result.distance, result.effect) == (1.0, 1.0)


def test_one_value_alone_or_a_side_without_any_shows_nothing():
    for reference, current in (([["a"]] * 8, [["a"]] * 8), ([["a"], ["b"]] * 8, [[]] * 8)):
        result = counts(reference, current)
        assert (result.p_value, result.effect) == (1.0, 0.0)


def test_rows_are_dealt_out_whole():
    """Values that always come together are one observation, not ten."""
    rng = generator(6)
    rows = [["ab"[int(rng.integers(2))]] * 10 for _ in range(12_000)]
    windows = [rows[i * 60 : i * 60 + 60] for i in range(200)]
    p_values = (counts(w[:40], w[40:], 199, i).p_value for i, w in enumerate(windows))
    assert false_alarms(p_values) <= 0.08


def test_a_share_is_tested_like_fishers_exact_test():
    # 8 rows, 4 of them true; current has 4 of 4: 2 of the 70 ways are as extreme
    result = compare_shares([False] * 4, [True] * 4)
    assert result.p_value == pytest.approx(2 / 70)
    assert (result.statistic, result.effect) == (1.0, 1.0)


def test_a_share_that_falls_is_a_difference_too():
    result = compare_shares([True] * 30 + [False] * 10, [True] * 10 + [False] * 30)
    assert result.statistic == pytest.approx(-0.5)
    assert result.effect == pytest.approx(0.5)
    assert result.p_value < 1e-4


def test_shares_of_nothing_and_equal_shares_show_nothing():
    assert compare_shares([], [True]).p_value == 1.0
    assert compare_shares([True, False], [True, False]).p_value == pytest.approx(1.0)
    assert compare_shares([False] * 500, [False] * 50).p_value == pytest.approx(1.0)


def test_same_generator_same_result():
    rng = generator(7)
    before, after = rng.normal(size=80), rng.normal(size=40)
    assert numbers(before, after, seed=3) == numbers(before, after, seed=3)
