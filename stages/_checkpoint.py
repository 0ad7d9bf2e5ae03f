"""Checkpoints that a killed run goes on from: safetensors and JSON, no pickle.

They lie in untracked scratch, in a folder named after the hash of everything that decides the
result: the stage's params, its inputs, the code. Other inputs never find them, the same inputs
always do. Tensors go through torch.distributed.checkpoint, so every process of a sharded run writes
its own part and any number of processes can go on from them.

A checkpoint is written under a temporary name and renamed; one that has its final name is whole.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, distributed

from serving.errors import StillhouseError
from stages import _io

SCRATCH = Path("scratch")
FACTS = "facts.json"
Tensors = dict[str, Tensor]


def scratch_folder(stage: str, *parts: Any, files: Iterable[Path] = ()) -> Path:
    """scratch/<stage>/<hash>: where this stage with these inputs keeps its work in progress.

    Args:
        parts: JSON values that decide the result (params, seed, candidate ...).
        files: input files and folders; all their names and bytes count, and those of the project's
            own code, and the versions of torch and transformers.
    """
    digest = hashlib.sha256()
    libraries = [metadata.version(name) for name in ("torch", "transformers")]
    digest.update(json.dumps([stage, libraries, *parts], sort_keys=True).encode())
    project = Path(__file__).parent.parent
    code = [p for name in ("stages", "serving") for p in (project / name).rglob("*.py")]
    for path in [*sorted(code), *(file for given in files for file in _files(given))]:
        digest.update(f"{path.name} {_io.sha256_file(path)}\n".encode())
    return SCRATCH / stage / digest.hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def save(folder: Path, name: str, tensors: Tensors, facts: Mapping[str, Any]) -> None:
    """Write folder/name, whole or not at all; every process of a run calls it.

    Raises:
        StillhouseError: the disk does not take it; older checkpoints are untouched.
    """
    temporary = folder / f"{name}.tmp"
    try:
        if is_main():
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        wait_for_all()
        _write(temporary, tensors)
        if is_main():
            _io.write_json(temporary / FACTS, facts)
            shutil.rmtree(folder / name, ignore_errors=True)
            temporary.rename(folder / name)
        wait_for_all()
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)  # room for the next try
        raise StillhouseError(
            f"{folder} did not take checkpoint {name} ({error.strerror or error}); earlier ones "
            f'are safe. Make room, then run "dvc repro" to go on.'
        ) from None


@contextmanager
def must_hold(path: Path) -> Iterator[None]:
    """Around writing weights to `path`: a disk that does not take them ends in one line."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors' own is no OSError
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise StillhouseError(
            f'{path} could not be written ({reason}). Make room, then run "dvc repro" to go on.'
        ) from None


def _write(folder: Path, tensors: Tensors) -> None:
    """This process's part of the tensors, on disk when it returns. OSError of any process."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save as write

    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    dense = {
        name: tensor.contiguous() for name, tensor in tensors.items()
    }  # safetensors demands it
    try:
        with _alone():
            write(dense, storage_writer=writer)
    except CheckpointException as error:  # holds what went wrong by process
        reasons = [reason for reason, _trace in error.failures.values()]
        raise next((r for r in reasons if isinstance(r, OSError)), reasons[0]) from None


def load(path: Path, tensors: Tensors) -> None:
    """Fill `tensors` (plain or sharded, by name) from a checkpoint, in place.

    Raises:
        StillhouseError: the checkpoint is damaged.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load as read

    try:
        with _alone():
            reader = HuggingFaceStorageReader(str(path))
            read(tensors, storage_reader=reader)
    except CheckpointException as error:
        reason, _trace = next(iter(error.failures.values()))
        raise StillhouseError(
            f"{path} does not load ({' '.join(str(reason).split())}). Delete {path.parent}, then "
            f'run "dvc repro" to train again.'
        ) from None


def read_facts(folder: Path, name: str) -> dict[str, Any] | None:
    """What was saved beside the tensors of folder/name; None where there is no such checkpoint."""
    path = folder / name / FACTS
    facts: dict[str, Any] | None = _io.read_json(path) if path.is_file() else None
    return facts


def keep_only(folder: Path, names: Iterable[str]) -> None:
    """Remove every other checkpoint of `folder`, half-written ones too."""
    kept = set(names)
    for path in folder.glob("*") if is_main() else ():
        if path.is_dir() and path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)


def remove(folder: Path) -> None:
    """Delete the scratch of a stage whose outputs are written."""
    wait_for_all()
    if is_main():
        shutil.rmtree(folder, ignore_errors=True)


def is_main() -> bool:
    """Whether this is the only process, or the first of several."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def wait_for_all() -> None:
    """Wait for the other processes of the run."""
    if distributed.is_initialized():
        distributed.barrier()


@contextmanager
def _alone() -> Iterator[None]:
    """Without the library's remark that there is one process only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
