"""Can a classifier tell current texts from reference texts? The domain classifier. Pure.

TF-IDF of words and word pairs, then logistic regression, cross-validated with all copies of a text
in one fold, so that no text is recognised by heart. The area under the ROC curve is counted inside
folds and averaged: scores of two folds come from two models and do not share a zero.

The p-value permutes labels over fixed scores, which is right only for scores made without a look at
the labels that are permuted. Cross-validated scores are not like that: fold A's model saw fold B's
labels and the other way round, so the folds' areas rise and fall together. Each pair of rows in two
folds counts twice, the variance is up to double what permutations show, and a level of 5 % comes to
as much as 12 %, 1 - Phi(1.645 / sqrt 2). So the test scores each fold by a model of the folds
before it alone, and each pair counts once. Given those folds, labels are as good as shuffled, so
permuting inside folds is right; exact but for equal scores, whose pattern follows from the labels
seen: predict what comes next, then look (A. P. Dawid 1984, "Present position and potential
developments: some personal views, statistical theory, the prequential approach", JRSS A
147:278-292). Rank sums are added over folds (P. van Elteren 1960, "On the combination of
independent two-sample tests of Wilcoxon", Bulletin of the International Statistical Institute
37:351-361).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from stages._drift.permuting import (
    Labels,
    Values,
    count_hits,
    join_labels,
    midranks,
    permutation_p,
    permuted_labels,
)

TERMS = 20_000
"""Most words and word pairs that are looked at, the most frequent ones."""
WORD = r"(?u)\b\w+\b"  # numbers and letters count too: they are slot values
SHOWN = 15

Folds = NDArray[np.int64]
"""Fold of each row from 0, shape [rows]."""


@dataclass(frozen=True)
class ClassifierResult:
    """How well the two sides can be told apart, and by what."""

    auc: float
    """Chance that a current text scores above a reference text of the same fold; 0.5 of no use."""
    p_value: float
    scores: Values
    """Out-of-fold log-odds of being current, reference rows first, shape [reference + current]."""
    top_terms: dict[str, list[tuple[str, float]]]
    """{"current": [(term, weight)], "reference": […]}: terms that speak for each side, with their
    part in the mean distance of the two sides' log-odds, largest first."""


def domain_classifier(
    reference: Sequence[str],
    current: Sequence[str],
    *,
    folds: int,
    permutations: int,
    rng: np.random.Generator,
    shown: int = SHOWN,
) -> ClassifierResult:
    """Learn to tell the sides apart, and test whether that could be luck.

    No text, one side without rows or one text alone: AUC 0.5, p-value 1.

    Args:
        reference: one text per row; copies count as rows.
        current: one text per row.
        folds: parts of the cross-validation, at least 2; fewer where there are fewer texts.
        shown: terms to name on each side.
    """
    texts, labels = [*reference, *current], join_labels(len(reference), len(current))
    features, terms = _features(texts)
    parts = min(folds, len(set(texts)))
    if not terms or parts < 2 or labels.all() or not labels.any():
        empty: dict[str, list[tuple[str, float]]] = {"current": [], "reference": []}
        return ClassifierResult(0.5, 1.0, np.zeros(len(texts)), empty)
    fold = assign_folds(texts, parts, rng)
    # so little work that threads would mostly wait for each other; and their number changes sums
    with threadpool_limits(1):
        scores, forward = _cross_validate(features, labels, fold)
        top = _top_terms(features, labels, terms, shown)
    p_value = forward_p_value(forward, labels, fold, permutations, rng)
    return ClassifierResult(area_in_folds(scores, labels, fold), p_value, scores, top)


def assign_folds(texts: Sequence[str], folds: int, rng: np.random.Generator) -> Folds:
    """A fold for each row, blind to its side: copies together, folds of about equal size."""
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    which = np.asarray([places[text] for text in texts])
    copies = np.bincount(which)
    chosen, filled = np.zeros(len(copies), dtype=np.int64), np.zeros(folds, dtype=np.int64)
    for text in rng.permutation(len(copies)):
        chosen[text] = np.argmin(filled)
        filled[chosen[text]] += copies[text]
    return np.asarray(chosen[which], dtype=np.int64)


def area_in_folds(scores: Values, labels: Labels, fold: Folds) -> float:
    """Share of (reference, current) pairs inside folds that the scores put in order; ties half."""
    wins, pairs = 0.0, 0
    for part in np.unique(fold):
        mine, ranks = labels[fold == part], midranks(scores[fold == part])
        current = int(mine.sum())
        wins += float(ranks[mine].sum()) - current * (current + 1) / 2.0
        pairs += current * (len(mine) - current)
    return wins / pairs if pairs else 0.5


def forward_p_value(
    scores: Values, labels: Labels, fold: Folds, permutations: int, rng: np.random.Generator
) -> float:
    """One-sided p-value of scores that were made from earlier folds only; 1 where none differ.

    Each fold's rank sum is standardised under permutation inside it and weighted by the root of how
    many rows its model had seen, as a small difference is learned at about that rate.
    """
    observed, drawn = 0.0, np.zeros(permutations)
    for part in np.unique(fold):
        mine, ranks = labels[fold == part], midranks(scores[fold == part])
        spread = _rank_sum_spread(ranks, mine)
        if spread == 0.0:
            continue
        weights = (ranks - ranks.mean()) * (np.sqrt((fold < part).sum()) / spread)
        observed += float(weights[mine].sum())
        chunks = permuted_labels(mine, permutations, rng)
        drawn += np.concatenate([chunk @ weights for chunk in chunks])
    return permutation_p(count_hits(drawn, observed), permutations)


def _rank_sum_spread(ranks: Values, labels: Labels) -> float:
    """Standard deviation of the rank sum under permutation; 0 where it cannot vary."""
    rows, current = len(labels), int(labels.sum())
    if current in (0, rows):
        return 0.0
    scale = current * (rows - current) / (rows * (rows - 1))
    return float(np.sqrt(scale * ((ranks - ranks.mean()) ** 2).sum()))


def _features(texts: Sequence[str]) -> tuple[Any, list[str]]:
    """TF-IDF of all rows, sparse [rows, terms], and the terms; none where no text has a word.

    Made of all texts, blind to their side. Terms of one text alone cannot tell anything about
    another, so that a copy must not count as another: frequencies are of distinct texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    for least in (2, 1):
        vectoriser = TfidfVectorizer(
            ngram_range=(1, 2),
            token_pattern=WORD,
            min_df=least,
            max_features=TERMS,
            sublinear_tf=True,
        )
        try:
            matrix = vectoriser.fit_transform(list(distinct))
        except ValueError:  # no term is left: no words at all, or none in two texts
            continue
        rows = np.asarray([distinct[text] for text in texts])
        return matrix.tocsr()[rows], list(vectoriser.get_feature_names_out())
    return None, []


def _cross_validate(features: Any, labels: Labels, fold: Folds) -> tuple[Values, Values]:
    """Scores by models of all other folds, and by models of the folds before; shape [rows] each."""
    scores, forward = np.zeros(len(labels)), np.zeros(len(labels))
    last = fold.max()
    for part in range(last + 1):
        here, before = fold == part, fold < part
        scores[here] = _scores(features, labels, ~here, here)
        # before the last fold are all others
        forward[here] = scores[here] if part == last else _scores(features, labels, before, here)
    return scores, forward


def _scores(features: Any, labels: Labels, learned: Labels, scored: Labels) -> Values:
    """Log-odds of rows `scored` by a model of rows `learned`; 0 where these show one side only."""
    if not labels[learned].any() or labels[learned].all():
        return np.zeros(int(scored.sum()))
    model = _fit(features[np.flatnonzero(learned)], labels[learned])
    found: Values = model.decision_function(features[np.flatnonzero(scored)])
    return found


def _fit(features: Any, labels: Labels) -> Any:
    from sklearn.linear_model import LogisticRegression

    # balanced: a window is often much smaller than the reference
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    return model.fit(features, labels)


def _top_terms(
    features: Any, labels: Labels, terms: Sequence[str], shown: int
) -> dict[str, list[tuple[str, float]]]:
    """Terms by coefficient times difference of mean TF-IDF, for each side."""
    coefficients = _fit(features, labels).coef_[0]
    after, before = (
        np.asarray(features[np.flatnonzero(side)].mean(axis=0)).ravel()
        for side in (labels, ~labels)
    )
    parts = coefficients * (after - before)
    result = {}
    for side, mine in (("current", coefficients > 0.0), ("reference", coefficients < 0.0)):
        order = np.argsort(-np.where(mine, parts, -np.inf), kind="stable")[:shown]
        result[side] = [(terms[i], float(parts[i])) for i in order if mine[i] and parts[i] > 0.0]
    return result
