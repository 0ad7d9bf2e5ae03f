"""What sacrebleu counts of answers and references, kept: each text's n-grams are counted once.

A candidate is scored through a Hugging Face module, by slices, by prompts and in pairs, and all
candidates against the same references; counting is most of what that costs (docs/log.md).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serving.errors import StillhouseError

NO_PROMPTS = "There is no prompt to score. Give the test split some rows."


def count_matches(
    name: Literal["bleu", "chrf"], answers: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[NDArray[np.float64], str]:
    """sacrebleu's counts of each answer, shape [prompts, statistics], and its signature."""
    _check_pairs(answers, references)
    return _count(name, tuple(answers), tuple(map(tuple, references)))


@lru_cache(maxsize=64)  # two a candidate; some 100 bytes a prompt, and its texts
def _count(
    name: Literal["bleu", "chrf"], answers: tuple[str, ...], references: tuple[tuple[str, ...], ...]
) -> tuple[NDArray[np.float64], str]:
    """`count_matches`, kept: what is scored more than once is counted once."""
    metric = _prepared(name, references)
    # Without references sacrebleu takes those that the metric was prepared with.
    counts = metric._extract_corpus_statistics(list(answers), None)
    rows = np.asarray(counts, dtype=np.float64)
    rows.setflags(write=False)
    return rows, str(metric.get_signature())


@lru_cache(maxsize=2)  # both metrics of one split; up to 50 kB a reference
def _prepared(name: Literal["bleu", "chrf"], references: tuple[tuple[str, ...], ...]) -> Any:
    """sacrebleu's metric, the n-grams of the references counted once for all candidates."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    # sacrebleu wants the k-th reference of every prompt together, None where absent.
    width = max(map(len, references))
    streams: Any = [
        [refs[k] if k < len(refs) else None for refs in references] for k in range(width)
    ]
    if name == "chrf":
        return CHRF(references=streams)
    return BLEU(lowercase=True, tokenize="13a", effective_order=False, references=streams)


def _check_pairs(answers: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(answers) != len(references):
        raise StillhouseError(
            f"Expected as many answers as prompts, found {len(answers)} and {len(references)}."
        )
    if not references:
        raise StillhouseError(NO_PROMPTS)
    if empty := [number for number, refs in enumerate(references) if not refs]:
        raise StillhouseError(
            f"{len(empty)} prompts have no reference (first: row {empty[0]}). "
            f"Give every held-out prompt a reference."
        )
