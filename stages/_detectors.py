"""The quality detectors under test: each gives a text a score, higher meaning more likely wrong."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from serving.grounding import check_grounding
from serving.slots import SlotSchema, check_answer
from stages._clean_texts import CleanText
from stages._detection import Scores, threshold_for
from stages._scores import bleu_statistics, per_prompt
from stages._sentences import Encoder
from stages._similarity import best_cosines

Texts = Sequence[tuple[str, CleanText]]
"""A text, clean or planted, with the clean text that it was."""
Score = Callable[[Texts], Scores]
ANY = 1.0  # the threshold of a detector that counts errors: one is enough


@dataclass(frozen=True)
class Detector:
    """One detector.

    Attributes:
        score_is: what a score says, for the report.
        needs_schema: whether it works only on data with a slot schema.
        score: a score per text, shape [texts]; NaN where it cannot judge one.
        threshold: score from which it sounds.
    """

    score_is: str
    needs_schema: bool
    score: Score
    threshold: float


@dataclass(frozen=True)
class Similarity:
    """How texts become vectors, and with how many other references one is compared (None: all)."""

    encoder: Encoder
    references: int | None


def list_detectors(
    schema: SlotSchema | None,
    similarity: Similarity | None,
    calibration: Sequence[CleanText],
    false_alarm_rate: float,
) -> dict[str, Detector | str]:
    """Every detector by name; in place of one that cannot run, the reason.

    Args:
        schema: the slot schema, if the data has one.
        similarity: of the semantic similarity, if it is asked for.
        calibration: clean texts from which thresholds follow.
        false_alarm_rate: share of them that may reach such a threshold.
    """
    check: Detector | str = "the data has no slot schema"
    if schema is not None:
        check = Detector("slot errors", True, lambda texts: count_slot_errors(texts, schema), ANY)
    alike: Detector | str = "detectors.similarity is false"
    if similarity is not None:
        alike = _calibrated(
            "1 - best cosine with the prompt's other references",
            lambda texts: unlike_in_meaning(texts, similarity),
            calibration,
            false_alarm_rate,
        )
    return {
        "slot_check": check,
        "grounding": Detector(
            "claims that the prompt does not support", False, count_unsupported, ANY
        ),
        "semantic_similarity": alike,
        "bleu": _calibrated(
            "100 - BLEU against the prompt's other references",
            unlike_in_words,
            calibration,
            false_alarm_rate,
        ),
    }


def _calibrated(
    score_is: str, score: Score, calibration: Sequence[CleanText], false_alarm_rate: float
) -> Detector | str:
    """A detector whose threshold follows from clean texts; the reason where there are none."""
    scores = score([(clean.text, clean) for clean in calibration])
    judged = scores[~np.isnan(scores)]
    if len(judged) == 0:
        return "no calibration prompt has a second reference to compare with"
    return Detector(score_is, False, score, threshold_for(judged, false_alarm_rate))


def count_slot_errors(texts: Texts, schema: SlotSchema) -> Scores:
    """Slot errors of each text against its record (serving/slots.py)."""
    errors = [check_answer(text, clean.example["slots"], schema).errors for text, clean in texts]
    return np.asarray(errors, dtype=np.float64)


def count_unsupported(texts: Texts) -> Scores:
    """Claims of each text that prompt and context do not support (serving/grounding.py)."""
    checks = [
        check_grounding(text, clean.example["prompt"], clean.example.get("context"))
        for text, clean in texts
    ]
    return np.asarray([len(check.unsupported) for check in checks], dtype=np.float64)


def unlike_in_words(texts: Texts) -> Scores:
    """100 - BLEU of each text by itself against its other references; NaN where there is none."""
    return _where_others(
        texts, lambda said, refs: [100.0 - s for s in per_prompt(bleu_statistics(said, refs))]
    )


def unlike_in_meaning(texts: Texts, similarity: Similarity) -> Scores:
    """1 - best cosine of each text with other references; NaN where there is none."""
    limit, encoder = similarity.references, similarity.encoder
    return _where_others(
        texts,
        lambda said, refs: [
            1.0 - c for c in best_cosines(said, [r[:limit] for r in refs], encoder)
        ],
    )


def _where_others(
    texts: Texts, score: Callable[[list[str], list[tuple[str, ...]]], list[float]]
) -> Scores:
    rated = [number for number, (_, clean) in enumerate(texts) if clean.others]
    scores = np.full(len(texts), np.nan)
    if rated:
        said = [texts[number][0] for number in rated]
        scores[rated] = score(said, [texts[number][1].others for number in rated])
    return scores
