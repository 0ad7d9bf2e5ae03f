"""What a window has to learn from: prompts that are new, and rows that people gave references for.

A prompt is new where no prepared split and no window that was taken before asks the same. Only
prompts with clear text count: where the service kept hashes or figures alone, or nobody has the
key, a window can show drift and still teach nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.slots import is_record, parse_record
from stages import _io
from stages._duplicates import exact_key
from stages._watching import Labels

PREPARED = ("train", "validation", "calibration", "test", "windows")
ASKED = ("id", "prompt", "context", "slots")
MOST = 2000  # rows that are looked at; far above what any rule asks for
GOLD = "gold.jsonl"


def count_labels(window: Path, name: str, prepared: Path, seed: int) -> Labels:
    """Count the new prompts of a window's folder (among at most `MOST` rows), and those with gold.

    What the window itself added to the prepared data, under its `name` in an attempt before, is
    new still.

    Raises:
        StillhouseError: the window cannot be read, or the data is not prepared.
    """
    from stages._windows.gold import read_gold  # pyarrow
    from stages._windows.reading import read_window, sample_rows

    known = _known_keys(prepared, name)
    rows, _ = sample_rows(window, MOST, seed, ASKED)
    fresh = {asked_key(row) for row in rows if row["prompt"]} - known
    judged = read_gold(window).references
    all_rows = read_window(window).rows(ASKED) if judged else ()
    gold = {asked_key(row) for row in all_rows if row["id"] in judged and row["prompt"]} - known
    return Labels(len(fresh), len(gold), gold_digest(window))


def gold_digest(window: Path) -> str | None:
    """SHA-256 of a window's gold, None where it has none."""
    path = window / GOLD
    return _io.sha256_file(path) if path.is_file() else None


def asked_key(row: Mapping[str, Any]) -> str:
    """The same for rows that ask the same, in any order and spelling."""
    prompt, slots = row["prompt"], row.get("slots")
    if not slots and is_record(prompt):
        slots = parse_record(prompt)
    context = exact_key(row["context"], None) if row.get("context") else ""
    return f"{exact_key(prompt, slots)}\x1f{context}"


def _known_keys(prepared: Path, window: str) -> set[str]:
    """What the prepared data asks; windows.jsonl is absent before the first prepare that has it."""
    paths = [prepared / f"{name}.jsonl" for name in PREPARED]
    return {
        asked_key(row)
        for path in paths
        if path.is_file() or path.stem != "windows"
        for row in _io.read_jsonl(path)
        if row.get("window") != window
    }
