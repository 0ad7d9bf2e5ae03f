"""What made a set of labels: teacher, tokenizer, template, decoding, prompts, filters. As data.

Stored distributions look alike whatever they came from: indices of one tokenizer fit another of the
same size, and a teacher trained again leaves the files in place. So the store carries the identity
of everything that shaped it, and training compares all of it before it reads a single label.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError

SCHEMA_VERSION = 1
_SHOWN = 12  # characters of a value that are enough to tell two hashes apart


@dataclass(frozen=True)
class Manifest:
    """Everything that decides what the labels are; equal manifests mean exchangeable labels."""

    teacher_sha256: str
    """Digest of the teacher's contract (serving/contract.py), or of what names an endpoint."""
    teacher_revision: str | None
    """Revision of the model that the teacher was made from, if any."""
    tokenizer_sha256: str
    """SHA-256 of the tokenizer that the token ids belong to."""
    template_sha256: str
    """SHA-256 of the rendered template text around a prompt."""
    prompt_sha256: str
    """Of the template, the examples shown with it and how they are found (serving/_shots.py)."""
    decoding: dict[str, Any]
    """Beams or samples, answers per prompt, lengths, temperature, seed ..."""
    top_k: int
    """Log-probabilities kept per token; 0: texts only, no distributions."""
    vocab_size: int
    """True size of the tokenizer, not of a padded head; decides the width of stored ids."""
    example_ids_sha256: str
    """`hash_ids` of all prompts in labelling order, training prompts and pool."""
    example_count: int
    """How many they are."""
    data_sha256: str
    """SHA-256 of the prepared data the prompts came from."""
    filters: dict[str, Any]
    """What an answer had to pass (asdict of `Filters`)."""
    shard_size: int
    """Prompts per shard: shard i answers prompts i x shard_size up to (i + 1) x shard_size."""
    schema_version: int = SCHEMA_VERSION
    """Of the store's layout."""

    def fingerprint(self) -> str:
        """SHA-256 over all fields, whatever the order of their keys."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def hash_ids(ids: Iterable[str]) -> str:
    """SHA-256 of example ids in their order; no two lists share it, whatever the ids hold."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()


def check(expected: Manifest, found: Manifest) -> None:
    """Refuse labels that something else made than what this run has.

    Raises:
        StillhouseError: every field that differs, each with what was expected and found.
    """
    one, other = (json.loads(json.dumps(asdict(manifest))) for manifest in (expected, found))
    differing = list(_differences("", one, other))
    if differing:
        raise StillhouseError(
            f"The labels were made by something else: {'; '.join(differing)}. "
            f'Run "dvc repro label" to make them again.'
        )


def parse_manifest(data: Any, path: Path) -> Manifest:
    """The manifest inside a JSON document.

    Raises:
        StillhouseError: a newer layout, or fields that are missing or unknown.
    """
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise StillhouseError(
            f"{path} has schema version {version}, this program reads {SCHEMA_VERSION}. "
            f'Run "dvc repro label" to make the labels with this version.'
        )
    known = {item.name for item in fields(Manifest)}
    if data.keys() != known:
        raise StillhouseError(
            f"{path}: unknown fields {sorted(data.keys() - known)}, missing fields "
            f'{sorted(known - data.keys())}. Run "dvc repro label" to make it again.'
        )
    return Manifest(**data)


def _differences(name: str, expected: Any, found: Any) -> Iterator[str]:
    """`field: expected a, found b` for every leaf that differs; dicts are walked key by key."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys([*expected, *found]):
            inner = f"{name}.{key}" if name else key
            if key not in found:
                yield f"{inner}: expected {_shorten(expected[key])}, found nothing"
            elif key not in expected:
                yield f"{inner}: expected nothing, found {_shorten(found[key])}"
            else:
                yield from _differences(inner, expected[key], found[key])
    elif expected != found or type(expected) is not type(found):
        start = _first_difference(str(expected), str(found))
        yield f"{name}: expected {_shorten(expected, start)}, found {_shorten(found, start)}"


def _first_difference(one: str, other: str) -> int:
    """Where to begin showing two texts: 0, unless what differs lies past what is shown."""
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    same = min(len(one), len(other)) if same is None else same
    return same if same >= _SHOWN else 0


def _shorten(value: Any, start: int = 0) -> str:
    text = str(value)
    if len(text) - start <= 2 * _SHOWN and start == 0:
        return text
    return f"{'…' if start else ''}{text[start : start + _SHOWN]}…"
