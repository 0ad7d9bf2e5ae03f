"""What people add to a frozen window: references of some of its rows, a JSON line each.

{"id": "<id of a row>", "references": ["a right answer", "another"]}
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stages._windows.reading import Window, read_window

GOLD: Final = "gold.jsonl"
Line = tuple[int, str, list[str]]
"""Its number from 1, the row's id, its references."""


@dataclass(frozen=True)
class Gold:
    """A window's references, and the lines that are none."""

    references: dict[str, list[str]] = field(default_factory=dict)
    """By the id of the row, in the order of the file."""
    rejected: list[dict[str, Any]] = field(default_factory=list)
    """{"line", "reason"} of each line that could not be used."""


def read_gold(folder: Path) -> Gold:
    """The references of a window; none where nobody gave any.

    Raises:
        StillhouseError: the window cannot be read (reading.py); a bad line raises nothing.
    """
    window, gold = read_window(folder), Gold()
    if not (folder / GOLD).is_file():
        return gold
    lines = _read_lines(folder / GOLD, gold.rejected)
    there = _find_ids(window, {name for _, name, _ in lines})
    for number, name, references in lines:
        if name not in there or name in gold.references:
            reason = "a second line for its row" if name in there else "no row has this id"
            gold.rejected.append({"line": number, "reason": reason})
        else:
            gold.references[name] = references
    gold.rejected.sort(key=lambda entry: entry["line"])
    return gold


def _read_lines(path: Path, rejected: list[dict[str, Any]]) -> list[Line]:
    """Lines with an id and references; the others join `rejected`."""
    read: list[Line] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            found = _read(line) if line.strip() else None
            if isinstance(found, str):
                rejected.append({"line": number, "reason": found})
            elif found is not None:
                read.append((number, *found))
    return read


def _find_ids(window: Window, asked: set[str]) -> set[str]:
    """Those of the ids that the window has."""
    names = (name for batch in window.batches(["id"]) for name in batch.column(0).to_pylist())
    return {name for name in names if name in asked}


def _read(line: bytes) -> tuple[str, list[str]] | str:
    """A line's id and references, or the reason why it has none."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return "no JSON"
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        return "no id of a row"
    texts = entry.get("references")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return "references are no list of texts"
    kept = [text for text in texts if text.strip()]
    try:
        "".join(kept).encode()  # JSON may bring half a surrogate pair, which no file can hold
    except UnicodeEncodeError:
        return "references are no UTF-8"
    return (entry["id"], kept) if kept else "no reference"
