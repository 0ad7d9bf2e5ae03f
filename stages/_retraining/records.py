"""What was seen and what was tried: two append-only files of JSON lines in data/windows.

    history.jsonl      a line per window: the verdict on it, as `make watch` found it
    retrainings.jsonl  two lines per retraining, when it starts and when it ends

A line is added by writing the whole file to a temporary name and renaming it, so that none of ours
is ever torn; a last line that somebody else tore (a copy that broke off, a full disk) is passed
over and goes with the next line. Any other broken line is told, never skipped: it may hold the
brake that keeps a machine from training all week.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from serving.errors import StillhouseError
from stages import _io
from stages._watching import Attempt, Ending, Verdict, Watched

HISTORY = "history.jsonl"
RETRAININGS = "retrainings.jsonl"
Line = dict[str, Any]


def read_lines(path: Path) -> list[Line]:
    """The lines of an append-only file; none where there is no file.

    Raises:
        StillhouseError: a line other than a torn last one is no JSON object.
    """
    content = path.read_bytes() if path.is_file() else b""
    *whole, rest = content.split(b"\n")
    lines = [_parse(path, number, text) for number, text in enumerate(whole, start=1)]
    with suppress(StillhouseError):  # torn while it was written
        lines += [_parse(path, len(whole) + 1, rest)] if rest else []
    return lines


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add a line; errors as `read_lines`. Keep others out (`stages._releases.holding`)."""
    _io.write_jsonl(path, [*read_lines(path), dict(line)])


def _parse(path: Path, number: int, text: bytes) -> Line:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StillhouseError(
            f"{path}, line {number}, is no JSON object. Lines are only ever added: put it right, "
            f"or take it out if you know what it said."
        )
    return found


def read_history(folder: Path) -> list[Watched]:
    """The verdicts in data/windows, in the order in which they were written."""
    path = folder / HISTORY
    return [_watched(path, n, line) for n, line in enumerate(read_lines(path), start=1)]


def _watched(path: Path, number: int, line: Line) -> Watched:
    try:
        verdict: Verdict = line["verdict"]
        if verdict not in get_args(Verdict):
            raise ValueError(verdict)
        window, first, last = str(line["window"]), line["first"], line["last"]
        return Watched(window, read_time(first), read_time(last), verdict)
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, number, error) from None


def read_attempts(folder: Path) -> list[Attempt]:
    """The retrainings in data/windows, in the order in which they were started."""
    path, started = folder / RETRAININGS, dict[str, Attempt]()
    for number, line in enumerate(read_lines(path), start=1):
        try:
            _take_event(started, line)
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable(path, number, error) from None
    return list(started.values())


def _take_event(attempts: dict[str, Attempt], line: Line) -> None:
    """A start makes an attempt, an end closes it; both name the time of its start."""
    key, ending = str(line["started"]), line.get("outcome")
    if ending is not None and ending not in get_args(Ending):
        raise ValueError(ending)
    gold, last = line.get("gold_sha256"), read_time(line["last"])
    attempts[key] = Attempt(str(line["window"]), last, gold, read_time(key), ending)


def _unreadable(path: Path, number: int, error: Exception) -> StillhouseError:
    return StillhouseError(
        f"{path}, line {number}, cannot be understood ({type(error).__name__}: {error}). Lines "
        f"are only ever added: put it right, or take it out if you know what it said."
    )


def read_time(text: str) -> datetime:
    """An ISO 8601 time; one without a zone is taken for UTC."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def is_known(history: Sequence[Watched], window: str) -> bool:
    """Whether a window has its line already."""
    return any(watched.window == window for watched in history)
