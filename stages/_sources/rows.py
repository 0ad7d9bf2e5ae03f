"""What readers of raw files give and count: rows and rejections, of which nothing is lost.

What counts as what, so that the figures of `Counts` add up:

- A *record* is one CSV record (it may span physical lines), one JSON line that is not blank, or one
  dataset row. It is used or rejected, exactly once: `records == used + rejected`. Of a JSON-lines
  file, `records + blank` is the number of physical lines.
- A used record gives one `Row` per usable reference (`rows` counts them). Its unusable references
  are `Rejection`s with the index in `reference`; they count as `rejected_references`, never as
  `rejected`. A record none of whose references is usable is rejected once, as a whole.
- What is odd but harmless (unknown keys, which are dropped, a reference that repeats its prompt,
  turns after the last answer) is counted in `warnings` and rejects nothing.

Files are streamed: memory is bounded by `Limits.max_line_bytes`, whatever the size of file or line.
White space around a text is cut; line breaks inside CSV fields become one line feed. A malformed
CSV quote rejects every physical line that it swallowed, as one record whose detail names the lines:
reading on from the middle of a quoted text could take its sentences for rows.

Quoted fields follow RFC 4180, JSON lines RFC 8259 plus its advice that names in an object are
unique, and JSON Lines (jsonlines.org), which is UTF-8.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from serving.errors import StillhouseError

Reason = Literal[
    "ambiguous_keys",
    "bad_context",
    "bad_messages",
    "bad_meta",
    "bad_references",
    "bad_slots",
    "bad_split",
    "broken_csv",
    "broken_json",
    "control_character",
    "duplicate_key",
    "empty_prompt",
    "empty_reference",
    "field_count",
    "invalid_utf8",
    "line_too_long",
    "lone_surrogate",
    "missing_prompt",
    "missing_reference",
    "nested_too_deep",
    "not_an_object",
    "not_finite",
    "number_too_long",
    "prompt_not_text",
    "reference_not_text",
    "text_too_long",
]
# Why a row that was read well is turned away afterwards (stages/_prepared.py).
GroupReason = Literal[
    "copy_of_held_out",
    "duplicate_row",
    "near_copy_of_held_out",
    "not_a_record",
    "slot_errors",
    "unknown_slots",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
SlotParser = Callable[[str], dict[str, str] | None]
SPLITS = ("train", "validation", "calibration", "test")

SHOWN = 200  # characters of an offending value that a message carries
CHUNK = 1 << 16


@dataclass(frozen=True)
class Row:
    """One prompt with one reference; `line` is the record's first physical line, from 1."""

    file: str
    line: int
    split: str | None
    prompt: str
    reference: str
    slots: dict[str, str] | None
    context: str | None
    meta: dict[str, Any] | None


@dataclass(frozen=True)
class Rejection:
    """A record that is not used, or (`reference` is its index) one reference of a used record."""

    file: str
    line: int
    reason: Reason | GroupReason
    detail: str
    reference: int | None = None


@dataclass
class Counts:
    """What a reader met; filled while its generator runs. The module's docstring has the sums."""

    records: int = 0
    used: int = 0
    rejected: int = 0
    blank: int = 0
    rows: int = 0
    rejected_references: int = 0
    warnings: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Limits:
    """Longest text taken (characters of one field) and longest record (bytes in UTF-8)."""

    max_chars: int = 20_000
    max_line_bytes: int = 1_000_000


DEFAULT_LIMITS = Limits()


class Place(NamedTuple):
    file: str
    line: int
    split: str | None


class RecordError(Exception):
    """Why one record (or one reference) is not used; it never leaves this package."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def shown(value: object) -> str:
    # repr() escapes controls and surrogates, so that a message can always be written as UTF-8.
    return repr(value[:SHOWN] if isinstance(value, str) else value)[: SHOWN + 2]


def tally(items: list[Row | Rejection], counts: Counts) -> list[Row | Rejection]:
    """Enter one record's items into the counts."""
    rows = sum(isinstance(item, Row) for item in items)
    counts.records += 1
    counts.rows += rows
    if rows:
        counts.used += 1
        counts.rejected_references += len(items) - rows
    else:
        counts.rejected += 1
    return items


def rejection(place: Place, error: RecordError, reference: int | None = None) -> Rejection:
    return Rejection(place.file, place.line, error.reason, error.detail, reference)


def too_long(size: int, limits: Limits) -> RecordError:
    limit = limits.max_line_bytes
    return RecordError("line_too_long", f"{size:,} bytes, the limit is {limit:,}")


def check_file(path: Path, file: str) -> None:
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StillhouseError(
            f"{file} cannot be read ({reason}): expected a file. Check the path in params.yaml."
        ) from None
    if size == 0:
        raise StillhouseError(f"{file} is empty: expected data. Check where it came from.")


def refuse_no_records(counts: Counts, before: int, file: str) -> None:
    if counts.records == before:
        raise StillhouseError(
            f"{file} holds no record: expected at least one. Check where it came from."
        )
