"""The contract: the small file that makes a model folder complete and says what is in it.

A model folder holds weights or engine files, a tokenizer where there is one, and `contract.json`:
everything serving needs and evaluation relied on, as data. The contract is written last, to a
temporary name, then renamed: a folder with a contract is complete. `read_contract` checks the
SHA-256 of every file and refuses a folder that holds anything else.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError

SCHEMA_VERSION = 2  # 1 had no shots
CONTRACT_NAME = "contract.json"
# Kinds of the fields, for a contract that a person or an accident has edited.
KINDS: dict[str, type | tuple[type, ...]] = {
    "engine": str,
    "prompt_template": str,
    "slot_schema": (dict, type(None)),
    "limits": dict,
    "decoding": dict,
    "params_hash": str,
    "data_hash": str,
    "base_model": (str, type(None)),
    "base_revision": (str, type(None)),
    "quantization": (dict, type(None)),
    "shots": int,
}
# Formats that run code when they are opened.
PICKLED_SUFFIXES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".dill"})
PICKLED_NAMES = frozenset({"pytorch_model.bin", "training_args.bin", "optimizer.bin"})


@dataclass(frozen=True)
class Contract:
    """What serving needs from a model folder and evaluation relied on."""

    engine: str
    """Engine of the predictor that loads the folder: baseline, transformers, ctranslate2 …"""
    prompt_template: str
    """Text around the prompt, with `{prompt}` in it; `{context}` and `{shots}` where they go."""
    slot_schema: dict[str, Any] | None
    """How slots are said (serving/slots.py), or None for data without records."""
    limits: dict[str, int]
    """Longest input and output, units in the names."""
    decoding: dict[str, Any]
    """Decoding defaults."""
    params_hash: str
    """SHA-256 of the stage's params section and the seed."""
    data_hash: str
    """SHA-256 of the data the model was trained on."""
    base_model: str | None = None
    """Model that this one was made from, if any."""
    base_revision: str | None = None
    """Its revision."""
    quantization: dict[str, Any] | None = None
    """Scheme and coverage, or None for full precision."""
    shots: int = 0
    """Training examples shown with each prompt [count], kept in shots/ (serving/_shots.py)."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every other file of the folder, by its relative path."""
    schema_version: int = SCHEMA_VERSION


def write_contract(folder: Path, contract: Contract) -> str:
    """Hash every file of `folder`, write its contract.json last; returns the model's digest."""
    hashes = {name: _sha256(folder / name) for name in _other_files(folder)}
    if problems := _compare(folder, hashes):
        raise StillhouseError(f"{folder} cannot be a model folder: {'; '.join(problems)}.")
    content = {**asdict(contract), "files": hashes}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    temporary = folder / f".{CONTRACT_NAME}.tmp"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(folder / CONTRACT_NAME)
    return digest(folder)


def read_contract(folder: Path, check_files: bool = True) -> Contract:
    """Read `folder`'s contract and check every file against it.

    Raises:
        StillhouseError: no contract, a newer schema, unknown or missing fields, or files that are
            missing, changed, pickled or not in the contract; all of them in one line.
    """
    contract = _parse(folder)
    if check_files and (problems := _compare(folder, contract.files)):
        raise StillhouseError(
            f"{folder} does not match its contract: {'; '.join(problems)}. "
            f'Run "dvc checkout {folder}" to restore it or "dvc repro" to make it again.'
        )
    return contract


def digest(folder: Path) -> str:
    """SHA-256 of the contract, which itself holds the hash of every file: the model's identity."""
    return _sha256(folder / CONTRACT_NAME)


def _parse(folder: Path) -> Contract:
    path = folder / CONTRACT_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = ", ".join(_other_files(folder)[:5]) if folder.is_dir() else "no such folder"
        raise StillhouseError(
            f'{folder} has no {CONTRACT_NAME} (found: {found or "nothing"}). Run "dvc repro".'
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StillhouseError(f'{path} is not JSON ({error}). Run "dvc repro".') from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is not int or version < 1 or not isinstance(data.get("files", {}), dict):
        raise StillhouseError(f'{path} has no schema_version. Run "dvc repro" to make it again.')
    if version > SCHEMA_VERSION:
        raise StillhouseError(
            f"{path} has schema version {version}, this program reads up to "
            f"{SCHEMA_VERSION}. Update Stillhouse, or make the model again with this version."
        )
    known = {item.name for item in fields(Contract)}
    required = known - {"base_model", "base_revision", "quantization", "shots"}
    if data.keys() - known or required - data.keys():
        raise StillhouseError(
            f"{path}: unknown fields {sorted(data.keys() - known)}, missing fields "
            f'{sorted(required - data.keys())}. Run "dvc repro" to make it again.'
        )
    if wrong := _of_wrong_kinds(data):
        raise StillhouseError(f'{path}: {"; ".join(wrong)}. Run "dvc repro" to make it again.')
    return Contract(**data)


def _of_wrong_kinds(data: dict[str, Any]) -> list[str]:
    wrong = [
        f"{name} is {type(data[name]).__name__} {str(data[name])[:40]!r}"
        for name, kind in KINDS.items()
        if name in data and not isinstance(data[name], kind)
    ]
    limits = data["limits"] if isinstance(data["limits"], dict) else {}
    counts = [f"limits.{n} is {v!r}" for n, v in limits.items() if type(v) is not int]
    return wrong + counts


def _compare(folder: Path, expected: dict[str, str]) -> list[str]:
    present = _other_files(folder)
    problems = [f"{name} is missing" for name in expected if name not in present]
    for name in present:
        if (folder / name).is_symlink():
            problems.append(f"{name} is a link, which may lead out of the folder")
        elif Path(name).suffix.lower() in PICKLED_SUFFIXES or Path(name).name in PICKLED_NAMES:
            problems.append(f"{name} is a pickle, which is never loaded")
        elif name not in expected:
            problems.append(f"{name} is not in the contract")
        elif _sha256(folder / name) != expected[name]:
            problems.append(f"{name} was changed")
    return problems


def _other_files(folder: Path) -> list[str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    names = [path.relative_to(folder).as_posix() for path in paths]
    return [name for name in names if name not in (CONTRACT_NAME, f".{CONTRACT_NAME}.tmp")]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
