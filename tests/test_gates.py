"""Gates judge by bounds, and rare errors keep an honest interval; values by hand."""

import json
import math

import numpy as np
import pytest

from stages._gates import (
    absent,
    at_least,
    at_most,
    ceiling,
    itself,
    no_rise,
    passed,
    poisson_limits,
    widened_for_rare_errors,
)
from stages._scores import Score, Statistics, bootstrap_weights, paired_difference


def score(point, low, high):
    return Score(point, low, high, "m")


def ratio_gate(point, low, high, prompts=640):
    return at_least("bleu_ratio", score(point, low, high), 0.95, prompts, 200, "the ratio")


def errors(counts, slots=5):
    """Statistics of so many errors per prompt, each of so many slots."""
    rows = np.stack([np.asarray(counts, float), np.full(len(counts), float(slots))], axis=1)
    return Statistics(rows, lambda sums: sums[..., 0] / sums[..., 1], "errors per slot")


def difference(ours, theirs, slots=5):
    weights = bootstrap_weights(len(ours), 500, seed=1)
    pair = errors(ours, slots), errors(theirs, slots)
    found = paired_difference(*pair, weights, 0.95)
    return found, widened_for_rare_errors(found, *pair, 0.95)


@pytest.mark.parametrize(
    ("point", "low", "high", "verdict"),
    [
        (0.99, 0.96, 1.02, "pass"),
        (0.99, 0.95, 1.02, "pass"),  # the bound itself keeps it
        (0.99, 0.9499, 1.02, "inconclusive"),  # the point would pass
        (0.94, 0.92, 0.96, "inconclusive"),  # the point would fail, the interval does not
        (0.90, 0.87, 0.9499, "fail"),
    ],
)
def test_a_ratio_is_judged_by_the_bounds_of_its_interval(point, low, high, verdict):
    gate = ratio_gate(point, low, high)
    assert gate.verdict == verdict
    assert (gate.value, gate.low, gate.high, gate.threshold) == (point, low, high, 0.95)


@pytest.mark.parametrize(
    ("point", "low", "high", "verdict"),
    [
        (0.002, -0.003, 0.01, "pass"),
        (0.002, -0.003, 0.0101, "inconclusive"),
        (0.02, 0.005, 0.03, "inconclusive"),
        (0.02, 0.011, 0.03, "fail"),
    ],
)
def test_a_rise_is_judged_by_the_bounds_of_its_interval(point, low, high, verdict):
    assert at_most("rise", score(point, low, high), 0.01, 640, 200, "it").verdict == verdict


def test_too_few_prompts_are_inconclusive_whatever_they_say():
    for point in (1.2, 0.2):
        gate = ratio_gate(point, point, point, prompts=199)
        assert gate.verdict == "inconclusive"
        assert "199 prompts" in gate.reason
        assert "needs 200" in gate.reason


def test_an_inconclusive_gate_says_what_the_set_can_detect_and_how_many_prompts_would_do():
    # Room 0.99 - 0.95 = 0.04, lower half 0.08: half as wide takes four times the prompts.
    gate = ratio_gate(0.99, 0.91, 1.05, prompts=250)
    assert "250 prompts can detect a loss of 0.08" in gate.reason
    assert "about 1,000 prompts" in gate.reason


def test_a_point_on_the_wrong_side_is_not_helped_by_more_prompts():
    assert "the ratio itself misses the threshold" in ratio_gate(0.94, 0.92, 0.96).reason


def test_a_proven_rise_fails_however_small():
    gate = no_rise("wrong_rise", score(0.001, 0.0005, 0.0015), 0.005, 640, 200)
    assert gate.verdict == "fail"
    assert "proven" in gate.reason


@pytest.mark.parametrize(
    ("point", "low", "high", "verdict"),
    [
        (0.001, -0.001, 0.004, "pass"),
        (0.0, -0.006, 0.006, "inconclusive"),  # no rise seen, none excluded either
        (0.006, -0.001, 0.012, "inconclusive"),  # beyond the tolerance, not proven
        (0.001, 0.0, 0.004, "pass"),
    ],
)
def test_a_rise_must_be_excluded_not_merely_unseen(point, low, high, verdict):
    assert no_rise("wrong_rise", score(point, low, high), 0.005, 640, 200).verdict == verdict


def test_a_proven_rise_on_too_few_prompts_is_still_inconclusive():
    assert no_rise("r", score(0.2, 0.1, 0.3), 0.5, 20, 200).verdict == "inconclusive"


def test_a_ceiling_lets_its_own_value_through_and_nothing_unmeasured():
    assert ceiling("disk_mb", 10.0, 10.0).verdict == "pass"
    assert ceiling("disk_mb", 10.1, 10.0).verdict == "fail"
    assert ceiling("disk_mb", None, 10.0).verdict == "inconclusive"
    assert ceiling("disk_mb", math.nan, 10.0).verdict == "inconclusive"


def test_only_a_pass_of_every_gate_passes():
    good = itself("bleu_ratio", 1.0, 0.95)
    assert passed([good, good])
    assert not passed([good, absent("wrong_rise", 0.005, "not measured")])
    assert not passed([])


def test_poisson_limits_are_those_of_the_tables():
    # Garwood 1936, 95 %: 0 events (0, 3.689), 1 event (0.0253, 5.572), 10 events (4.795, 18.39).
    assert poisson_limits(0, 0.95) == pytest.approx((0.0, 3.6889), abs=1e-4)
    assert poisson_limits(1, 0.95) == pytest.approx((0.0253, 5.5716), abs=1e-4)
    assert poisson_limits(10, 0.95) == pytest.approx((4.7954, 18.3904), abs=1e-4)


def test_prompts_that_never_differ_do_not_prove_that_none_would():
    plain, wide = difference([0] * 40, [0] * 40)
    assert (plain.low, plain.high) == (0.0, 0.0)
    assert (wide.low, wide.high) == pytest.approx((-3.6889 / 200, 3.6889 / 200), abs=1e-5)
    assert "mover" in wide.signature


def test_few_changes_have_the_interval_of_their_counts():
    # One worse, none better: 1 + hypot(5.5716 - 1, 0) above, 1 - hypot(1 - 0.0253, 3.6889) below.
    _, wide = difference([1] + [0] * 99, [0] * 100)
    assert wide.score == pytest.approx(1 / 500)
    assert wide.high == pytest.approx(5.5716 / 500, rel=1e-4)
    assert wide.low == pytest.approx((1 - math.hypot(0.97468, 3.68888)) / 500, rel=1e-4)


def test_changes_of_several_errors_at_once_count_as_such():
    _, one = difference([1] + [0] * 99, [0] * 100)
    _, three = difference([3] + [0] * 99, [0] * 100)
    assert three.high == pytest.approx(3 * one.high)


def test_many_changes_have_about_the_interval_of_the_bootstrap():
    generator = np.random.default_rng(3)
    ours, theirs = generator.integers(0, 3, size=(2, 600))
    plain, wide = difference(ours.tolist(), theirs.tolist())
    assert wide.low <= plain.low
    assert wide.high >= plain.high
    assert wide.high - wide.low < 1.25 * (plain.high - plain.low)


def test_a_gate_is_told_in_one_line_and_in_json():
    gate = ratio_gate(0.99, 0.91, 1.05)
    assert gate.describe().startswith("bleu_ratio 0.99 [0.91, 1.05] against 0.95: inconclusive, ")
    assert "\n" not in gate.describe()
    assert absent("g", None, "off").describe() == "g no figure: inconclusive, off"
    assert json.loads(json.dumps(gate.to_dict()))["threshold"] == 0.95
