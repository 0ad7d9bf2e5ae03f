"""JSON lines: every record used or rejected once, one error for a broken file."""

import json
import tracemalloc
from pathlib import Path

import pytest
from broken_rows import BROKEN, GOOD, WIDE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_cases import SMALL, check_sums, jsonl_items, write

from serving.errors import StillhouseError
from stages._sources import REASONS, Counts, Rejection, Row, read_jsonl


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_rejected_with_its_reason(tmp_path: Path, name: str) -> None:
    items, counts = jsonl_items(tmp_path, GOOD + b"\n" + BROKEN[name] + b"\n" + GOOD, limits=WIDE)

    assert [type(item) for item in items] == [Row, Rejection, Row]
    assert items[1].reason == name.split("/")[0]
    assert (items[1].file, items[1].line, items[1].reference) == ("rows.jsonl", 2, None)
    assert 0 < len(items[1].detail) < 400
    json.dumps(items[1].detail, ensure_ascii=False).encode("utf-8")
    check_sums(items, counts)


def test_a_file_of_all_kinds_of_broken_rows_ends_with_every_line_accounted_for(
    tmp_path: Path,
) -> None:
    lines = [line for broken in BROKEN.values() for line in (GOOD, broken, b" ")]
    items, counts = jsonl_items(tmp_path, b"\r\n".join(lines) + b"\r\n", limits=WIDE)

    assert len(BROKEN) >= 30
    assert counts.rejected == counts.used == counts.blank == len(BROKEN)
    assert counts.records + counts.blank == len(lines)
    check_sums(items, counts)
    rejected = [item for item in items if isinstance(item, Rejection)]
    assert [r.line for r in rejected] == [3 * i + 2 for i in range(len(BROKEN))]
    assert [r.reason for r in rejected] == [name.split("/")[0] for name in BROKEN]


def test_every_reason_has_an_example() -> None:
    reasons = {name.split("/")[0] for name in BROKEN} | {"broken_csv", "field_count"}

    assert reasons == set(REASONS)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ({"references": ["a", "b"]}, [("p", "a"), ("p", "b")]),
        ({"reference": " a\n"}, [("p", "a")]),
        ({"response": "a\nb"}, [("p", "a\nb")]),
        ({"response": "a", "slots": None, "meta": None, "context": None}, [("p", "a")]),
        ({"response": "a 😀\u2028é"}, [("p", "a 😀\u2028é")]),
    ],
)
def test_good_shapes_give_a_row_per_reference(tmp_path: Path, line: dict, expected: list) -> None:
    items, counts = jsonl_items(tmp_path, json.dumps({"prompt": " p ", **line}))

    assert [(row.prompt, row.reference) for row in items] == expected
    assert counts == Counts(records=1, used=1, rows=len(expected))


def test_a_row_carries_what_its_line_says(tmp_path: Path) -> None:
    line = {"prompt": "p", "response": "r", "slots": {" a ": "x"}, "context": "c"}
    line |= {"meta": {"n": 1, "deep": [{"x": 1.5}]}, "split": "test"}
    items, _ = jsonl_items(tmp_path, b"\xef\xbb\xbf\n" + json.dumps(line).encode())

    assert items == [Row("rows.jsonl", 2, "test", "p", "r", {"a": "x"}, "c", line["meta"])]


def test_a_line_cannot_leave_the_split_of_its_file(tmp_path: Path) -> None:
    line = '{"prompt": "p", "response": "r", "split": "%s"}\n'
    items, _ = jsonl_items(tmp_path, line % "test" + line % "train", split="test")

    assert [getattr(item, "split", None) for item in items] == ["test", None]
    assert items[1].reason == "bad_split"


def test_bad_references_of_a_used_record_are_listed_apart(tmp_path: Path) -> None:
    items, counts = jsonl_items(tmp_path, '{"prompt": "p", "references": ["", "a", 3, "b"]}')

    assert [item.reference for item in items] == ["a", "b", 0, 2]
    assert [item.reason for item in items[2:]] == ["empty_reference", "reference_not_text"]
    assert counts == Counts(records=1, used=1, rows=2, rejected_references=2)


def _turns(*turns: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})


def test_a_chat_gives_the_last_answer_its_question_and_the_turns_before(tmp_path: Path) -> None:
    turns = [("system", "be brief"), ("user", "a"), ("assistant", "b")]
    items, counts = jsonl_items(
        tmp_path, _turns(*turns, ("user", "c"), ("assistant", "d"), ("user", "e"))
    )

    context = "system: be brief\n\nuser: a\n\nassistant: b"
    assert items == [Row("rows.jsonl", 1, None, "c", "d", None, context, None)]
    assert counts.warnings == {"turns after the last answer (dropped)": 1}


def test_a_chat_of_one_exchange_has_no_context(tmp_path: Path) -> None:
    items, _ = jsonl_items(tmp_path, _turns(("user", "a"), ("assistant", "b")))

    assert (items[0].prompt, items[0].reference, items[0].context) == ("a", "b", None)


def test_two_answers_in_a_row_are_rejected(tmp_path: Path) -> None:
    items, _ = jsonl_items(tmp_path, _turns(("user", "a"), ("assistant", "b"), ("assistant", "c")))

    assert items[0].reason == "bad_messages"


def test_what_is_odd_but_harmless_is_counted(tmp_path: Path) -> None:
    line = '{"prompt": "p", "response": "p", "label": 1, "id": 2}\n'
    items, counts = jsonl_items(tmp_path, line * 2)

    assert len(items) == 2
    assert counts.warnings == {
        "unknown key label": 2,
        "unknown key id": 2,
        "a reference repeats its prompt": 2,
    }


def test_warnings_of_a_file_of_random_keys_stay_bounded(tmp_path: Path) -> None:
    line = '{{"prompt": "p", "response": "r", "key{}": 1}}\n'
    _, counts = jsonl_items(tmp_path, "".join(line.format(number) for number in range(500)))

    assert len(counts.warnings) == 101
    assert sum(counts.warnings.values()) == 500


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "holds no record"),
        (b'[{"prompt": "p", "response": "r"}]', "is a JSON array, expected one object per line"),
        (b'[\n  {"prompt": "p"},\n  {"prompt": "q"}\n]', "is a JSON array"),
        (b"\xef\xbb\xbf[]", "is a JSON array"),
        (b'[{"prompt": "' + b"x" * 9000 + b'"}]', "is a JSON array"),
        ("[1]".encode("utf-16"), "is UTF-16"),
    ],
    ids=["empty", "blank", "array", "printed array", "no rows", "long array", "utf-16"],
)
def test_a_file_that_is_no_json_lines_gives_one_error(tmp_path, data: bytes, message: str) -> None:
    with pytest.raises(StillhouseError, match=message) as error:
        jsonl_items(tmp_path, data, limits=WIDE)
    assert "rows.jsonl" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing.jsonl", "", "a\x00b"])
def test_a_path_that_is_no_file_gives_one_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(StillhouseError, match="cannot be read"):
        list(read_jsonl(tmp_path / name))


def test_a_line_of_ten_megabytes_is_not_held_in_memory(tmp_path: Path) -> None:
    big = b'{"prompt": "' + b"x" * 10_000_000 + b'"}\n'
    path = write(tmp_path / "big.jsonl", GOOD + b"\n" + big + GOOD + b"\n")
    tracemalloc.start()
    items = list(read_jsonl(path, limits=SMALL))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert [item.line for item in items] == [1, 2, 3]
    assert items[1].detail == "10,000,014 bytes, the limit is 2,000"
    assert peak < 1_000_000


FRAGMENTS = st.sampled_from(
    [*BROKEN.values(), GOOD, b"", b"[", b"{", b'"', b"\xff", b"\r", b"\\ud800"]
)
LINES = st.lists(st.one_of(st.binary(max_size=80), FRAGMENTS), max_size=8)


@given(LINES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_end_as_rows_and_rejections(tmp_path: Path, lines: list[bytes]) -> None:
    data = b"\n".join([GOOD, *lines])
    items, counts = jsonl_items(tmp_path, data, limits=SMALL)

    check_sums(items, counts)
    assert counts.records + counts.blank == data.count(b"\n") + (not data.endswith(b"\n"))
    for item in items:
        json.dumps(vars(item), ensure_ascii=False, allow_nan=False).encode("utf-8")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt", "references", "response", "messages", "role", "content"])
            | st.sampled_from(["slots", "context", "meta", "split", "other"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_ends_as_rows_and_rejections(tmp_path: Path, values: list) -> None:
    lines = [GOOD, *(json.dumps(value).encode() for value in values)]
    items, counts = jsonl_items(tmp_path, b"\n".join(lines))

    check_sums(items, counts)
    assert counts.records == len(lines)
