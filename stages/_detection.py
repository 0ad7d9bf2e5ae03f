"""How well a score tells texts with an error from clean ones. Pure: numbers in, numbers out.

The area under the ROC curve is the probability that a text with an error scores above a clean one,
a tie counting half: the Mann-Whitney statistic over its largest value (Hanley and McNeil 1982, "The
meaning and use of the area under a receiver operating characteristic curve", Radiology 143:29-36).
Its intervals resample prompts, with all their texts, clean and planted (a clustered bootstrap).
Shares have Wilson's interval (1927), which tells 0 of 20 from 0 of 2,000 where a bootstrap cannot.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from serving.errors import StillhouseError
from stages._scores import Rows, Score, percentiles

Scores = NDArray[np.float64]
"""A score per text, shape [texts]; higher means more likely wrong."""


def auroc(planted: Scores, clean: Scores) -> float:
    """Probability that a planted text scores above a clean one, ties counting half.

    Raises:
        StillhouseError: one side has no text.
    """
    if len(planted) == 0 or len(clean) == 0:
        raise StillhouseError(
            f"AUROC needs texts on both sides, found {len(planted)} planted and {len(clean)} "
            f"clean. Leave this kind of error out."
        )
    return float(_wins(planted, clean).mean())


def paired_auroc(planted: Scores, clean: Scores, weights: Rows, confidence: float) -> Score:
    """AUROC of texts against their own clean versions, with its percentile interval.

    Args:
        planted: scores of the texts with an error, shape [texts].
        clean: scores of the same texts without it, in the same order.
        weights: how often each text is drawn in each resample, shape [resamples, texts].
        confidence: level of the interval.
    """
    point = auroc(planted, clean)
    totals = weights.sum(axis=1) ** 2
    resampled = ((weights @ _wins(planted, clean)) * weights).sum(axis=1) / totals
    low, high = percentiles(resampled, confidence)
    return Score(point, low, high, "auroc|ties:half|clean:the same texts|bootstrap:prompts")


def share_above(scores: Scores, threshold: float, confidence: float) -> Score:
    """Share of texts that score the threshold or above, with Wilson's interval."""
    texts = len(scores)
    share = float((scores >= threshold).mean())
    z = NormalDist().inv_cdf((1.0 + confidence) / 2.0)
    shrunk = 1.0 + z**2 / texts
    middle = (share + z**2 / (2.0 * texts)) / shrunk
    reach = z / shrunk * math.sqrt(share * (1.0 - share) / texts + z**2 / (4.0 * texts**2))
    low = middle - reach if share > 0.0 else 0.0  # both are exact; a rounding error would show
    high = middle + reach if share < 1.0 else 1.0
    return Score(share, low, high, f"share of texts scoring {threshold:g} or above")


def threshold_for(scores: Scores, false_alarm_rate: float) -> float:
    """The least score, of those seen, that at most this share of clean texts reach.

    Raises:
        StillhouseError: there is no text.
    """
    if len(scores) == 0:
        raise StillhouseError("A threshold needs clean calibration texts, found none. Give some.")
    values = np.unique(scores)
    shares = np.array([(scores >= value).mean() for value in values])
    fitting = values[shares <= false_alarm_rate]
    return float(fitting[0]) if len(fitting) else float(np.nextafter(values[-1], np.inf))


def text_weights(prompts: Sequence[str], resamples: int, seed: int) -> Rows:
    """Bootstrap over prompts: how often each text is drawn, shape [resamples, texts].

    Args:
        prompts: the prompt's id of every text; texts of one prompt are drawn together.
    """
    names, index = np.unique(np.asarray(prompts), return_inverse=True)
    shares = np.full(len(names), 1.0 / len(names))
    drawn = np.random.default_rng(seed).multinomial(len(names), shares, size=resamples)
    return drawn[:, index].astype(np.float64)


def _wins(planted: Scores, clean: Scores) -> Rows:
    """1 where a planted text scores above a clean one, 0.5 where equal, shape [planted, clean]."""
    ahead = np.sign(planted[:, None] - clean[None, :])
    return np.asarray((ahead + 1.0) / 2.0)
