"""Training of the confidence model (serving/_classifier.py): scikit-learn fits, arrays remain.

Logistic regression or random forest on numbers about an answer, then Platt scaling (Platt 1999) on
out-of-fold scores, so that the calibration never sees a score of a row the model was fitted on.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serving._classifier import Classifier, Forest, Linear, log_odds

Kind = Literal["logistic_regression", "random_forest"]
KINDS: tuple[Kind, ...] = ("logistic_regression", "random_forest")
Rows = NDArray[np.float64]


def train_classifier(kind: Kind, features: Rows, good: Rows, seed: int) -> Classifier:
    """Fit one kind on all rows, and its calibration on out-of-fold scores (5 folds)."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if min(good.sum(), len(good) - good.sum()) < 5:  # all answers alike: nothing to tell apart
        return Classifier(_constant(features.shape[1], float(good.mean())), 1.0, 0.0)
    if kind == "logistic_regression":
        model: Any = make_pipeline(StandardScaler(), LogisticRegression(random_state=seed))
    else:
        model = RandomForestClassifier(
            n_estimators=100, max_depth=6, min_samples_leaf=10, random_state=seed
        )
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    scores = cross_val_predict(model, features, good, cv=folds, method="predict_proba")[:, 1]
    calibration = LogisticRegression(C=1e6).fit(log_odds(scores)[:, None], good)
    model.fit(features, good)
    arrays = _linear(model) if kind == "logistic_regression" else forest_arrays(model)
    return Classifier(arrays, float(calibration.coef_[0, 0]), float(calibration.intercept_[0]))


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
