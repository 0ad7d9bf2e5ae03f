"""Scores with their interval and signature, and paired comparisons. Pure: lists in, numbers out.

Each metric keeps one row of sufficient statistics per prompt; a corpus score is a function of the
rows' sum. A bootstrap over prompts (Efron 1979; Koehn 2004 for machine translation, "Statistical
Significance Tests for Machine Translation Evaluation") then costs one matrix product, and two
systems resampled with the same weights are compared pair by pair.

The same scores are offered as Hugging Face `evaluate` modules (stages/_metrics/), which
`load_metric` loads from their folders without a network.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from serving.errors import StillhouseError
from stages._matches import NO_PROMPTS, count_matches

if TYPE_CHECKING:
    from serving.grounding import Grounding
    from serving.slots import SlotCheck

Rows = NDArray[np.float64]
"""Sufficient statistics, shape [prompts, statistics]."""
Combine = Callable[[Rows], NDArray[np.float64]]
"""Sums of rows, shape [..., statistics], to scores, shape [...]."""

METRICS_FOLDER = Path(__file__).parent / "_metrics"


@dataclass(frozen=True)
class Score:
    """A corpus score with its bootstrap interval over prompts."""

    score: float
    low: float
    high: float
    signature: str

    def to_dict(self) -> dict[str, Any]:
        """The form in which result files carry it."""
        return asdict(self)


@dataclass(frozen=True)
class Statistics:
    """A metric's rows for one system, and how their sum becomes a score."""

    rows: Rows
    combine: Combine
    signature: str


def bleu_statistics(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """BLEU (Papineni et al. 2002) as the E2E challenge scores it: lower-cased, 13a, all references.

    Args:
        answers: one per prompt.
        references: the references of each prompt, any number above zero; padded with None, since
            an empty string would count as a reference of length 0.

    Returns:
        rows [prompts, 10]: matches of order 1-4, totals of order 1-4, answer and reference length
        in tokens; the score is in 0..100.
    """
    raw, signature = count_matches("bleu", answers, references)  # [n, 10]: lengths first
    return Statistics(np.concatenate([raw[:, 2:], raw[:, :2]], axis=1), _bleu, signature)


def _bleu(sums: Rows) -> NDArray[np.float64]:
    matches, totals = sums[..., 0:4], sums[..., 4:8]
    answer_length, reference_length = sums[..., 8], sums[..., 9]
    # Exponential smoothing of zero counts, sacrebleu's default ("exp", as in mteval-v13a): the
    # k-th order without a match counts as 1 / 2^k.
    zeros = np.cumsum((matches == 0) & (totals > 0), axis=-1)
    smoothed = np.where(matches == 0, 0.5**zeros, matches)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_precision = np.log(100.0 * smoothed / totals).mean(axis=-1)
        brevity = np.minimum(0.0, 1.0 - reference_length / answer_length)
        scores = np.exp(log_precision + brevity)  # of empty answers no number, and 0 below
    nothing_matches = (matches == 0).all(axis=-1) | (totals == 0).any(axis=-1)
    return np.asarray(np.where(nothing_matches, 0.0, scores))


def chrf_statistics(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Statistics:
    """chrF2 (Popović 2015), case kept, best reference per prompt; the score is in 0..100."""
    rows, signature = count_matches("chrf", answers, references)
    return Statistics(rows, _chrf, signature)


def _chrf(sums: Rows, beta: float = 2.0) -> NDArray[np.float64]:
    counts = sums.reshape(*sums.shape[:-1], -1, 3)  # [..., order, (answer, reference, match)]
    answer, reference, match = counts[..., 0], counts[..., 1], counts[..., 2]
    both = (answer > 0) & (reference > 0)
    orders = np.maximum(both.sum(axis=-1), 1)
    precision = np.where(both, match / np.maximum(answer, 1), 0.0).sum(axis=-1) / orders
    recall = np.where(both, match / np.maximum(reference, 1), 0.0).sum(axis=-1) / orders
    weight = beta**2
    total = weight * precision + recall
    safe = np.where(total > 0, total, 1.0)
    return np.asarray(np.where(total > 0, 100.0 * (1 + weight) * precision * recall / safe, 0.0))


def slot_statistics(checks: Sequence["SlotCheck"]) -> dict[str, Statistics]:
    """Slot error rate and its parts: errors per slot asked for, as a share (may exceed 1).

    Returns:
        `slot_error_rate`, `missing`, `added` and `wrong`, each with rows [prompts, 2]: errors and
        slots.
    """
    kinds: dict[str, Callable[[SlotCheck], int]] = {
        "slot_error_rate": lambda check: check.errors,
        "missing": lambda check: len(check.missing),
        "added": lambda check: len(check.added),
        "wrong": lambda check: len(check.wrong),
    }
    return {
        name: Statistics(
            np.asarray([[count(c), max(c.slots, 1)] for c in checks], np.float64).reshape(-1, 2),
            _ratio,
            f"{name}|errors per slot of the record|checker:serving.slots",
        )
        for name, count in kinds.items()
    }


def exact_match_statistics(
    answers: Sequence[str], references: Sequence[Sequence[str]]
) -> Statistics:
    """Share of answers equal to one of their references, white space and letter case folded."""

    def fold(text: str) -> str:
        return " ".join(text.casefold().split())

    hits = [fold(a) in {fold(r) for r in refs} for a, refs in zip(answers, references, strict=True)]
    rows = np.stack([np.asarray(hits, dtype=np.float64), np.ones(len(hits))], axis=1)
    return Statistics(rows, _ratio, "exact_match|case:lc|space:folded")


def mean_statistics(values: Sequence[float], signature: str) -> Statistics:
    """Mean of one value per prompt."""
    rows = np.stack([np.asarray(values, dtype=np.float64), np.ones(len(values))], axis=1)
    return Statistics(rows, _ratio, signature)


def ratio_statistics(
    counted: Sequence[float], possible: Sequence[float], signature: str
) -> Statistics:
    """What was counted over what was possible, both summed over the prompts."""
    rows = np.stack([np.asarray(counted, np.float64), np.asarray(possible, np.float64)], axis=1)
    return Statistics(rows, _ratio, signature)


def grounding_statistics(checks: Sequence["Grounding"]) -> dict[str, Statistics]:
    """Share of answers with an unsupported claim, and share of claims that are unsupported."""
    signature = "checker:serving.grounding"
    unsupported = [float(len(check.unsupported)) for check in checks]
    return {
        "hallucination_rate": mean_statistics(
            [float(count > 0) for count in unsupported],
            f"hallucination_rate|answers with an unsupported claim|{signature}",
        ),
        "unsupported_claim_rate": ratio_statistics(
            unsupported,
            [float(check.claims) for check in checks],
            f"unsupported_claim_rate|unsupported per claim|{signature}",
        ),
    }


def _ratio(sums: Rows) -> NDArray[np.float64]:
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1e-12))


def corpus_score(statistics: Statistics, weights: Rows, confidence: float) -> Score:
    """Score of the corpus with its percentile interval.

    Args:
        weights: `bootstrap_weights` of the same prompts, shape [resamples, prompts].
        confidence: level of the interval, 0.95 for the 2.5th to the 97.5th percentile.
    """
    resampled = statistics.combine(weights @ statistics.rows)
    low, high = percentiles(resampled, confidence)
    score = float(statistics.combine(statistics.rows.sum(axis=0)))
    return Score(score, low, high, statistics.signature)


def per_prompt(statistics: Statistics) -> list[float]:
    """The score of each prompt by itself."""
    return [float(score) for score in statistics.combine(statistics.rows)]


@lru_cache(maxsize=2)  # of the whole split, and of one slice
def bootstrap_weights(prompts: int, resamples: int, seed: int) -> Rows:
    """How often each prompt is drawn in each resample: [resamples, prompts], read-only."""
    if prompts == 0:
        raise StillhouseError(NO_PROMPTS)
    generator = np.random.default_rng(seed)
    shares = np.full(prompts, 1.0 / prompts)
    weights = generator.multinomial(prompts, shares, size=resamples).astype(np.float64)
    weights.setflags(write=False)
    return weights


def paired_difference(
    ours: Statistics, theirs: Statistics, weights: Rows, confidence: float
) -> Score:
    """Our score minus theirs on the same resampled prompts.

    Raises:
        StillhouseError: the two were not scored alike (signatures differ), or not on as many
            prompts.
    """
    return _paired(ours, theirs, weights, confidence, np.subtract, "difference")


def paired_ratio(ours: Statistics, theirs: Statistics, weights: Rows, confidence: float) -> Score:
    """Our score over theirs on the same resampled prompts; errors as `paired_difference`."""
    return _paired(ours, theirs, weights, confidence, np.divide, "ratio")


def _paired(
    ours: Statistics,
    theirs: Statistics,
    weights: Rows,
    confidence: float,
    compare: Callable[[Any, Any], Any],
    kind: str,
) -> Score:
    if ours.signature != theirs.signature or len(ours.rows) != len(theirs.rows):
        raise StillhouseError(
            f"Expected two systems scored alike, found {ours.signature} on {len(ours.rows)} "
            f"prompts and {theirs.signature} on {len(theirs.rows)}. Score both again."
        )
    resampled = compare(ours.combine(weights @ ours.rows), theirs.combine(weights @ theirs.rows))
    low, high = percentiles(resampled, confidence)
    point = compare(ours.combine(ours.rows.sum(axis=0)), theirs.combine(theirs.rows.sum(axis=0)))
    return Score(float(point), low, high, f"paired {kind}|{ours.signature}")


def percentiles(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Bounds of the middle `confidence` of resampled values, as an interval has them."""
    tail = 100.0 * (1.0 - confidence) / 2.0
    low, high = np.percentile(values, [tail, 100.0 - tail])
    return float(low), float(high)


@cache
def load_metric(name: str) -> Any:
    """Load, once, one of our metrics as a Hugging Face `evaluate` module, from its folder.

    A module keeps what it was given until it has computed; one that failed is not to be used again.

    Raises:
        StillhouseError: there is no such metric.
    """
    import evaluate

    folder = METRICS_FOLDER / name
    if not folder.is_dir():
        known = ", ".join(sorted(p.name for p in METRICS_FOLDER.iterdir() if p.is_dir()))
        raise StillhouseError(f"No metric named {name!r}; there are: {known}.")
    return evaluate.load(str(folder))
