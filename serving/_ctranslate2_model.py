"""Load a CTranslate2 model folder and refuse what it would compute otherwise than measured.

model.bin is safe to open. It holds a version, then named arrays (a shape, a type number, raw
bytes) and names of arrays that stand for others; config.json and vocabulary.json are JSON. Nothing
in them names code, and the reader (src/models/model.cc of CTranslate2) only copies bytes: no
pickle. It is C++ though and trusts sizes, so a folder's hashes are checked first, as for any model.

Left to itself the library converts weights to what the CPU can do, with a warning nobody reads.
Here a compute type that the device has not is an error, and so is a model that is not of the type
that its contract says. config.json holds two facts of ours: end_token_ids and max_positions.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving._answering import AGAIN
from serving._threads import allowed_threads, answering_threads
from serving.contract import Contract
from serving.errors import StillhouseError


@dataclass(frozen=True)
class Loaded:
    """A generator and what the folder says about it."""

    generator: Any
    ends: frozenset[int]
    positions: int | None
    vocabulary: int
    """Rows of the embedding [count]."""
    threads: int
    """Of one batch on a CPU [count]; 0: the library's choice."""


def load_generator(folder: Path, contract: Contract, device: str | None) -> Loaded:
    """The model on `device` (CUDA where there is one, else CPU), one batch at a time.

    Threads are those of OMP_NUM_THREADS, or one for a small model: fixed, so that the same request
    gives the same sums.

    Raises:
        StillhouseError: no ctranslate2, a compute type that the device has not or that is not the
            contract's, or files that the library cannot read.
    """
    ctranslate2 = _library(folder)
    where = device or ("cuda" if ctranslate2.get_cuda_device_count() else "cpu")
    wanted = stored_type((contract.quantization or {}).get("dtype", "float32"))
    _check_device(folder, ctranslate2, where, wanted)
    try:
        facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tokens = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        size = (folder / "model.bin").stat().st_size
        threads = answering_threads(size, allowed_threads(unset=0))  # 0: the library's choice
        generator = ctranslate2.Generator(
            str(folder), device=where, inter_threads=1, intra_threads=threads
        )
        generator.forward_batch([[0]])  # arrays of a wrong shape show only in a product
    except Exception as error:  # the library raises RuntimeError, ValueError and more
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise StillhouseError(
            f"{folder} holds no model that ctranslate2 can load ({found}). {AGAIN}"
        ) from error
    if generator.compute_type != wanted:
        raise StillhouseError(
            f"{folder} holds a model of compute type {generator.compute_type}, its contract says "
            f"{wanted!r}. {AGAIN}"
        )
    ends = frozenset(facts.get("end_token_ids", ()))
    if not ends:
        raise StillhouseError(
            f"{folder}/config.json names no end_token_ids, so no answer would end. {AGAIN}"
        )
    return Loaded(generator, ends, facts.get("max_positions"), len(tokens), threads)


def stored_type(compute_type: str) -> str:
    """A compute type in full; the library's "int8" says nothing of biases and norms."""
    return "int8_float32" if compute_type == "int8" else compute_type


def _library(folder: Path) -> Any:
    try:
        import ctranslate2
    except ImportError as error:
        raise StillhouseError(
            f"{folder} needs the engine ctranslate2, which is not installed ({error}). "
            f'Run "pip install ctranslate2", or choose a model of another engine.'
        ) from None
    return ctranslate2


def _check_device(folder: Path, ctranslate2: Any, device: str, wanted: str) -> None:
    if device == "cuda" and not ctranslate2.get_cuda_device_count():
        raise StillhouseError(
            f"{folder} is to run on cuda, and ctranslate2 finds no CUDA device here. "
            f"Choose the device cpu."
        )
    can = sorted(ctranslate2.get_supported_compute_types(device))
    if wanted not in can:
        raise StillhouseError(
            f"{folder} computes in {wanted}, which this {device} cannot (it can: "
            f"{', '.join(can)}). Run it on another machine, or quantize to one of these."
        )
