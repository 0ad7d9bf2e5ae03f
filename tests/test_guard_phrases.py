"""Blocked phrases: what they are dressed up as, word boundaries, the file, linear time."""

import time
from pathlib import Path

import pytest

from serving._guard import BlockedList
from serving.errors import StillhouseError


def blocked(
    folder: Path, text: str = "zorblax\nmake a frumple\n", leet: bool = False
) -> BlockedList:
    """A list of invented phrases."""
    path = folder / "blocked.txt"
    path.write_text(text, encoding="utf-8")
    return BlockedList(path, leet)


@pytest.mark.parametrize(
    "text",
    [
        "zorblax",
        "ZorBlaX!",
        "(zorblax)",
        "zörbláx",
        "zo\u0301rblax",
        "ｚｏｒｂｌａｘ",
        "𝔷𝔬𝔯𝔟𝔩𝔞𝔵",
        "ⓩⓞⓡⓑⓛⓐⓧ",
        "🅉🅾🅁🄱🄻🄰🅇",
        "zor\u200bb\u00adlax",
        "zоrblах",  # Cyrillic о, а, х
        "zοrblαx",  # Greek ο, α
        "z.o.r.b.l.a.x",
        "zor-blax",
        "z o r b l a x",
        "make a frumple",
        "Make\na   FRUMPLE",
        "make-a-frumple",
    ],
)
def test_a_phrase_is_found_whatever_it_is_dressed_up_as(tmp_path: Path, text: str) -> None:
    hits = blocked(tmp_path).find(f"Say {text} to them")

    assert hits is not None and len(hits) == 1
    assert f"Say {text} to them"[hits[0].start : hits[0].end] in (text, text.strip("!()"))


@pytest.mark.parametrize(
    "text",
    [
        "zorblaxes",
        "azorblax",
        "zorb lax",  # a blank within one word only where all of it is spaced out
        "z--o--r--b--l--a--x",
        "makea frumple",
        "make a big frumple",
        "z0rbl4x",
        "",
    ],
)
def test_other_words_are_left_alone(tmp_path: Path, text: str) -> None:
    assert blocked(tmp_path).find(text) == []


def test_digits_stand_for_letters_on_request(tmp_path: Path) -> None:
    found = blocked(tmp_path, leet=True)

    assert [len(found.find(text) or ()) for text in ("z0rbl4x", "z0rb1@x", "10 of 20")] == [1, 1, 0]


def test_scripts_without_blanks_need_no_word_boundary(tmp_path: Path) -> None:
    assert len(blocked(tmp_path, "禁止词\n").find("这是禁止词吗") or ()) == 1


def test_the_longest_of_the_phrases_that_end_together_is_told(tmp_path: Path) -> None:
    hits = blocked(tmp_path, "frumple\nmake a frumple\n").find("make a frumple")

    assert hits == [(2, 0, 14)]


def test_a_list_is_read_again_when_it_changes_and_unreadable_is_no_list(tmp_path: Path) -> None:
    found = blocked(tmp_path)
    found.path.write_text("another word entirely\n", encoding="utf-8")
    assert (found.find("zorblax"), len(found.find("another word entirely") or ())) == ([], 1)

    found.path.write_text("re:.*\n", encoding="utf-8")
    assert found.find("another word entirely") is None
    found.path.write_text("zorblax, and then some\nzorblax\n", encoding="utf-8")
    assert len(found.find("zorblax") or ()) == 1


def test_a_wrong_list_is_told_by_line_and_never_by_text(tmp_path: Path) -> None:
    with pytest.raises(StillhouseError) as told:
        blocked(tmp_path, "fine phrase\nre:^bad+$\n# comment\nx\n" + "long" * 30 + "\n")

    assert "line 2 is a regular expression" in str(told.value)
    assert "line 4 must have 2 to 100 letters, found 1; line 5" in str(told.value)
    assert "bad" not in str(told.value) and "long" not in str(told.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"# nothing\n", "holds no phrase"), (b"\xff\xfe\x00", "not UTF-8"), (None, "No such file")],
)
def test_a_file_without_phrases_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)

    with pytest.raises(StillhouseError, match=message):
        BlockedList(tmp_path / "list.txt")


NESTED = "".join("a" * length + "\n" for length in range(2, 101))


def _search_s(found: BlockedList, text: str) -> float:
    started = time.process_time()
    found.find(text)
    return time.process_time() - started


@pytest.mark.parametrize("unit", ["a", "a ", "a.", "ab", "b", " ", "é", "\u200b", "аa", "a\u0301"])
def test_time_grows_with_the_length_and_no_faster(tmp_path: Path, unit: str) -> None:
    # All phrases end in each other, the worst there is. A quadratic search would take minutes.
    found = blocked(tmp_path, NESTED + "a b\n")
    seconds = []
    for length in (20_000, 80_000):
        seconds.append(min(_search_s(found, unit * (length // len(unit))) for _ in range(3)))

    assert seconds[1] < 12 * max(seconds[0], 0.02), seconds
    assert seconds[1] < 6.0
