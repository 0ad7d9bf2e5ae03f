"""AUROC, thresholds and shares against values worked out by hand."""

import numpy as np
import pytest

from serving.errors import StillhouseError
from stages._detection import auroc, paired_auroc, share_above, text_weights, threshold_for


def scores(*values):
    return np.asarray(values, dtype=np.float64)


@pytest.mark.parametrize(
    ("planted", "clean", "expected"),
    [
        (scores(1, 2), scores(0, 0), 1.0),
        (scores(0, 0), scores(0, 0), 0.5),
        (scores(0), scores(1), 0.0),
        (scores(0, 1, 2), scores(0, 1), 4 / 6),  # wins 0.5 + 0, 1 + 0.5, 1 + 1 of 6 pairs
    ],
)
def test_auroc_counts_pairs_and_ties_half(planted, clean, expected):
    assert auroc(planted, clean) == pytest.approx(expected)


def test_auroc_is_the_rank_sum_formula():
    rng = np.random.default_rng(0)
    planted, clean = rng.permutation(60)[:25] * 1.0, rng.permutation(60)[:30] + 0.5  # no ties
    ranks = np.argsort(np.argsort([*planted, *clean])) + 1
    rank_sum = ranks[:25].sum()
    assert auroc(planted, clean) == pytest.approx((rank_sum - 25 * 26 / 2) / (25 * 30))


def test_auroc_of_nothing_is_refused():
    with pytest.raises(StillhouseError, match="found 0 planted and 2 clean"):
        auroc(scores(), scores(1, 2))


def test_the_interval_is_that_of_resampled_texts():
    planted, clean = scores(2, 0), scores(1, 0)
    weights = np.asarray([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    area = paired_auroc(planted, clean, weights, 0.95)
    assert area.score == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    # only the first text: 2 beats 1; only the second: 0 ties with 0; both: 0.625
    assert area.low == pytest.approx(np.percentile([1.0, 0.5, 0.625], 2.5))
    assert area.high == pytest.approx(np.percentile([1.0, 0.5, 0.625], 97.5))


def test_texts_of_one_prompt_are_drawn_together():
    weights = text_weights(["a", "b", "a"], resamples=50, seed=1)
    assert weights.shape == (50, 3)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] + weights[:, 1] == 2).all()


def test_a_share_has_wilsons_interval():
    none = share_above(scores(*[0] * 20), 1.0, 0.95)
    assert (none.score, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.1611, abs=1e-4)  # z^2 / (n + z^2)
    half = share_above(scores(*[0] * 10, *[1] * 10), 1.0, 0.95)
    assert (half.low, half.high) == (
        pytest.approx(0.2993, abs=1e-4),
        pytest.approx(0.7007, abs=1e-4),
    )


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.5, 3.0), (0.25, 4.0), (0.8, 2.0), (1.0, 1.0)],
)
def test_a_threshold_lets_at_most_a_share_of_clean_texts_sound(rate, expected):
    assert threshold_for(scores(1, 2, 3, 4), rate) == expected


def test_a_threshold_that_no_clean_text_may_reach_is_above_all():
    assert threshold_for(scores(1, 2, 2, 2), 0.1) > 2.0
    with pytest.raises(StillhouseError, match="found none"):
        threshold_for(scores(), 0.1)
