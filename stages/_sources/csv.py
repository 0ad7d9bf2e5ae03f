"""Read CSV (RFC 4180) by physical lines, with bounded memory even for a quote left open."""

import codecs
import csv
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from serving.errors import StillhouseError
from stages._sources.records import parsed_slots, record_items
from stages._sources.rows import (
    CHUNK,
    DEFAULT_LIMITS,
    Counts,
    Limits,
    Place,
    RecordError,
    Rejection,
    Row,
    SlotParser,
    check_file,
    refuse_no_records,
    rejection,
    shown,
    tally,
    too_long,
)


class _Lines:
    """Physical lines for csv.reader, which keeps a record in memory until its last quote is closed.

    An iterator of its own because a generator that raises is finished, while csv.reader starts
    afresh after an error: a record that grows past the limit is skipped to its end, unread.
    """

    def __init__(self, stream: TextIO, limits: Limits) -> None:
        self._stream, self._limits = stream, limits
        self._size = self._quotes = 0
        self.number = 0  # of the last line handed out, from 1

    def __iter__(self) -> "_Lines":
        return self

    def start_record(self) -> int:
        """Number of the line that the next record starts on."""
        self._size = self._quotes = 0
        return self.number + 1

    def __next__(self) -> str:
        line = self._stream.readline(self._limits.max_line_bytes + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self._count(line)
        if self._size > self._limits.max_line_bytes:
            self._skip_record(line)
            raise too_long(self._size, self._limits)
        return line

    def _count(self, part: str) -> None:
        size = len(part) if part.isascii() else len(part.encode("utf-8", "replace"))
        self._size += size - part.endswith("\n")
        self._quotes += part.count('"')

    def _skip_record(self, part: str) -> None:
        # A record ends with the first line break outside of quotes: their number is even there.
        while not (part.endswith("\n") and self._quotes % 2 == 0):
            at_line_end = part.endswith("\n")
            part = self._stream.readline(CHUNK)
            if not part:
                return
            self.number += at_line_end
            self._count(part)


class _Columns(NamedTuple):
    """Positions of the two texts, and how many fields every record has."""

    prompt: int
    response: int
    width: int


def _csv_records(
    stream: TextIO, delimiter: str, limits: Limits
) -> Iterator[tuple[int, list[str] | RecordError]]:
    """First line and fields of each record, or why it has none; an empty list is a blank line."""
    # The default, 131,072 characters, is below what a line may hold here. The limit belongs to the
    # whole process, so it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), limits.max_line_bytes + 1))
    lines = _Lines(stream, limits)
    # strict: a quote in the wrong place is an error instead of a guess
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start = lines.start_record()
        try:
            found: list[str] | RecordError = next(reader)
        except StopIteration:
            return
        except RecordError as error:
            found = error
        except csv.Error as error:
            found = RecordError("broken_csv", str(error))
        if isinstance(found, RecordError) and lines.number > start:
            found.detail += f" (lines {start} to {lines.number})"
        yield start, found


def _nearest(wanted: str, names: list[str]) -> str:
    lower = {name.strip().lower(): name for name in names}
    near = difflib.get_close_matches(wanted.lower(), lower, n=1, cutoff=0.5)
    return f" Did you mean {lower[near[0]]!r}?" if near else ""


def column_position(wanted: str, names: list[str], parameter: str, file: str) -> int:
    """Position of a column; the error names the columns there are."""
    if names.count(wanted) == 1:
        return names.index(wanted)
    found = ", ".join(shown(name) for name in names[:20])
    if wanted in names:
        raise StillhouseError(f"{file} has the column {wanted!r} twice. Rename one.")
    other = next((sign for sign in ";\t|" if len(names) == 1 and sign in names[0]), None)
    hint = f" The fields seem to be separated by {other!r}." if other else _nearest(wanted, names)
    raise StillhouseError(
        f"{file} has no column {wanted!r} (found: {found}).{hint} Set prepare.columns.{parameter}."
    )


def _csv_header(
    records: Iterator[tuple[int, list[str] | RecordError]], counts: Counts, file: str
) -> list[str]:
    for line, fields in records:
        if isinstance(fields, RecordError):
            raise StillhouseError(
                f"{file}, line {line}: expected column names, found a broken line "
                f"({fields.detail}). Mend it."
            )
        if fields:
            return fields
        counts.blank += 1
    raise StillhouseError(f"{file} is empty: expected column names. Check where it came from.")


def _wrong_encoding(path: Path, encoding: str, file: str) -> StillhouseError:
    """Read again to find the byte that does not belong: text streams don't tell its place."""
    decoder = codecs.getincrementaldecoder(encoding)()
    offset, line, shown = 0, 1, ""
    with path.open("rb") as stream:
        head = stream.read(2)
        stream.seek(0)
        while not shown:
            chunk = stream.read(1 << 20)
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                offset += error.start - held
                shown = f"{error.object[error.start]:#04x} "
            except UnicodeError:
                shown = "no byte order mark "
            else:
                line, offset = line + chunk.count(b"\n"), offset + len(chunk)
                shown = shown if chunk else "an error "
    likely = "utf-16" if head in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "cp1252"
    return StillhouseError(
        f"{file} is not {encoding}: found {shown}at byte {offset:,} (line {line:,}). "
        f"Set prepare.encoding to the file's own, perhaps {likely}."
    )


def _codec(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name
        "".encode(name)  # refuses codecs that are no text encodings, such as base64
    except (LookupError, ValueError):
        raise StillhouseError(
            f"prepare.encoding is {shown(encoding)}: expected the name of a text encoding, "
            f"such as utf-8, cp1252 or utf-16."
        ) from None
    return name


def read_csv(
    path: Path,
    split: str | None = None,
    *,
    prompt_column: str,
    response_column: str,
    parse_slots: SlotParser | None = None,
    encoding: str = "utf-8",
    delimiter: str = ",",
    counts: Counts | None = None,
    limits: Limits = DEFAULT_LIMITS,
    file: str | None = None,
) -> Iterator[Row | Rejection]:
    """Stream a CSV file whose first record names the columns; each record is one prompt and answer.

    Args:
        path: the file; a byte order mark is skipped.
        split: the split of every row.
        prompt_column: name of the column with the prompt.
        response_column: name of the column with one reference.
        parse_slots: the slots of a prompt, None where it is no record; a prompt for which it
            raises StillhouseError is rejected.
        encoding: of the file; an undecodable byte is an error, not a rejection, because it means
            that the other rows are misread too.
        delimiter: one character between fields.
        counts: filled while the generator runs.
        limits: longest text and record.
        file: the name to show in rows and messages (default: the path).

    Raises:
        StillhouseError: no such file, nothing in it, wrong encoding or a column that is not there.
    """
    counts, file = counts if counts is not None else Counts(), file or str(path)
    check_file(path, file)
    _check_delimiter(delimiter)
    codec, before = _codec(encoding), counts.records
    try:
        with path.open(encoding="utf-8-sig" if codec == "utf-8" else codec) as stream:
            records = _csv_records(stream, delimiter, limits)
            header = _csv_header(records, counts, file)
            columns = _csv_columns(header, prompt_column, response_column, file)
            for line, fields in records:
                place = Place(file, line, split)
                yield from _csv_items(fields, columns, parse_slots, place, limits, counts)
    except UnicodeError:
        raise _wrong_encoding(path, codec, file) from None
    refuse_no_records(counts, before, file)


def _check_delimiter(delimiter: str) -> None:
    if len(delimiter) != 1 or delimiter in '"\r\n ':
        raise StillhouseError(f"The delimiter is {shown(delimiter)}: expected one sign, as in ','.")


def _csv_columns(header: list[str], prompt: str, response: str, file: str) -> _Columns:
    return _Columns(
        column_position(prompt, header, "prompt", file),
        column_position(response, header, "response", file),
        len(header),
    )


def _csv_items(
    fields: list[str] | RecordError,
    columns: _Columns,
    parse: SlotParser | None,
    place: Place,
    limits: Limits,
    counts: Counts,
) -> list[Row | Rejection]:
    """Rows and rejections of one record, entered in the counts."""
    if not fields:
        counts.blank += 1
        return []
    try:
        record = _csv_record(fields, columns, parse)
        items = record_items(record, place, limits, counts)
    except RecordError as error:
        items = [rejection(place, error)]
    return tally(items, counts)


def _csv_record(
    fields: list[str] | RecordError, columns: _Columns, parse: SlotParser | None
) -> dict[str, Any]:
    if isinstance(fields, RecordError):
        raise fields
    if len(fields) != columns.width:
        raise RecordError(
            "field_count", f"{len(fields)} fields, expected {columns.width}: {shown(fields[:8])}"
        )
    if any("\x00" in text for text in fields):
        raise RecordError("control_character", f"has a NUL byte: {shown(fields)}")
    prompt, response = fields[columns.prompt], fields[columns.response]
    return {"prompt": prompt, "reference": response, "slots": parsed_slots(prompt, parse)}
