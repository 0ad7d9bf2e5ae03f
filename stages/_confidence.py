"""Training of the confidence model (serving/_classifier.py): scikit-learn fits, arrays remain.

Logistic regression or random forest on numbers about an answer, then Platt scaling (Platt 1999) on
other rows, so that the calibration never sees a score of a row the model was fitted on.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serving._classifier import Classifier, Forest, Linear, log_odds, sigmoid

Kind = Literal["logistic_regression", "random_forest"]
KINDS: tuple[Kind, ...] = ("logistic_regression", "random_forest")
Rows = NDArray[np.float64]


def train_model(kind: Kind, features: Rows, good: Rows, seed: int) -> Linear | Forest:
    """Fit one kind of model; `features` is [rows, features], `good` [rows] of 0 and 1."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not _tells_apart(good):
        return _constant(features.shape[1], float(good.mean()))
    if kind == "logistic_regression":
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(random_state=seed))
        return _linear(pipeline.fit(features, good))
    forest = RandomForestClassifier(
        n_estimators=100, max_depth=6, min_samples_leaf=10, random_state=seed
    )
    return forest_arrays(forest.fit(features, good))


def calibrate(model: Linear | Forest, features: Rows, good: Rows) -> Classifier:
    """Join a model with Platt scaling fitted on rows that it was not trained on."""
    return Classifier(model, *_platt(model.scores(features), good))


def cross_calibrated(scores: Rows, good: Rows, seed: int, folds: int = 5) -> Rows:
    """Calibrated probabilities of rows whose own fold took no part in the calibration, [rows]."""
    order = np.random.default_rng(seed).permutation(len(scores))
    probabilities = np.empty(len(scores))
    for part in np.array_split(order, min(folds, len(order))):
        rest = np.setdiff1d(order, part)
        slope, offset = _platt(scores[rest], good[rest])
        probabilities[part] = sigmoid(slope * log_odds(scores[part]) + offset)
    return probabilities


def _platt(scores: Rows, good: Rows) -> tuple[float, float]:
    """Slope and offset of the logistic function of log-odds that fits best; 1 and 0 without one."""
    from sklearn.linear_model import LogisticRegression

    if not _tells_apart(good):
        return 1.0, 0.0
    fitted = LogisticRegression(C=1e6).fit(log_odds(scores)[:, None], good)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def _tells_apart(good: Rows) -> bool:
    """Whether both kinds of rows are there often enough to learn from."""
    return bool(min(good.sum(), len(good) - good.sum()) >= 5)


def _constant(features: int, share: float) -> Linear:
    zeros = np.zeros(features)
    intercept = log_odds(np.asarray([share]))
    return Linear(mean=zeros, scale=np.ones(features), weights=zeros.copy(), intercept=intercept)


def _linear(pipeline: Any) -> Linear:
    scaler, model = pipeline[0], pipeline[1]
    return Linear(scaler.mean_, scaler.scale_, model.coef_[0], model.intercept_)


def forest_arrays(model: Any) -> Forest:
    trees = [estimator.tree_ for estimator in model.estimators_]
    roots = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])
    left, right = [], []
    for tree, root in zip(trees, roots, strict=True):
        own = np.arange(tree.node_count)
        leaf = tree.children_left < 0
        left.append(np.where(leaf, own, tree.children_left) + root)
        right.append(np.where(leaf, own, tree.children_right) + root)
    shares = [tree.value[:, 0, 1] / tree.value[:, 0, :].sum(axis=1) for tree in trees]
    return Forest(
        feature=np.maximum(np.concatenate([tree.feature for tree in trees]), 0).astype(np.int32),
        threshold=np.concatenate([tree.threshold for tree in trees]),
        left=np.concatenate(left).astype(np.int32),
        right=np.concatenate(right).astype(np.int32),
        value=np.concatenate(shares),
        roots=roots.astype(np.int32),
    )


def brier_score(probabilities: Rows, good: Rows) -> float:
    """Mean squared error of the probabilities (Brier 1950): 0 is perfect, lower is better."""
    return float(np.mean((probabilities - good) ** 2))


def reliability(confidence: Rows, good: Rows, bins: int = 10) -> list[tuple[float, float, int]]:
    """Mean confidence, share of good answers and prompts of each of `bins` equally filled bins."""
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins, len(good)))
    return [(float(confidence[p].mean()), float(good[p].mean()), len(p)) for p in parts]
