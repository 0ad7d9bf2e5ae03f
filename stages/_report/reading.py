"""What the report is made from: the other stages' files, each there or absent with a reason."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages import _io

Table = list[dict[str, str]]
"""Rows of a CSV file by column."""
NESTED = ("distill", "quantize")  # a folder per candidate; in the other two a file
FOLDERS = (*NESTED, "evaluate", "benchmark")
NOT_CANDIDATES = {"summary", "comparison", "run"}  # files of reports/evaluate that are no model's


class Missing(Exception):  # noqa: N818 - no fault: a part of the report that cannot be told
    """A part cannot be told, and why; the page says so in its place."""


@dataclass(frozen=True)
class Facts:
    """All that was read, by the names that the parts ask for."""

    found: Mapping[str, Any]
    absent: Mapping[str, str]
    """Why a file could not be read, by name."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of every file that was read, by its path."""

    def need(self, name: str) -> Any:
        """A file's content.

        Raises:
            Missing: it is not there, or not readable.
        """
        if name not in self.found:
            raise Missing(self.absent.get(name, f"{name} was not read"))
        return self.found[name]

    def get(self, name: str) -> Any:
        """A file's content, None where it is absent."""
        return self.found.get(name)


def read_facts(inputs: Mapping[str, Path]) -> Facts:
    """Read every file that is there.

    Args:
        inputs: a JSON file or a folder by name; a folder's reports become one mapping by candidate,
            and what lies beside them (summary, curves) is read under names of its own.
    """
    reader = _Reader()
    for name, path in inputs.items():
        if name in FOLDERS:
            reader.take_folder(name, path)
        else:
            reader.take(name, path)
    if "evaluate" in inputs:
        reader.take("summary", inputs["evaluate"] / "summary.json")
    if "teacher" in inputs:
        reader.take_curves("teacher", inputs["teacher"].parent)
    for recipe in reader.found.get("distill", {}):
        reader.take_curves(recipe, inputs["distill"] / recipe)
    return Facts(reader.found, reader.absent, reader.hashes())


def read_lines(facts: Facts, folder: Path, names: Sequence[str]) -> Facts:
    """The facts with `lines`: reports/evaluate/<candidate>.jsonl of each one that can be read."""
    reader = _Reader()
    for name in names:
        reader.take(name, folder / f"{name}.jsonl")
    absent = {f"answers of {name}": why for name, why in reader.absent.items()}
    return Facts(
        {**facts.found, "lines": reader.found},
        {**facts.absent, **absent},
        {**facts.sources, **reader.hashes()},
    )


@dataclass
class _Reader:
    """Files as they are read."""

    found: dict[str, Any] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    read: list[Path] = field(default_factory=list)

    def take(self, name: str, path: Path) -> None:
        """One file under a name of its own."""
        try:
            self.found[name] = self._content(path)
        except StillhouseError as error:
            self.absent[name] = str(error)

    def take_folder(self, name: str, folder: Path) -> None:
        """The report of every candidate in a folder."""
        inside = {}
        for candidate, path in _per_candidate(name, folder).items():
            try:
                inside[candidate] = self._content(path)
            except StillhouseError as error:
                self.absent[f"{name} {candidate}"] = str(error)
        if inside:
            self.found[name] = inside
        else:
            self.absent[name] = f"{folder.as_posix()} has no report of any candidate"

    def take_curves(self, name: str, folder: Path) -> None:
        """What a training wrote by step, where it wrote any."""
        paths = {kind: folder / f"{kind}.csv" for kind in ("curve", "validations")}
        tables = {kind: self._content(path) for kind, path in paths.items() if path.is_file()}
        self.found.setdefault("curves", {})[name] = tables

    def hashes(self) -> dict[str, str]:
        """SHA-256 of what was read, by path."""
        return {path.as_posix(): _io.sha256_file(path) for path in sorted(self.read)}

    def _content(self, path: Path) -> Any:
        content = READERS.get(path.suffix, _io.read_json)(path)
        self.read.append(path)
        return content


def _read_csv(path: Path) -> Table:
    with path.open(encoding="utf-8", newline="") as stream:
        return [dict(row) for row in csv.DictReader(stream)]


READERS: Mapping[str, Callable[[Path], Any]] = {".csv": _read_csv, ".jsonl": _io.read_jsonl}


def _per_candidate(kind: str, folder: Path) -> dict[str, Path]:
    """The report of each candidate in a folder, by candidate."""
    if kind in NESTED:
        return {path.parent.name: path for path in sorted(folder.glob(f"*/{kind}.json"))}
    found = {path.stem: path for path in sorted(folder.glob("*.json"))}
    return {name: path for name, path in found.items() if name not in NOT_CANDIDATES}
