"""Files of raw rows for the tests of the readers, and sums that every reader must keep to."""

from pathlib import Path

from stages._sources import Counts, Limits, Rejection, Row, read_csv, read_jsonl

SMALL = Limits(max_chars=200, max_line_bytes=2_000)


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
    return path


def jsonl_items(tmp_path: Path, data: bytes | str, **options):
    """Items and counts of a JSON-lines file."""
    path = write(tmp_path / "rows.jsonl", data)
    counts = Counts()
    return list(read_jsonl(path, counts=counts, file="rows.jsonl", **options)), counts


def csv_items(tmp_path: Path, data: bytes | str, **options):
    path, counts = write(tmp_path / "rows.csv", data), Counts()
    names = {"prompt_column": "mr", "response_column": "ref", "file": "rows.csv"} | options
    return list(read_csv(path, counts=counts, **names)), counts


def check_sums(items: list[Row | Rejection], counts: Counts) -> None:
    """Each record is used or rejected, once, and the counts say so."""
    used = {item.line for item in items if isinstance(item, Row)}
    rejected = [i.line for i in items if isinstance(i, Rejection) and i.reference is None]
    parts = [i for i in items if isinstance(i, Rejection) and i.reference is not None]
    assert len(rejected) == len(set(rejected)) == counts.rejected
    assert used.isdisjoint(rejected)
    assert {part.line for part in parts} <= used
    assert counts.used == len(used)
    assert counts.records == counts.used + counts.rejected
    assert counts.rows == sum(isinstance(item, Row) for item in items)
    assert counts.rejected_references == len(parts)
