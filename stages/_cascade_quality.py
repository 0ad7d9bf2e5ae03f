"""What a cascade answers, against the teacher alone on the same prompts. Pure.

Errors that its own check can see, and what that check cannot: BLEU, and the share of answers that
are like none of the references. Each with its interval; differences resample the same prompts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages._routing import CONFIDENCE, Candidate
from stages._scores import (
    Statistics,
    bleu_statistics,
    bootstrap_weights,
    corpus_score,
    mean_statistics,
    paired_difference,
)
from stages._wrong_answers import Example

Given = Sequence[tuple[Candidate, NDArray[np.bool_]]]
"""Each rung's answers to all prompts, and which of them the cascade gives."""
RESAMPLES = 1000


def compare(
    given: Given, teacher: Candidate, examples: Sequence[Example], floor: float, seed: int
) -> dict[str, Any] | None:
    """Scores of the cascade and of the teacher, and cascade minus teacher.

    Only prompts that a rung is sure of count, for both.

    Args:
        floor: likeness (chrF, 0..1) below which an answer is like none of the references.

    Returns:
        `bleu` (0..100), `below_similarity_floor` and `slot_errors` (shares of the prompts); None
        where nothing is answered or prompts have no references.
    """
    answered = [n for n in range(len(examples)) if any(mask[n] for _, mask in given)]
    models = [teacher, *(one for one, _ in given)]
    if not answered or any(one.likeness is None for one in models):
        return None
    owners = [next(one for one, mask in given if mask[n]) for n in answered]
    references = [examples[n]["references"] for n in answered]
    ours = _statistics(owners, answered, references, floor)
    theirs = _statistics([teacher] * len(answered), answered, references, floor)
    weights = bootstrap_weights(len(answered), RESAMPLES, seed)
    return {"prompts": len(answered), "similarity_floor": floor} | {
        name: {
            "cascade": corpus_score(ours[name], weights, CONFIDENCE).to_dict(),
            "teacher": corpus_score(theirs[name], weights, CONFIDENCE).to_dict(),
            "difference": paired_difference(
                ours[name], theirs[name], weights, CONFIDENCE
            ).to_dict(),
        }
        for name in ours
    }


def _statistics(
    owners: Sequence[Candidate],
    prompts: Sequence[int],
    references: Sequence[Sequence[str]],
    floor: float,
) -> Mapping[str, Statistics]:
    """Of the answer that `owners` have to each of the prompts."""
    pairs = list(zip(owners, prompts, strict=True))
    unlike = [float(one.likeness[n] < floor) for one, n in pairs if one.likeness is not None]
    return {
        "bleu": bleu_statistics([one.answers[n]["text"] for one, n in pairs], references),
        "below_similarity_floor": mean_statistics(
            unlike, f"share of answers|chrF to the nearest reference < {floor:g}"
        ),
        "slot_errors": mean_statistics(
            [float(one.slot_errors[n]) for one, n in pairs],
            "share of answers with a slot error|checker:serving.slots",
        ),
    }
