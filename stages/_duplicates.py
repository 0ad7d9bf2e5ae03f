"""Find copies, exact and near, of held-out prompts among the training prompts. Pure and exact.

Why: a model that has seen a test prompt is scored on its memory. Lee et al., "Deduplicating
Training Data Makes Language Models Better" (ACL 2022), found such overlap in standard sets and that
removing it changes scores. Method: the resemblance of Broder, "On the resemblance and containment
of documents" (SEQUENCES 1997), that is |A ∩ B| / |A ∪ B| of two sets, here over word 3-shingles of
a text or over the slot-value pairs of a record. Both papers estimate it by hashing; sets of the
size of a prompt allow to compute it, as a product of binary sparse matrices, so nothing is missed
and no seed is needed.

Where normalising must choose, it calls two texts equal: that costs a training row, the opposite
would leak a test prompt.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from serving.errors import StillhouseError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHINGLE_WORDS = 3
_SIGNS = re.compile(r"[^\w\s]|_")
_MEANINGFUL = frozenset("%&#@")  # punctuation to Unicode, but words to a reader


class Match(NamedTuple):
    """A candidate, the held-out item it resembles most, and how much (0 to 1)."""

    candidate_index: int
    held_out_index: int
    similarity: float


def normalise(text: str) -> str:
    """`text` in compatibility form (NFKC), case folded, its punctuation and white space folded.

    Punctuation becomes a space, but for %, &, # and @; symbols such as £ or + stay; invisible
    format characters (zero-width space, soft hyphen) vanish. May be empty.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(_SIGNS.sub(_fold_sign, folded).split())


def _fold_sign(match: re.Match[str]) -> str:
    sign = match[0]
    category = unicodedata.category(sign)
    if category == "Cf":
        return ""
    return " " if category[0] in "PZC" and sign not in _MEANINGFUL else sign


def exact_key(prompt: str, slots: Mapping[str, str] | None) -> str:
    """What equal prompts share: the slot-value pairs in any order, else the normalised text.

    A text without a letter, digit or symbol keeps its signs, so that "?" and "!" differ.
    """
    if slots:
        return "slots\n" + "\n".join(sorted(slot_pairs(slots)))
    return "text\n" + _folded(prompt)


def slot_pairs(slots: Mapping[str, str]) -> frozenset[str]:
    """The normalised "slot: value" pairs of a record, for `near_duplicate_sets`."""
    return frozenset(f"{_folded(slot)}: {_folded(value)}" for slot, value in slots.items())


def _folded(text: str) -> str:
    return normalise(text) or " ".join(text.split())


def shingles(text: str, size: int = SHINGLE_WORDS) -> frozenset[str]:
    """The runs of `size` words of the normalised text.

    A text of fewer words is one shingle, so it resembles nothing but itself; a text without words
    has none and resembles nothing.
    """
    words = normalise(text).split()
    if not words:
        return frozenset()
    starts = range(max(1, len(words) - size + 1))
    return frozenset(" ".join(words[start : start + size]) for start in starts)


def near_duplicates(
    candidates: Sequence[str], held_out: Sequence[str], threshold: float
) -> list[Match]:
    """`near_duplicate_sets` over the word 3-shingles of texts."""
    return near_duplicate_sets(
        [shingles(text) for text in candidates], [shingles(text) for text in held_out], threshold
    )


def near_duplicate_sets(
    candidates: Sequence[frozenset[str]],
    held_out: Sequence[frozenset[str]],
    threshold: float,
    *,
    max_cells: int = 2_000_000,
) -> list[Match]:
    """For each candidate whose Jaccard similarity to a held-out set reaches `threshold`, the best.

    Of equally similar held-out sets the first counts. Empty sets match nothing. Exact; time grows
    with len(candidates) x len(held_out) in the worst case, memory does not.

    Args:
        candidates: sets to look through, in any number.
        held_out: sets to compare them with.
        threshold: smallest similarity, above 0 and at most 1.
        max_cells: entries of the product held at once; each takes up to some 50 bytes.

    Returns:
        At most one match per candidate, in the order of the candidates.

    Raises:
        StillhouseError: the threshold is out of range.
    """
    if not 0.0 < threshold <= 1.0:
        raise StillhouseError(
            f"The near-duplicate similarity is {threshold}: expected above 0 and at most 1. "
            f"1 finds equal sets only."
        )
    if not any(held_out):
        return []
    from sklearn.feature_extraction.text import CountVectorizer

    # Shingles that no held-out set has are left out: they can't be shared, and sizes come from
    # the sets themselves.
    vectorizer = CountVectorizer(analyzer=list, binary=True, dtype="int32")
    columns = vectorizer.fit_transform(held_out).T.tocsc()
    sizes = _sizes(held_out)
    rows = max(1, max_cells // len(held_out))
    matches: list[Match] = []
    for start in range(0, len(candidates), rows):
        chunk = candidates[start : start + rows]
        shared = (vectorizer.transform(chunk) @ columns).tocoo()
        matches.extend(_best(shared, _sizes(chunk), sizes, threshold, start))
    return matches


def _sizes(sets: Sequence[frozenset[str]]) -> "NDArray[Any]":
    import numpy as np

    return np.array([len(one) for one in sets], dtype=np.int64)


def _best(
    shared: Any, sizes: "NDArray[Any]", held_out_sizes: "NDArray[Any]", threshold: float, start: int
) -> Iterator[Match]:
    """Best match per row of `shared`, the sparse (candidate, held-out) matrix of |A ∩ B|."""
    import numpy as np

    union = sizes[shared.row] + held_out_sizes[shared.col] - shared.data
    similarity = shared.data / union
    kept = np.flatnonzero(similarity >= threshold)
    order = kept[np.lexsort((shared.col[kept], -similarity[kept], shared.row[kept]))]
    _, first = np.unique(shared.row[order], return_index=True)
    for index in order[first]:
        yield Match(
            int(shared.row[index]) + start, int(shared.col[index]), float(similarity[index])
        )
