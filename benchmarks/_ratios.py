"""Ratios of two series that were measured in turns, with their interval; numpy alone."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000


def ratio_of_medians(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """With a 95 % interval, a bootstrap over pairs of rounds (Efron 1979, percentiles)."""
    rounds = np.array([ours, theirs])  # [2, rounds]
    draws = np.random.default_rng(0).integers(0, len(ours), (RESAMPLES, len(ours)))
    above, below = np.median(rounds[:, draws], axis=2)
    low, high = np.percentile(above / below, (2.5, 97.5))
    ratio = float(np.median(rounds[0]) / np.median(rounds[1]))
    return {"ratio": ratio, "low": float(low), "high": float(high)}
