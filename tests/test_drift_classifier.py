"""The domain classifier: what it finds, and that it does not find what is not there."""

import numpy as np
import pytest

from stages._drift.classifier import (
    area_in_folds,
    assign_folds,
    domain_classifier,
    forward_p_value,
)
from stages._drift.permuting import join_labels

WORDS = [*"abcdefghijkl"]


def generator(seed=0):
    return np.random.default_rng(seed)


def classify(reference, current, permutations=199, seed=0, folds=5):
    rng = generator(seed)
    return domain_classifier(reference, current, folds=folds, permutations=permutations, rng=rng)


def sentences(count, rng, words=WORDS):
    return [" ".join(rng.choice(words, 6)) for _ in range(count)]


def test_area_counts_pairs_inside_folds_and_ties_half():
    labels = np.asarray([False, True, True, False, True])
    fold = np.asarray([0, 0, 0, 1, 1])
    # fold 0: 3 beats 2, 2 ties 2; fold 1: -9 loses to -8; across folds nothing counts
    area = area_in_folds(np.asarray([2.0, 3.0, 2.0, -8.0, -9.0]), labels, fold)
    assert area == pytest.approx((1 + 0.5 + 0) / 3)


def test_a_shift_of_a_folds_scores_changes_nothing():
    rng = generator(1)
    scores, labels, fold = rng.normal(size=60), rng.random(60) < 0.3, np.arange(60) % 3
    shifted = scores + 100.0 * fold
    assert area_in_folds(shifted, labels, fold) == area_in_folds(scores, labels, fold)
    p_values = [forward_p_value(s, labels, fold, 99, generator(5)) for s in (scores, shifted)]
    assert p_values[0] == p_values[1]


def test_the_p_value_is_one_sided():
    labels, fold = join_labels(40, 20), np.arange(60) % 2
    up = forward_p_value(labels * 1.0, labels, fold, 499, generator())
    down = forward_p_value(labels * -1.0, labels, fold, 499, generator())
    assert (up, down) == (1 / 500, 1.0)


def test_copies_of_a_text_share_a_fold_and_folds_are_even():
    texts = [f"text {i % 30}" for i in range(120)]
    fold = assign_folds(texts, 5, generator())
    assert all(len(set(fold[[t == text for t in texts]])) == 1 for text in set(texts))
    assert list(np.bincount(fold)) == [24] * 5


def test_new_words_are_found_and_named():
    rng = generator(2)
    current = [f"{text} billing gateway" for text in sentences(60, rng)]
    result = classify(sentences(200, rng), current)
    assert result.auc > 0.95
    assert result.p_value == pytest.approx(1 / 200)
    assert result.top_terms["current"][0][0] in ("billing", "gateway", "billing gateway")
    assert not {"billing", "gateway"} & {term for term, _ in result.top_terms["reference"]}
    weights = [weight for _, weight in result.top_terms["current"]]
    assert weights == sorted(weights, reverse=True)


def test_a_third_of_changed_rows_is_found_and_scores_tell_which():
    rng = generator(3)
    changed = sentences(60, rng, [*WORDS[:6], "payments", "kelvin", "replica"])
    result = classify(sentences(500, rng), [*changed, *sentences(140, rng)])
    assert result.p_value <= 0.01
    assert result.scores[500:560].mean() > result.scores[560:].mean() + 0.3


def test_copies_on_both_sides_are_not_learned_by_heart():
    rng = generator(4)
    texts = sentences(40, rng)
    rows = [texts[i] for i in rng.integers(0, 40, 600)]
    result = classify(rows[:500], rows[500:])
    assert result.auc < 0.6
    assert result.p_value > 0.05


@pytest.mark.parametrize(
    ("reference", "current"),
    [
        (["same text"] * 50, ["same text"] * 20),
        (["", "..."] * 20, ["", "!"] * 20),
        (["one", "two"], []),
        ([], ["one", "two"]),
    ],
)
def test_nothing_to_tell_apart_is_no_drift(reference, current):
    result = classify(reference, current)
    assert (result.auc, result.p_value) == (0.5, 1.0)
    assert len(result.scores) == len(reference) + len(current)


def test_words_that_no_two_texts_share_are_no_error():
    result = classify([f"a{i}" for i in range(30)], [f"b{i}" for i in range(30)])
    assert result.p_value > 0.05


def test_another_language_is_found():
    rng = generator(5)
    result = classify(
        sentences(100, rng), sentences(50, rng, ["磁盘", "内存", "网络", "延迟", "缓慢"])
    )
    assert result.auc > 0.95
    assert result.p_value == pytest.approx(1 / 200)


def test_very_few_rows_are_no_error():
    result = classify(["a b", "b c", "c d"], ["d e"])
    assert 0.0 <= result.auc <= 1.0
    assert result.p_value > 0.05


def test_same_generator_same_result():
    rng = generator(6)
    before, after = sentences(80, rng), sentences(40, rng)
    one, two = classify(before, after), classify(before, after)
    assert (one.auc, one.p_value, one.top_terms) == (two.auc, two.p_value, two.top_terms)


@pytest.mark.slow
def test_clean_windows_raise_alarms_no_more_often_than_said():
    rng = generator(7)
    texts = sentences(300, rng)
    alarms = 0
    for seed in range(100):
        rows = [texts[i] for i in rng.integers(0, 300, 240)]
        alarms += classify(rows[:160], rows[160:], 199, seed).p_value <= 0.05
    assert alarms <= 11  # 5 expected; more than 11 once in 200
