"""CSV: every record used or rejected once, one error for a broken file."""

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_cases import SMALL, check_sums, csv_items, write

from serving.errors import StillhouseError
from stages._sources import Counts, Limits, Rejection, Row, read_csv


def test_rows_of_one_prompt_keep_their_physical_lines(tmp_path: Path) -> None:
    data = 'id,mr,ref\n1,a,"one\r\ntwo"\n\n2,a,"say ""hi"", then go"\n3,"b, c",three'
    items, counts = csv_items(tmp_path, data, split="train")

    assert items == [
        Row("rows.csv", 2, "train", "a", "one\ntwo", None, None, None),
        Row("rows.csv", 5, "train", "a", 'say "hi", then go', None, None, None),
        Row("rows.csv", 6, "train", "b, c", "three", None, None, None),
    ]
    assert counts == Counts(records=3, used=3, blank=1, rows=3)


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ("a", "field_count", "1 fields, expected 2: ['a']"),
        ("a,b,c", "field_count", "3 fields, expected 2"),
        (",b", "empty_prompt", "prompt is empty"),
        ("a,  ", "empty_reference", "reference is empty"),
        ("a\x00b,c", "control_character", "NUL byte"),
        ("a,b\x1b[0m", "control_character", "U+001B at character 2"),
        (f"a,{'x' * 201}", "text_too_long", "201 characters, the limit is 200"),
        (f"a,{'x' * 9000}", "line_too_long", "9,002 bytes, the limit is 2,000"),
        (f'a,"{"x" * 1500}\n\n{"x" * 1500}"', "line_too_long", "(lines 4 to 6)"),
        (f'a,"{"x" * 2500}\ne,f\n\ng,{"h" * 3000}"', "line_too_long", "(lines 4 to 7)"),
        ('a,"b"c', "broken_csv", "expected after"),
        ('a,"b\nc"d', "broken_csv", "(lines 4 to 5)"),
    ],
)
def test_a_broken_record_is_rejected_and_the_next_one_read(tmp_path, row, reason, detail) -> None:
    items, counts = csv_items(tmp_path, f'mr,ref\n"x\ny",1\n{row}\np,r\n', limits=SMALL)

    assert [type(item) for item in items] == [Row, Rejection, Row]
    assert (items[1].line, items[1].reason) == (4, reason)
    assert detail in items[1].detail
    assert items[2].line == 5 + row.count("\n")
    check_sums(items, counts)


def test_a_quote_that_is_never_closed_is_one_record_that_names_its_lines(tmp_path: Path) -> None:
    items, _ = csv_items(tmp_path, 'mr,ref\na,b\nc,"d\ne,f\ng,h\n')

    assert [item.line for item in items] == [2, 3]
    assert items[1].reason == "broken_csv"
    assert "(lines 3 to 5)" in items[1].detail


def test_a_field_past_the_csv_modules_own_limit_is_read(tmp_path: Path) -> None:
    limits = Limits(max_chars=200_000, max_line_bytes=300_000)
    items, _ = csv_items(tmp_path, f"mr,ref\na,{'x' * 150_000}\nb,c\n", limits=limits)

    assert [len(row.reference) for row in items] == [150_000, 1]


def test_a_csv_line_of_ten_megabytes_is_not_held_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "big.csv", "mr,ref\na,b\nc," + "é" * 5_000_000 + "\nd,e\n")
    tracemalloc.start()
    rows = read_csv(path, prompt_column="mr", response_column="ref", limits=SMALL)
    items = list(rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert [item.line for item in items] == [2, 3, 4]
    assert items[1].detail == "10,000,002 bytes, the limit is 2,000"
    assert peak < 2_000_000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le"])
def test_encodings_are_read_as_told(tmp_path: Path, encoding: str) -> None:
    told = "utf-8" if encoding == "utf-8-sig" else encoding
    items, _ = csv_items(tmp_path, "mr,ref\ncafé,£20\n".encode(encoding), encoding=told)

    assert [(row.prompt, row.reference) for row in items] == [("café", "£20")]


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (
            "mr,ref\na,b\nx,café\n".encode("cp1252"),
            "utf-8",
            r"rows.csv is not utf-8: found 0xe9 at byte 16 \(line 3\). Set prepare.encoding",
        ),
        (b"mr,ref\n" + b"a,b\n" * 400_000 + b"\xff", "utf-8", r"byte 1,600,007 \(line 400,002\)"),
        (b"mr,ref\na," + "é".encode() * 600_000 + b"\xff", "utf-8", r"byte 1,200,009 "),
        ("mr,ref\na,b\n".encode("utf-16"), "utf-8", r"byte 0 \(line 1\).* perhaps utf-16"),
        (b"mr,ref\na,b\n", "utf-8x", "prepare.encoding is 'utf-8x'"),
        (b"mr,ref\na,b\n", "base64", "prepare.encoding is 'base64'"),
        (b"mr,ref\na,b\n", "utf-16", "no byte order mark"),
    ],
    ids=["cp1252", "late", "split", "utf-16", "unknown", "no text", "no mark"],
)
def test_a_wrong_encoding_names_the_byte_and_the_parameter(
    tmp_path: Path, data: bytes, encoding: str, message: str
) -> None:
    with pytest.raises(StillhouseError, match=message):
        csv_items(tmp_path, data, encoding=encoding)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("MR,ref", r"no column 'mr' \(found: 'MR', 'ref'\). Did you mean 'MR'\?"),
        ("mr,reference", r"no column 'ref' .*Did you mean 'reference'\? Set prepare.columns.resp"),
        ("mr;ref", "seem to be separated by ';'"),
        ("mr,ref,mr", "has the column 'mr' twice"),
        ("x" * 9000, "rows.csv, line 1: expected column names"),
        ("\n\n", "is empty: expected column names"),
        ("mr,ref\n\n", "holds no record"),
    ],
)
def test_a_wrong_header_names_what_is_there(tmp_path: Path, header: str, message: str) -> None:
    data = header if header.endswith("\n") else f"{header}\na,b\n"
    with pytest.raises(StillhouseError, match=message):
        csv_items(tmp_path, data, limits=SMALL)


def test_another_delimiter_and_old_line_ends_are_read(tmp_path: Path) -> None:
    items, _ = csv_items(tmp_path, "mr;ref\ra;b, c\rd;e\r", delimiter=";")

    assert [(row.line, row.prompt, row.reference) for row in items] == [
        (2, "a", "b, c"),
        (3, "d", "e"),
    ]
    with pytest.raises(StillhouseError, match="expected one sign"):
        csv_items(tmp_path, "mr,ref\n", delimiter=", ")


def test_slots_come_from_the_callers_parser(tmp_path: Path) -> None:
    def parse(prompt: str) -> dict[str, str] | None:
        if prompt == "bad[":
            raise StillhouseError("bad[ is not closed")
        return {"name": prompt} if prompt == "Eagle" else None

    items, _ = csv_items(tmp_path, "mr,ref\nEagle,a\nfree text,b\nbad[,c\n", parse_slots=parse)

    assert [item.slots for item in items[:2]] == [{"name": "Eagle"}, None]
    assert (items[2].reason, items[2].detail) == ("bad_slots", "bad[ is not closed")


CELLS = st.text(alphabet='ab",\n\r \x00é\u2028', max_size=12)


@given(st.lists(CELLS, max_size=10))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_as_csv_ends_as_rows_and_rejections(tmp_path: Path, lines: list[str]) -> None:
    items, counts = csv_items(tmp_path, "\n".join(["mr,ref", "a,b", *lines]), limits=SMALL)

    check_sums(items, counts)
    assert isinstance(items[0], Row)
