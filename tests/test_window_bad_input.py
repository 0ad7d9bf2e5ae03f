"""`make window` and bad input: the good is used, the bad is named, nothing is left half done."""

from datetime import UTC, date, datetime

import pyarrow.parquet as pq
import pytest
from live_cases import KEY, record
from window_cases import (
    DAY,
    frozen,
    ids_of,
    live_row,
    live_rows,
    rejected_of,
    rows_of,
    serve,
    write_live,
)

from serving._live.files import live_files
from serving.errors import StillhouseError


def test_unreadable_files_are_named_and_the_others_used(tmp_path):
    live = tmp_path / "live"
    write_live(live, live_rows(5), "good")
    torn = write_live(live, live_rows(5, start=5), "torn")
    torn.write_bytes(torn.read_bytes()[:-100])
    torn.with_name("words.parquet").write_text("no Parquet at all", encoding="utf-8")
    torn.with_name("empty.parquet").touch()
    made = frozen(tmp_path)
    assert made.info["rows"] == 5
    assert made.info["rejected"] == {"files": 3, "rows": 0}
    named = {entry["file"].rpartition("/")[2] for entry in rejected_of(made)}
    assert named == {"empty.parquet", "torn.parquet", "words.parquet"}
    assert all(entry["reason"] for entry in rejected_of(made))


def test_a_damaged_row_group_is_named_and_the_others_used(tmp_path):
    path = write_live(tmp_path / "live", live_rows(300), group_rows=100)
    start = pq.ParquetFile(path).metadata.row_group(1).column(1).dictionary_page_offset
    whole = bytearray(path.read_bytes())
    whole[start : start + 200] = bytes(200)
    path.write_bytes(bytes(whole))
    made = frozen(tmp_path)
    (entry,) = rejected_of(made)
    assert (entry["row_group"], entry["rows"]) == (1, 100)
    assert entry["reason"].startswith("damaged: ")
    assert ids_of(made) == [row["id"] for row in (*live_rows(100), *live_rows(100, start=200))]
    assert made.info["rejected"] == {"files": 0, "rows": 100}


def test_a_file_of_another_schema_is_named_with_what_differs(tmp_path):
    write_live(tmp_path / "live", live_rows(2), "good")
    path = write_live(tmp_path / "live", [{"id": 1, "text": "x"}], "other", schema=None)
    made = frozen(tmp_path)
    assert made.info["rows"] == 2
    (entry,) = rejected_of(made)
    assert entry["file"] == f"date={DAY}/{path.name}"
    assert entry["reason"].startswith(
        "another schema: column id is int64, expected string; column time is missing; "
    )


def test_a_file_of_a_later_version_is_not_guessed_at(tmp_path):
    write_live(tmp_path / "live", live_rows(2), "good")
    path = write_live(tmp_path / "live", live_rows(2, start=2), "later")
    table = pq.ParquetFile(path).read()
    pq.write_table(table.replace_schema_metadata({b"stillhouse.schema": b"2"}), path)
    made = frozen(tmp_path)
    assert made.info["rows"] == 2
    assert rejected_of(made)[0]["reason"] == "another schema: schema 2, expected 1"


def test_rows_that_are_all_the_same_are_one(tmp_path):
    write_live(tmp_path / "live", [live_row(1)] * 50)
    made = frozen(tmp_path)
    assert (made.info["rows"], made.info["duplicates"]) == (1, 49)


def test_a_bad_copy_of_a_row_does_not_hide_the_good_one(tmp_path):
    bad = ["{torn", "3", '{"service": 3}', '{"service": "\\ud800"}', '["api-1"]']
    broken = [live_row(1, slots=text) for text in bad]
    write_live(tmp_path / "live", [*broken, live_row(1), live_row(1)])
    made = frozen(tmp_path)
    assert [row["slots"] for row in rows_of(made)] == [{"service": "api-1"}]
    (entry,) = rejected_of(made)
    assert (entry["rows"], entry["reason"]) == (5, "slots are no JSON object of texts")
    assert (made.info["duplicates"], made.info["texts"]) == (1, {"clear": 1})


def test_rows_without_id_or_time_are_counted(tmp_path):
    late = datetime(9999, 12, 31, tzinfo=UTC)
    rows = [live_row(1), live_row(2, id=None), live_row(3, time=None), live_row(4, time=late)]
    write_live(tmp_path / "live", rows)
    made = frozen(tmp_path, last=date(9999, 12, 30))
    assert ids_of(made) == ["row-000001"]
    assert rejected_of(made)[0]["rows"] == 2
    assert made.info["outside"] == 1


def test_a_text_that_was_moved_to_another_row_is_rejected(tmp_path):
    serve(tmp_path, record("a"), record("b"), texts="clear", seal_key=KEY)
    (path,) = live_files(tmp_path / "live")
    table = pq.ParquetFile(path).read()
    moved = table["prompt"].take([0, 0])
    pq.write_table(table.set_column(table.column_names.index("prompt"), "prompt", moved), path)
    made = frozen(tmp_path, keys={KEY.id: KEY})
    assert made.info["rows"] == 1
    assert rejected_of(made)[0]["reason"] == "prompt does not open with its key: changed or moved"


def test_what_cannot_be_a_window_leaves_nothing_behind(tmp_path):
    write_live(tmp_path / "live", [live_row(1, id=None)])
    with pytest.raises(
        StillhouseError, match=r"no row can be frozen: 1 files .* id or time is null"
    ):
        frozen(tmp_path)
    with pytest.raises(StillhouseError, match=r"0 files of the asked days"):
        frozen(tmp_path, first=date(2027, 1, 1))
    assert list((tmp_path / "windows").iterdir()) == []


def test_a_folder_that_is_no_window_is_not_overwritten(tmp_path):
    write_live(tmp_path / "live", live_rows(2))
    made = frozen(tmp_path)
    (made.folder / "window.json").unlink()
    with pytest.raises(StillhouseError, match=r"has no window.json, so it is no window"):
        frozen(tmp_path)
    assert (made.folder / "rows.parquet").is_file()
