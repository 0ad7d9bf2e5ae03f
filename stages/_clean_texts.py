"""The clean texts that errors are planted into: test references, or texts that someone read.

A file of texts that were read and found right (configs/clean_references) holds no text, only ids:
the first 16 digits of sha256(prompt + tab + text), UTF-8, and the split that has them.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from serving.errors import StillhouseError
from stages import _io

Example = Mapping[str, Any]
HELD_OUT = ("validation", "calibration", "test")


@dataclass(frozen=True)
class CleanText:
    """A reference that says its prompt, with the other references of the same prompt."""

    example: Example
    text: str
    others: tuple[str, ...]


def one_per_prompt(examples: Sequence[Example], seed: int) -> list[CleanText]:
    """One reference of every prompt that has any, drawn by the seed and the prompt's id."""
    return [_clean_text(e, _draw(e, seed)) for e in examples if e.get("references")]


def _draw(example: Example, seed: int) -> int:
    rng = Random(f"{seed} {example['id']}")  # noqa: S311  drawing texts, not cryptography
    return rng.randrange(len(example["references"]))


def listed(examples: Sequence[Example], path: Path) -> list[CleanText]:
    """The references whose ids the file lists, each text of a prompt once.

    Raises:
        StillhouseError: the file is not such a list, or the data lacks one of its texts.
    """
    listing = read_list(path)
    wanted = listing["ids"]
    found: dict[str, CleanText] = {}
    for example in examples:
        for number, text in enumerate(example.get("references") or []):
            found.setdefault(text_id(example["prompt"], text), _clean_text(example, number))
    if missing := [key for key in wanted if key not in found]:
        raise StillhouseError(
            f"{path} lists {len(wanted)} texts, {len(missing)} of them are not in the split "
            f"{listing['split']} (first: {missing[0]}). It belongs to other data: set "
            f"detectors.clean to null or to a list for this data."
        )
    return [found[key] for key in wanted]


def read_list(path: Path) -> dict[str, Any]:
    """A list of clean texts: `split`, `ids`, and how they were read.

    Raises:
        StillhouseError: the file is absent or lacks a key.
    """
    if not path.is_file():
        raise StillhouseError(
            f"{path} is missing: expected a list of clean texts. Set detectors.clean to such a "
            f"file, or to null for test references."
        )
    listing = _io.read_json(path)
    if not isinstance(listing, dict) or not listing.keys() >= {"split", "ids"}:
        raise StillhouseError(
            f"{path} is no list of clean texts: expected an object with split and ids. "
            f"See configs/clean_references for one."
        )
    if listing["split"] not in HELD_OUT:
        raise StillhouseError(
            f"{path} lists texts of the split {listing['split']!r}: expected split validation, "
            f"calibration or test. Put one of them."
        )
    return listing


def text_id(prompt: str, text: str) -> str:
    """The id of a text, which tells nothing of it: 16 hexadecimal digits."""
    return hashlib.sha256(f"{prompt}\t{text}".encode()).hexdigest()[:16]


def _clean_text(example: Example, number: int) -> CleanText:
    references = list(example["references"])
    return CleanText(example, references.pop(number), tuple(references))
