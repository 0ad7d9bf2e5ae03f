"""Shards of the label store: written whole or not at all, verified before they count as finished.

A shard answers a fixed range of prompts and is three files:

    shard-00000.safetensors   the arrays of all its labels end to end, and where each label begins
    shard-00000.jsonl         one line per label: example id, text, finish reason, rank ...
    shard-00000.json          written last: manifest fingerprint, counts, the answers that were
                              turned away, SHA-256 of the other two files and of itself

The same labels give the same bytes, so a run that was killed and resumed ends with the files of an
undisturbed one. Nothing in here asks the teacher anything twice: what `shards_done` names is paid.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from serving.errors import StillhouseError
from stages._labels.manifest import Manifest
from stages._labels.records import Label, Rejected, check_label, clamp

INDEX_NAME = "index.json"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Shard:
    """A finished shard, as its JSON file describes it."""

    number: int
    fingerprint: str
    labels: int
    tokens: int
    sources: dict[str, int]
    """Labels by source; the values add up to `labels`."""
    files: dict[str, str]
    """SHA-256 by file name."""
    rejected: tuple[Rejected, ...]


def id_type(vocab_size: int) -> type[np.unsignedinteger[Any]]:
    """Integer type that token ids are stored in: 2 bytes as long as they fit, else 4."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def shard_count(manifest: Manifest) -> int:
    """Number of shards of a complete store."""
    return -(-manifest.example_count // manifest.shard_size)


def shard_range(manifest: Manifest, number: int) -> range:
    """Positions, in labelling order, of the prompts that a shard answers."""
    start = number * manifest.shard_size
    return range(start, min(start + manifest.shard_size, manifest.example_count))


def shard_names(number: int) -> tuple[str, str, str]:
    """File names of a shard: arrays, texts, and the description that is written last."""
    stem = f"shard-{number:05d}"
    return f"{stem}.safetensors", f"{stem}.jsonl", f"{stem}.json"


def write_shard(
    folder: Path,
    manifest: Manifest,
    number: int,
    labels: Sequence[Label],
    rejected: Sequence[Rejected] = (),
) -> Shard:
    """Write one shard, replacing what may be left of it; the store is open again until indexed.

    Args:
        labels, rejected: all answers to the prompts of `shard_range(manifest, number)`, in order.

    Raises:
        StillhouseError: a label that can't be stored, or a disk that does not take it; finished
            shards are untouched.
    """
    assert 0 <= number < shard_count(manifest), f"shard {number} of {shard_count(manifest)}"
    for label in labels:
        check_label(label, manifest)
    rows = [_row(label) for label in labels]
    arrays_name, rows_name, name = shard_names(number)
    content = {arrays_name: save(_pack(labels, rows, manifest)), rows_name: b"".join(rows)}
    shard = Shard(
        number=number,
        fingerprint=manifest.fingerprint(),
        labels=len(labels),
        tokens=sum(len(label.token_ids) for label in labels),
        sources=dict(sorted(Counter(label.source for label in labels).items())),
        files={file: hashlib.sha256(data).hexdigest() for file, data in content.items()},
        rejected=tuple(rejected),
    )
    content[name] = _sealed(asdict(shard))
    with must_take(folder, f"shard {number}"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / INDEX_NAME).unlink(missing_ok=True)
        for file, data in content.items():
            _write_bytes(folder / file, data)
    return shard


@contextmanager
def must_take(folder: Path, what: str) -> Iterator[None]:
    """Around writing `what` into `folder`: a disk that does not take it ends in one line."""
    try:
        yield
    except OSError as error:
        raise StillhouseError(
            f"{folder} did not take {what} ({error.strerror}); finished shards are safe. "
            f'Make room, then run "dvc repro label" to go on.'
        ) from None


def shards_done(folder: Path, manifest: Manifest) -> dict[int, Shard]:
    """The shards in `folder` that this manifest made and that are whole, by number.

    Half-written, damaged and foreign ones are left out: they are to be made again.
    """
    found = (_read_shard(folder, manifest, number) for number in range(shard_count(manifest)))
    return {shard.number: shard for shard in found if shard is not None}


def _read_shard(folder: Path, manifest: Manifest, number: int) -> Shard | None:
    """A shard, if all its files are as they were written."""
    *names, name = shard_names(number)
    try:
        data = (folder / name).read_bytes()
        content = json.loads(data)
        del content["sha256"]
        if _sealed(content) != data:
            return None
        rejected = tuple(Rejected(**row) for row in content.pop("rejected"))
        shard = Shard(**content, rejected=rejected)
        if (shard.number, shard.fingerprint) != (number, manifest.fingerprint()):
            return None
        if shard.files != {file: _sha256(folder / file) for file in names}:
            return None
        return shard if _shapes_fit(folder / names[0], shard, manifest) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, SafetensorError):
        return None


def _shapes_fit(path: Path, shard: Shard, manifest: Manifest) -> bool:
    """Whether the arrays are those of `shard.labels` labels with `shard.tokens` tokens."""
    with safe_open(path, "np") as arrays:
        shapes = {name: tuple(arrays.get_slice(name).get_shape()) for name in arrays.keys()}  # noqa: SIM118  not a dict
        if shapes != _shapes(shard.labels, shard.tokens, manifest.top_k):
            return False
        offsets = arrays.get_tensor("offsets")
        ids = arrays.get_tensor("token_ids")
    ends = (int(offsets[0]), int(offsets[-1])) == (0, shard.tokens)
    ordered = bool(np.all(np.diff(offsets) >= 0))
    return ends and ordered and ids.dtype == id_type(manifest.vocab_size)


def _shapes(labels: int, tokens: int, top_k: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "offsets": (labels + 1,),
        "row_offsets": (labels + 1,),
        "token_ids": (tokens,),
    }
    if top_k:
        shapes |= {"topk_ids": (tokens, top_k), "topk_logprobs": (tokens, top_k)}
        shapes |= {"tail_logmass": (tokens,), "token_logprobs": (tokens,)}
    return shapes


def _pack(labels: Sequence[Label], rows: Sequence[bytes], manifest: Manifest) -> Arrays:
    """All labels end to end; label i is [offsets[i], offsets[i + 1]) of every array."""
    ids = id_type(manifest.vocab_size)
    k = manifest.top_k
    arrays: Arrays = {
        "offsets": _offsets([len(label.token_ids) for label in labels]),
        "row_offsets": _offsets([len(row) for row in rows]),
        "token_ids": _join([label.token_ids for label in labels], (0,), ids),
    }
    if k:
        found = [label.distribution for label in labels if label.distribution is not None]
        arrays["topk_ids"] = _join([d.topk_ids for d in found], (0, k), ids)
        arrays["topk_logprobs"] = _join([clamp(d.topk_logprobs) for d in found], (0, k), np.float16)
        arrays["tail_logmass"] = _join([clamp(d.tail_logmass) for d in found], (0,), np.float16)
        arrays["token_logprobs"] = _join([clamp(d.token_logprobs) for d in found], (0,), np.float16)
    return arrays


def _offsets(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _join(parts: Sequence[NDArray[Any]], empty: tuple[int, ...], kind: type[Any]) -> NDArray[Any]:
    """The parts end to end; an empty array of the right shape where there are none."""
    joined = np.concatenate(parts) if parts else np.empty(empty)
    return np.ascontiguousarray(joined, dtype=kind)


def _row(label: Label) -> bytes:
    names = ("example_id", "text", "finish_reason", "mean_logprob", "rank", "source")
    return _json_line({name: getattr(label, name) for name in names})


def _json_line(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _sealed(content: dict[str, Any]) -> bytes:
    """`content` as JSON together with the SHA-256 of that JSON."""
    seal = hashlib.sha256(_json_line(content)).hexdigest()
    return _json_line({**content, "sha256": seal})


def _write_bytes(path: Path, data: bytes) -> None:
    """Write to a temporary name in the same folder and rename: whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
