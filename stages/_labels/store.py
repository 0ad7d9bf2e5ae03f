"""The finished label store: an index over its shards, and labels by row without loading them all.

`index.json` is written last: a folder with one is complete. It holds the manifest, the hash of
every file and the totals. Arrays are read through safetensors' memory map, texts by their place in
the file, so a store may be larger than memory.
"""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from serving.errors import StillhouseError
from stages import _io
from stages._labels.manifest import Manifest, check, parse_manifest
from stages._labels.records import Distribution, Label
from stages._labels.shards import (
    INDEX_NAME,
    Shard,
    must_take,
    shard_count,
    shard_names,
    shards_done,
)

REJECTED_NAME = "rejected.jsonl"


@dataclass(frozen=True)
class Index:
    """What `index.json` holds."""

    manifest: Manifest
    labels: tuple[int, ...]
    """Labels of each shard."""
    files: dict[str, str]
    """SHA-256 of every other file, by name."""
    totals: dict[str, Any]
    """Answers, labels and tokens, bytes per token, rejected by reason; the parts add up."""


def write_index(folder: Path, manifest: Manifest) -> Index:
    """Close the store: verify every shard, gather what was turned away, write the index last.

    Whatever interrupted runs and other manifests left behind is removed.

    Raises:
        StillhouseError: shards are missing or damaged.
    """
    done = shards_done(folder, manifest)
    missing = [number for number in range(shard_count(manifest)) if number not in done]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (" ..." if len(missing) > 5 else "")
        raise StillhouseError(
            f"{folder} lacks {len(missing)} of {shard_count(manifest)} shards (number {shown}). "
            f'Run "dvc repro label" to make them.'
        )
    shards = [done[number] for number in range(shard_count(manifest))]
    with must_take(folder, REJECTED_NAME):
        _io.write_jsonl(
            folder / REJECTED_NAME, (asdict(row) for shard in shards for row in shard.rejected)
        )
    names = [name for shard in shards for name in shard_names(shard.number)]
    _remove_leftovers(folder, keep={*names, REJECTED_NAME, INDEX_NAME})
    size = sum((folder / name).stat().st_size for name in names)
    hashes = {name: _io.sha256_file(folder / name) for name in [*names, REJECTED_NAME]}
    labels = tuple(shard.labels for shard in shards)
    index = Index(manifest, labels, hashes, _totals(shards, size))
    with must_take(folder, INDEX_NAME):
        _io.write_json(folder / INDEX_NAME, asdict(index))
    return index


def read_index(folder: Path) -> Index:
    """The index of a finished store; compares nothing.

    Raises:
        StillhouseError: no index, so labelling did not finish; or one that can't be read.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        shards = len(list(folder.glob("shard-*.json")))
        raise StillhouseError(
            f"{folder} has no {INDEX_NAME} (found: {shards} finished shards): labelling did not "
            f'come to its end. Run "dvc repro label" to go on.'
        )
    data = _io.read_json(path)
    if not isinstance(data, dict) or data.keys() != {"manifest", "labels", "files", "totals"}:
        raise StillhouseError(f'{path} is no label index. Run "dvc repro label" to make it again.')
    manifest = parse_manifest(data["manifest"], path)
    return Index(manifest, tuple(data["labels"]), data["files"], data["totals"])


def read_labels(folder: Path, expected: Manifest) -> "LabelStore":
    """Open the labels for training, after comparing all that made them with `expected`.

    Raises:
        StillhouseError: not finished, made by something else (every field that differs is named),
            or files that were changed since.
    """
    index = read_index(folder)
    check(expected, index.manifest)
    problems = [problem for name in index.files if (problem := _damage(folder, name, index))]
    if problems:
        raise StillhouseError(
            f"{folder} does not match its index: {'; '.join(problems)}. "
            f'Run "dvc repro label" to make the damaged shards again.'
        )
    return LabelStore(folder, index)


class LabelStore:
    """The labels of a finished store by row, read from disk one at a time.

    Rows are in labelling order. Each process opens its own files; a store can be sent to another
    process, which opens them anew.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder = folder
        self.index = index
        self._starts = list(accumulate(index.labels, initial=0))
        self._open: dict[int, tuple[Any, NDArray[np.int64], NDArray[np.int64], IO[bytes]]] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, row: int) -> Label:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        number = bisect_right(self._starts, row) - 1
        arrays, offsets, row_offsets, stream = self._files(number)
        place = row - self._starts[number]
        stream.seek(row_offsets[place])
        line = stream.read(row_offsets[place + 1] - row_offsets[place])
        start, end = int(offsets[place]), int(offsets[place + 1])
        names = _array_names(self.index.manifest)
        return _label(line, {name: _rows(arrays, name, start, end) for name in names})

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every row, for batches of equal length; (labels,)."""
        parts = [np.diff(self._files(number)[1]) for number in range(len(self.index.labels))]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def close(self) -> None:
        """Close the files; they open again when a label is read."""
        for *_, stream in self._open.values():
            stream.close()
        self._open.clear()

    def _files(self, number: int) -> tuple[Any, NDArray[np.int64], NDArray[np.int64], IO[bytes]]:
        if number not in self._open:
            arrays_name, rows_name, _ = shard_names(number)
            arrays: Any = safe_open(self.folder / arrays_name, "np")
            offsets = [arrays.get_tensor(name) for name in ("offsets", "row_offsets")]
            stream = (self.folder / rows_name).open("rb")
            self._open[number] = (arrays, offsets[0], offsets[1], stream)
        return self._open[number]


def iterate_labels(store: LabelStore) -> Iterator[Label]:
    """Every label in order, a shard at a time: much faster than by row, one shard in memory."""
    names = _array_names(store.index.manifest)
    for number in range(len(store.index.labels)):
        arrays_name, rows_name, _ = shard_names(number)
        with safe_open(store.folder / arrays_name, "np") as arrays:
            whole = {name: arrays.get_tensor(name) for name in names}
            offsets = arrays.get_tensor("offsets").tolist()
        lines = (store.folder / rows_name).read_bytes().split(b"\n")[:-1]
        for line, start, end in zip(lines, offsets[:-1], offsets[1:], strict=True):
            yield _label(line, {name: array[start:end] for name, array in whole.items()})


def _label(line: bytes, arrays: dict[str, NDArray[Any]]) -> Label:
    token_ids = arrays.pop("token_ids")
    distribution = Distribution(**arrays) if arrays else None
    return Label(**json.loads(line), token_ids=token_ids, distribution=distribution)


def _rows(arrays: Any, name: str, start: int, end: int) -> NDArray[Any]:
    if start == end:  # safetensors refuses an empty slice
        return cast("NDArray[Any]", arrays.get_tensor(name)[:0])
    return cast("NDArray[Any]", arrays.get_slice(name)[start:end])


def _array_names(manifest: Manifest) -> tuple[str, ...]:
    if manifest.top_k == 0:
        return ("token_ids",)
    return ("token_ids", "topk_ids", "topk_logprobs", "tail_logmass", "token_logprobs")


def _damage(folder: Path, name: str, index: Index) -> str | None:
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    return None if _io.sha256_file(path) == index.files[name] else f"{name} was changed"


def _remove_leftovers(folder: Path, keep: set[str]) -> None:
    """Remove temporary files of killed runs and shards of other manifests, nothing else."""
    for pattern in ("shard-*", ".shard-*", f".{INDEX_NAME}.*", f".{REJECTED_NAME}.*"):
        for path in folder.glob(pattern):
            if path.name not in keep:
                path.unlink()


def _totals(shards: Sequence[Shard], size: int) -> dict[str, Any]:
    """Counts over all shards; `bytes` are those of the shards, descriptions included."""
    rejected = [row for shard in shards for row in shard.rejected]
    tokens = sum(shard.tokens for shard in shards)
    sources: Counter[str] = sum((Counter(shard.sources) for shard in shards), Counter())
    labels = sum(shard.labels for shard in shards)
    assert sources.total() == labels, f"labels lost: {labels} of {sources.total()}"
    return {
        "shards": len(shards),
        "answers": labels + len(rejected),
        "labels": labels,
        "labels_by_source": dict(sorted(sources.items())),
        "rejected": len(rejected),
        "rejected_by_reason": dict(sorted(Counter(row.reason for row in rejected).items())),
        "tokens": tokens,
        "tokens_rejected": sum(row.tokens for row in rejected),
        "bytes": size,
        "bytes_per_token": round(size / tokens, 2) if tokens else None,
    }
