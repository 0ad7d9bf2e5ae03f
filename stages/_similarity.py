"""Semantic similarity: the best cosine of an answer with the references of its prompt.

A cosine says little alone: two texts about the same restaurants are alike whatever they say. So
the score comes with a floor (the answer against another prompt's references) and a ceiling (a
reference against others of its prompt). Sentence vectors: Reimers and Gurevych 2019.
"""

from collections.abc import Sequence

import numpy as np

from stages._scores import Statistics, mean_statistics
from stages._sentences import Encoder, unit_dots

Texts = Sequence[str]


def similarity_statistics(
    answers: Texts, references: Sequence[Texts], encoder: Encoder, limit: int | None = None
) -> Statistics:
    """Best cosine per prompt, -1 to 1; an answer without a word counts 0.

    Args:
        limit: how many references of each prompt are compared, all where None.
    """
    compared = [refs[:limit] for refs in references]
    values = best_cosines(answers, compared, encoder)
    counted = "all" if limit is None else f"first {limit}"
    return mean_statistics(
        values, f"semantic_similarity|best cosine|references:{counted}|{encoder.signature}"
    )


def best_cosines(answers: Texts, references: Sequence[Texts], encoder: Encoder) -> list[float]:
    """The greatest cosine of each answer with its references."""
    texts = list({text: None for group in (answers, *references) for text in group})
    vectors = dict(zip(texts, encoder.encode(texts), strict=True)) if texts else {}
    return [
        max(unit_dots(vectors[answer], [vectors[ref] for ref in refs])) if answer.strip() else 0.0
        for answer, refs in zip(answers, references, strict=True)
    ]


def floor(
    answers: Texts, references: Sequence[Texts], encoder: Encoder, limit: int | None, seed: int
) -> float | None:
    """Mean score with every answer held against another prompt's references; None of one prompt."""
    if len(answers) < 2:
        return None
    partners = derange(len(answers), seed)
    others = [references[partner][:limit] for partner in partners]
    return _mean(best_cosines(answers, others, encoder))


def ceiling(references: Sequence[Texts], encoder: Encoder, limit: int | None) -> float | None:
    """Mean score of a reference against as many others as an answer meets, where there are two.

    The one behind the first `limit` answers, or the last where there are no more.
    """
    groups = [refs if limit is None else refs[: limit + 1] for refs in references]
    groups = [refs for refs in groups if len(refs) > 1]
    if not groups:
        return None
    return _mean(best_cosines([g[-1] for g in groups], [g[:-1] for g in groups], encoder))


def compared_texts(references: Sequence[Texts], limit: int | None) -> list[str]:
    """All references that score, floor and ceiling look at."""
    return [ref for refs in references for ref in (refs if limit is None else refs[: limit + 1])]


def derange(count: int, seed: int) -> list[int]:
    """A partner for each of `count` rows, never the row itself: one random ring through all."""
    ring = np.random.default_rng(seed).permutation(count)
    partners = np.empty(count, dtype=np.int64)
    partners[ring] = np.roll(ring, -1)
    return [int(partner) for partner in partners]


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 6)
