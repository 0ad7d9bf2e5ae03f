"""Labels dealt out anew: whole rows, or how many of each value."""

import numpy as np
import pytest

from stages._drift.permuting import join_labels, permuted_counts, permuted_labels


def draw(totals, current, permutations, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate(list(permuted_counts(np.asarray(totals), current, permutations, rng)))


@pytest.mark.parametrize("totals", [[60, 30, 10], [1] * 100])  # value by value, and row by row
def test_each_draw_deals_out_as_many_labels_and_no_row_twice(totals):
    drawn = draw(totals, 40, 500)
    assert drawn.shape == (500, len(totals))
    assert (drawn.sum(axis=1) == 40).all()
    assert (drawn >= 0).all() and (drawn <= np.asarray(totals)).all()


def test_counts_are_hypergeometric():
    totals = np.asarray([60, 30, 10])
    drawn = draw(totals, 40, 20_000)
    assert drawn.mean(axis=0) == pytest.approx(totals * 0.4, rel=0.01)
    share = totals / 100  # variance of the textbook, 40 drawn of 100
    assert drawn.var(axis=0) == pytest.approx(40 * share * (1 - share) * 60 / 99, rel=0.05)


def test_labels_are_dealt_out_to_every_row_alike():
    labels = join_labels(6, 3)
    drawn = np.concatenate(list(permuted_labels(labels, 6_000, np.random.default_rng(1))))
    assert drawn.dtype == np.bool_
    assert (drawn.sum(axis=1) == 3).all()
    assert drawn.mean(axis=0) == pytest.approx(np.full(9, 1 / 3), abs=0.03)
    assert len(np.unique(drawn, axis=0)) == 84  # all ways to choose 3 of 9
