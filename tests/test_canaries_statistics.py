"""What chance would show of a secret, and whether canaries show more."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from stages._canaries import (
    SPACE,
    Exposure,
    expected_bits,
    extrapolate,
    permutation_p,
    rank_of,
    summarise,
)


@pytest.mark.parametrize("of", [2, 4, 1001])
def test_expected_bits_are_the_mean_over_all_ranks(of):
    mean = np.mean([math.log2(of / rank) for rank in range(1, of + 1)])
    assert expected_bits(of) == pytest.approx(mean, rel=1e-12)


def test_expected_bits_tend_to_log2_e():
    assert expected_bits(1001) == pytest.approx(1.4364, abs=1e-4)
    assert expected_bits(10**6) == pytest.approx(math.log2(math.e), abs=2e-5)
    uniform = np.random.default_rng(0).random(200_000)
    assert float(-np.log2(uniform).mean()) == pytest.approx(math.log2(math.e), abs=0.01)


def test_equal_secrets_share_their_places():
    assert rank_of(-1.0, [-2.0, -3.0]) == 1
    assert rank_of(-4.0, [-2.0, -3.0]) == 3
    assert rank_of(-2.0, [-1.0, -2.0, -3.0]) == 2.5
    assert rank_of(0.0, [0.0] * 1000) == 501


def test_extrapolation_finds_the_tail_of_a_normal_distribution():
    others = norm.ppf((np.arange(2000) + 0.5) / 2000)
    for deviations in (-1.0, 0.0, 2.0, 4.0):
        found = extrapolate(deviations, others)
        assert found == pytest.approx(-math.log2(norm.sf(deviations)), rel=0.03)
    assert extrapolate(20.0, others) == math.log2(SPACE)
    assert extrapolate(-20.0, others) == pytest.approx(0.0, abs=1e-9)


def test_extrapolation_follows_a_skew():
    others = np.random.default_rng(0).gamma(4.0, size=5000)  # skewness 1
    above = float((others > 8.0).mean())
    symmetric = -math.log2(norm.sf(8.0, others.mean(), others.std()))
    truth = -math.log2(above)
    assert abs(extrapolate(8.0, others) - truth) < 0.25 * abs(symmetric - truth)
    assert abs(extrapolate(-8.0, -others) - -math.log2(float((-others > -8.0).mean()))) < 0.05


def test_extrapolation_among_equals_says_nothing():
    assert extrapolate(-3.0, [-3.0] * 50) == 0.0
    assert extrapolate(-1.0, [-3.0] * 50) == math.log2(SPACE)


def test_a_permutation_p_value_is_the_share_of_shuffles_as_large():
    assert permutation_p([9.0] * 8, [1.0] * 8, 0, 999) == pytest.approx(1 / 1000)
    assert permutation_p([1.0] * 8, [9.0] * 8, 0, 999) == 1.0
    assert permutation_p([2.0] * 8, [2.0] * 8, 0, 999) == 1.0
    exact = permutation_p([4.0, 5.0], [1.0, 2.0, 3.0], 0, 20_000)  # 1 of the 10 pairs
    assert exact == pytest.approx(0.1, abs=0.01)


def test_a_summary_tells_the_repeats_apart():
    base = Exposure("c", 0, 501, 1001, 1.0, 1.1, False)
    seen = replace(base, repeats=4, bits=9.0, extrapolated_bits=15.0, extracted=True)
    report = summarise([seen, *[base] * 6, *[seen] * 4, replace(seen, extracted=False)], seed=0)
    assert list(report) == ["0", "4"]
    assert report["0"] == {
        "canaries": 6,
        "mean_bits": 1.0,
        "mean_extrapolated_bits": pytest.approx(1.1),
        "extracted": 0.0,
        "expected_bits": expected_bits(1001),
        "p_value": None,
    }
    assert report["4"]["mean_bits"] == 9.0
    assert report["4"]["extracted"] == pytest.approx(5 / 6)
    assert report["4"]["p_value"] < 0.01


def test_without_controls_there_is_no_p_value():
    seen = Exposure("c", 4, 1, 1001, 9.97, 19.9, True)
    assert summarise([seen, seen], seed=0)["4"]["p_value"] is None
