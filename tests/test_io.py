"""Writing is whole or not at all; errors of reading name file, line and next step."""

import pytest

from serving.errors import StillhouseError
from stages._io import (
    read_json,
    read_jsonl,
    sha256_file,
    write_json,
    write_jsonl,
    writing,
    writing_folder,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "report.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), writing(path) as stream:
        stream.write("half")
        raise RuntimeError
    assert read_json(path) == {"a": 1}
    assert names(tmp_path) == ["report.json"]


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    with writing_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("old")
    with pytest.raises(RuntimeError), writing_folder(tmp_path / "model") as folder:
        (folder / "weights").write_text("new")
        raise RuntimeError
    assert (tmp_path / "model/weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_folder_replaces_all_of_the_old_one(tmp_path):
    for name in ("first", "second"):
        with writing_folder(tmp_path / "model") as folder:
            (folder / name).touch()
    assert names(tmp_path / "model") == ["second"]


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"score": float("nan")})
    assert names(tmp_path) == []


def test_json_lines_round_trip_keeps_unicode_and_line_breaks(tmp_path):
    rows = [{"text": "Größe\u2028\n"}, {"text": "café"}]
    assert write_jsonl(tmp_path / "rows.jsonl", rows) == 2
    assert read_jsonl(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is missing. Run"), ('{"a": 1}\n{oops\n', "line 2, is not JSON")],
    ids=["missing", "broken"],
)
def test_reading_json_lines_says_what_to_do(tmp_path, content, message):
    if content is not None:
        (tmp_path / "rows.jsonl").write_text(content)
    with pytest.raises(StillhouseError, match=message):
        read_jsonl(tmp_path / "rows.jsonl")


def test_sha256_is_the_standard_one(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "f") == expected


def test_everyone_may_read_what_a_folder_holds(tmp_path):
    with writing_folder(tmp_path / "model") as folder:
        (folder / "weights").touch(mode=0o600)
    assert (tmp_path / "model/weights").stat().st_mode & 0o777 == 0o644
