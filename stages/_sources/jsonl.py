"""Read JSON lines: one object per line, every broken line rejected by itself.

RFC 8259 plus its advice that names in an object are unique; JSON Lines (jsonlines.org), UTF-8.
"""

import codecs
import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages._sources.records import record_items
from stages._sources.rows import (
    CHUNK,
    DEFAULT_LIMITS,
    SHOWN,
    Counts,
    Limits,
    Place,
    RecordError,
    Rejection,
    Row,
    check_file,
    refuse_no_records,
    rejection,
    shown,
    tally,
    too_long,
)

_MAX_DEPTH = 32  # far below Python's recursion limit, so whatever is read can be written again


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise RecordError("duplicate_key", f"an object has the key {shown(twice)} twice")
    return mapping


def _refuse_constant(name: str) -> float:
    raise RecordError("not_finite", f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise RecordError("not_finite", f"{shown(digits)} is too large for a number")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
)


def _depth(value: object) -> int:
    """Levels of nesting, found level by level instead of by recursion."""
    depth, level = 0, [value]
    while level:
        below = [
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)
        ]
        depth, level = depth + 1, [child for children in below for child in children]
    return depth - 1


def _decoded(line: bytes) -> Any:
    """The JSON value of one line."""
    try:
        text = line.decode("utf-8")
        return _DECODER.decode(text)
    except UnicodeDecodeError as error:
        found = line[error.start : error.start + 4].hex(" ")
        raise RecordError(
            "invalid_utf8", f"byte {error.start + 1} of the line is not UTF-8: {found}"
        ) from None
    except json.JSONDecodeError as error:
        near = shown(text[max(0, error.pos - 20) : error.pos + 20])
        raise RecordError(
            "broken_json", f"{error.msg} at character {error.pos + 1}, near {near}"
        ) from None
    except RecursionError:
        raise RecordError("nested_too_deep", f"more than {_MAX_DEPTH} levels") from None
    except ValueError as error:  # int() refuses more than 4,300 digits (CVE-2020-10735)
        raise RecordError("number_too_long", str(error)[:SHOWN]) from None


def _parsed(line: bytes) -> dict[str, Any]:
    value = _decoded(line)
    if line.count(b"[") + line.count(b"{") > _MAX_DEPTH and _depth(value) > _MAX_DEPTH:
        raise RecordError("nested_too_deep", f"more than {_MAX_DEPTH} levels")
    if not isinstance(value, dict):
        raise RecordError("not_an_object", f"expected one JSON object, found {shown(value)}")
    if b"\\ud" in line or b"\\uD" in line:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            half = ord(error.object[error.start])
            raise RecordError("lone_surrogate", f"has U+{half:04X}, half a character") from None
    return value


def _byte_lines(path: Path, max_bytes: int) -> Iterator[tuple[int, bytes, int]]:
    """Line number, the line (only its head when it is too long) and its length in bytes."""
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(max_bytes + 1):
            number += 1
            size = len(line)
            whole = line.endswith(b"\n")
            while not whole and (more := stream.readline(CHUNK)):
                size += len(more)
                whole = more.endswith(b"\n")
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            yield number, line, size - whole


def _is_array(line: bytes) -> bool:
    """Whether a file's first line opens an array of objects, on this line or over several."""
    if not line.lstrip().startswith(b"["):
        return False
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return True
    return all(isinstance(element, dict) for element in value)


def _refuse_other_formats(line: bytes, file: str) -> None:
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise StillhouseError(
            f"{file} is UTF-16, but JSON lines are UTF-8. "
            f"Convert it: iconv -f utf-16 -t utf-8 old.jsonl > new.jsonl"
        )
    if _is_array(line):
        raise StillhouseError(
            f"{file} is a JSON array, expected one object per line. "
            f"Convert it: jq -c '.[]' old.json > new.jsonl"
        )


def read_jsonl(
    path: Path,
    split: str | None = None,
    *,
    counts: Counts | None = None,
    limits: Limits = DEFAULT_LIMITS,
    file: str | None = None,
) -> Iterator[Row | Rejection]:
    """Stream a JSON-lines file: {prompt, references | reference | response} or {messages} a line.

    Optional keys: slots (text to text), context (text), meta (object), split (one of `SPLITS`).
    null is the same as absent.

    Args:
        path: the file; UTF-8, with or without byte order mark.
        split: the split of every line; a line that names another one is rejected.
        counts: filled while the generator runs.
        limits: longest text and line.
        file: the name to show in rows and messages (default: the path).

    Raises:
        StillhouseError: no such file, nothing in it, UTF-16, or one JSON array.
    """
    counts, file = counts if counts is not None else Counts(), file or str(path)
    before = counts.records
    check_file(path, file)
    for number, line, size in _byte_lines(path, limits.max_line_bytes):
        if size <= limits.max_line_bytes and not line.strip():
            counts.blank += 1
            continue
        if counts.records == before:
            _refuse_other_formats(line, file)
        place = Place(file, number, split)
        try:
            if size > limits.max_line_bytes:
                raise too_long(size, limits)
            items = record_items(_parsed(line), place, limits, counts)
        except RecordError as error:
            items = [rejection(place, error)]
        yield from tally(items, counts)
    refuse_no_records(counts, before, file)
