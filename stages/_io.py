"""Files in, files out: JSON, JSON lines and hashes. Nothing half-written ever carries a final name.

Every write goes to a temporary name in the same folder and is renamed over the target, so a reader
sees the old file or the new one, and a crash leaves neither damaged.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from serving.errors import StillhouseError


@contextmanager
def writing(path: Path, mode: int = 0o644) -> Iterator[IO[str]]:
    """Open a temporary text file that becomes `path` if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)  # mkstemp makes 0600; outputs are for everyone to read
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that replaces `path` if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp makes 0700
        for file in temporary.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)  # safetensors makes 0600
        _replace_folder(path, temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _replace_folder(path: Path, new: Path) -> None:
    """Put `new` at `path`; the old folder steps aside first, so that no moment has neither."""
    old = new.with_name(f"{new.name}.old")
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all."""
    with writing(path) as stream:
        stream.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN is refused, because JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """Write one JSON document per line; returns the number of lines."""
    count = 0
    with writing(path) as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


def read_json(path: Path) -> Any:
    """Read a JSON file that an earlier stage wrote.

    Raises:
        StillhouseError: the file is absent or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StillhouseError(f'{path} is missing. Run "dvc repro" to make it.') from None
    except json.JSONDecodeError as error:
        raise StillhouseError(
            f"{path} is not JSON (line {error.lineno}: {error.msg}). "
            f'Delete it and run "dvc repro" to make it again.'
        ) from None


def read_jsonl(path: Path) -> list[Any]:
    """Read a JSON-lines file that an earlier stage wrote; errors name file and line.

    Raises:
        StillhouseError: the file is absent or a line is not JSON.
    """
    if not path.is_file():
        raise StillhouseError(f'{path} is missing. Run "dvc repro" to make it.')
    rows = []
    with path.open(encoding="utf-8", errors="replace") as stream:  # damage shows as broken JSON
        for number, line in enumerate(stream, start=1):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise StillhouseError(
                    f"{path}, line {number}, is not JSON ({error.msg}). "
                    f'Delete the file and run "dvc repro" to make it again.'
                ) from None
    return rows


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in chunks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
