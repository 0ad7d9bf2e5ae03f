"""Benjamini and Hochberg's adjustment against values worked out by hand."""

import numpy as np
import pytest

from stages._drift.multiple import adjusted


def test_each_p_value_is_multiplied_by_tests_over_rank():
    # ranks 1, 2, 3 of 3: 0.01 * 3 / 1, 0.02 * 3 / 2, 0.9 * 3 / 3
    assert adjusted([0.9, 0.01, 0.02]) == pytest.approx([0.9, 0.03, 0.03])


def test_a_larger_p_value_never_gets_a_smaller_adjusted_one():
    # 0.03 * 4 / 1 = 0.12, but rank 2 gives 0.04 * 4 / 2 = 0.08, which rank 1 must not exceed
    assert adjusted([0.03, 0.04, 0.5, 0.6]) == pytest.approx([0.08, 0.08, 0.6, 0.6])


def test_nothing_exceeds_one_and_equal_ones_stay_equal():
    assert adjusted([1.0, 1.0]) == [1.0, 1.0]
    assert adjusted([0.04, 0.04, 0.04]) == pytest.approx([0.04, 0.04, 0.04])


def test_one_test_needs_no_correction_and_none_gives_none():
    assert adjusted([0.04]) == [0.04]
    assert adjusted([]) == []


def test_kept_at_alpha_is_what_the_step_up_procedure_keeps():
    rng = np.random.default_rng(3)
    for _ in range(50):
        p_values = np.sort(rng.random(8) ** 3)
        passing = np.flatnonzero(p_values <= 0.05 * np.arange(1, 9) / 8)
        kept = passing[-1] + 1 if len(passing) else 0
        assert (np.asarray(adjusted(list(p_values))) <= 0.05).sum() == kept
