"""The baseline's index: training prompts in TF-IDF space, searched by cosine, kept in plain arrays.

Weights are safetensors, terms and answers JSON; nothing is pickled. scikit-learn is imported when
an index is built or loaded, so only processes that serve the baseline pay for it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from serving.errors import StillhouseError
from serving.slots import SlotSchema

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors


@dataclass(frozen=True)
class Entry:
    """One training prompt with the answers people gave."""

    slots: Mapping[str, str] | None
    references: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """Training prompts in TF-IDF space; `neighbours` searches them by cosine."""

    vectoriser: "TfidfVectorizer"
    neighbours: "NearestNeighbors"
    entries: tuple[Entry, ...]
    schema: SlotSchema | None


def retrieval_text(
    prompt: str,
    slots: Mapping[str, str] | None,
    schema: SlotSchema | None,
    context: str | None = None,
) -> str:
    """What retrieval compares: the prompt's words, or the record's structure as one word a slot.

    Open values (names, numbers) are copied into the answer whatever they are, so only their slot
    and their unit say which answer fits; a closed value or a flag decides the wording.
    """
    if slots is None or schema is None:
        return f"{prompt}\n{context}" if context else prompt
    kinds = {name: slot["kind"] for name, slot in schema.slots.items()}
    words = []
    for name, value in slots.items():
        words.append(_term("has", name))
        if kinds.get(name) in ("choice", "flag"):
            words.append(_term(name, value))
        elif kinds.get(name) == "quantity":
            words.append(_term(name, value.split()[-1] if " " in value else "plain"))
    return " ".join(words)


def _term(*parts: str) -> str:
    return "=".join("_".join(part.lower().split()) for part in parts)


def build_index(
    examples: Sequence[Mapping[str, Any]], schema: SlotSchema | None, max_features: int
) -> Index:
    """Fit the index on prepared examples."""
    entries = tuple(Entry(ex.get("slots"), tuple(ex["references"])) for ex in examples)
    vectoriser = _vectoriser(schema is not None, max_features=max_features)
    texts = [
        retrieval_text(ex["prompt"], ex.get("slots"), schema, ex.get("context")) for ex in examples
    ]
    try:
        matrix = vectoriser.fit_transform(texts)
    except ValueError as error:
        raise StillhouseError(
            f"no prompt has a word that retrieval could use ({error}). Check the prompt column."
        ) from None
    return Index(vectoriser, _search(matrix), entries, schema)


def _vectoriser(structured: bool, **arguments: Any) -> "TfidfVectorizer":
    from sklearn.feature_extraction.text import TfidfVectorizer

    if structured:
        arguments |= {"token_pattern": r"\S+", "lowercase": False}
    else:
        arguments |= {"token_pattern": r"(?u)\w+", "ngram_range": (1, 2)}
    return TfidfVectorizer(dtype=np.float32, sublinear_tf=True, **arguments)


def _search(matrix: "csr_matrix") -> "NearestNeighbors":
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(metric="cosine", algorithm="brute").fit(matrix)


def save_index(folder: Path, index: Index, dtype: str) -> None:
    """Write the index: the TF-IDF matrix as safetensors in `dtype`, terms and answers as JSON.

    int8 stores each weight as a whole number of 1/127ths; every weight of an L2-normalised row is
    between 0 and 1, so one scale serves the whole matrix.
    """
    matrix: Any = index.neighbours._fit_X
    weights = matrix.data
    stored = np.rint(weights * 127).astype(np.int8) if dtype == "int8" else weights.astype(dtype)
    arrays = {
        "data": stored,
        "indices": matrix.indices.astype(np.int32),
        "indptr": matrix.indptr.astype(np.int32),
        "idf": index.vectoriser.idf_.astype(np.float32),
    }
    save_file(arrays, folder / "index.safetensors")
    terms = sorted(index.vectoriser.vocabulary_, key=index.vectoriser.vocabulary_.__getitem__)
    _write_json(folder / "terms.json", terms)
    answers = [{"slots": e.slots, "references": e.references} for e in index.entries]
    _write_json(folder / "answers.json", answers)


def load_index(folder: Path, schema: SlotSchema | None) -> Index:
    """Read what `save_index` wrote; weights are float32 again in memory."""
    from scipy.sparse import csr_matrix

    arrays: dict[str, NDArray[Any]] = load_file(folder / "index.safetensors")
    terms = json.loads((folder / "terms.json").read_text(encoding="utf-8"))
    answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    data = arrays["data"].astype(np.float32)
    if arrays["data"].dtype == np.int8:
        data /= 127
    shape = (len(answers), len(terms))
    matrix = csr_matrix((data, arrays["indices"], arrays["indptr"]), shape=shape)
    vocabulary = {term: number for number, term in enumerate(terms)}
    vectoriser = _vectoriser(schema is not None, vocabulary=vocabulary)
    vectoriser.idf_ = arrays["idf"]
    entries = tuple(Entry(answer["slots"], tuple(answer["references"])) for answer in answers)
    return Index(vectoriser, _search(matrix), entries, schema)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
