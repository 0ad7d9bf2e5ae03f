"""The confidence model as plain arrays: a logistic regression or a random forest, then Platt.

scikit-learn trains it (stages/baseline.py); this module only evaluates it, so loading needs neither
pickle nor scikit-learn. The score of either model becomes a probability by Platt scaling (Platt
1999), a logistic function of the score's log-odds fitted on out-of-fold scores.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

# Scores of 0 and 1 have no log-odds; a forest of 100 trees cannot tell anything finer than this.
SCORE_MARGIN = 1e-3


@dataclass(frozen=True)
class Linear:
    """Logistic regression on standardised features; `weights` has shape [features]."""

    mean: Floats
    scale: Floats
    weights: Floats
    intercept: Floats

    def scores(self, features: Floats) -> Floats:
        """Uncalibrated probabilities, shape [rows]."""
        standardised = (features - self.mean) / self.scale
        return sigmoid(standardised @ self.weights + self.intercept[0])


@dataclass(frozen=True)
class Forest:
    """Decision trees laid end to end: node i asks `feature[i] <= threshold[i]`; a leaf has
    left == right == its own number. `value` is the share of the good class, `roots` [trees]."""

    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    value: Floats
    roots: Ints

    def scores(self, features: Floats) -> Floats:
        """Mean over the trees of the share of good rows in the reached leaf, shape [rows]."""
        # scikit-learn compares features in float32 with thresholds in float64.
        columns = features.astype(np.float32)
        rows = np.arange(len(features))[:, None]  # [rows, 1] against nodes [rows, trees]
        nodes = np.broadcast_to(self.roots, (len(features), len(self.roots)))
        while True:
            goes_left = columns[rows, self.feature[nodes]] <= self.threshold[nodes]
            following = np.where(goes_left, self.left[nodes], self.right[nodes])
            if np.array_equal(following, nodes):
                return np.asarray(self.value[nodes].mean(axis=1))
            nodes = following


@dataclass(frozen=True)
class Classifier:
    """A model and the two numbers that calibrate it: p = sigmoid(slope * log-odds + offset)."""

    model: Linear | Forest
    slope: float
    offset: float

    def probabilities(self, features: Floats) -> Floats:
        """Probability that each answer is good; `features` has shape [rows, features]."""
        return sigmoid(self.slope * log_odds(self.model.scores(features)) + self.offset)

    def save(self, path: Path) -> None:
        """Write the arrays as safetensors."""
        arrays = {name: np.ascontiguousarray(value) for name, value in vars(self.model).items()}
        arrays["calibration"] = np.asarray([self.slope, self.offset])
        save_file(arrays, path, metadata={"model": type(self.model).__name__})

    @staticmethod
    def load(path: Path) -> "Classifier":
        """Read what `save` wrote; the arrays' names say which model it is."""
        arrays = load_file(path)
        slope, offset = (float(number) for number in arrays.pop("calibration"))
        model = Linear(**arrays) if "weights" in arrays else Forest(**arrays)
        return Classifier(model, slope, offset)


def log_odds(probabilities: Floats) -> Floats:
    """log(p / (1 - p)), with p kept away from 0 and 1 by `SCORE_MARGIN`."""
    clipped = np.clip(probabilities, SCORE_MARGIN, 1 - SCORE_MARGIN)
    return np.asarray(np.log(clipped / (1 - clipped)))


def sigmoid(values: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * values)))
