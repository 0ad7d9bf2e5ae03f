"""Sources: every record used or rejected once, one error for a broken file, safe downloads."""

import hashlib
import io
import json
import threading
import tracemalloc
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from broken_rows import BROKEN, GOOD, WIDE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.errors import StillhouseError
from stages._sources import (
    REASONS,
    Counts,
    Limits,
    Rejection,
    Row,
    fetch,
    read_csv,
    read_hub,
    read_jsonl,
)
from stages._sources.fetch import _SafeRedirects

SMALL = Limits(max_chars=200, max_line_bytes=2_000)


def _write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
    return path


def _jsonl(tmp_path: Path, data: bytes | str, **options):
    """Items and counts of a JSON-lines file."""
    path = _write(tmp_path / "rows.jsonl", data)
    counts = Counts()
    return list(read_jsonl(path, counts=counts, file="rows.jsonl", **options)), counts


def _csv(tmp_path: Path, data: bytes | str, **options):
    path, counts = _write(tmp_path / "rows.csv", data), Counts()
    names = {"prompt_column": "mr", "response_column": "ref", "file": "rows.csv"} | options
    return list(read_csv(path, counts=counts, **names)), counts


def _check_sums(items: list[Row | Rejection], counts: Counts) -> None:
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


# --- JSON lines -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_rejected_with_its_reason(tmp_path: Path, name: str) -> None:
    items, counts = _jsonl(tmp_path, GOOD + b"\n" + BROKEN[name] + b"\n" + GOOD, limits=WIDE)

    assert [type(item) for item in items] == [Row, Rejection, Row]
    assert items[1].reason == name.split("/")[0]
    assert (items[1].file, items[1].line, items[1].reference) == ("rows.jsonl", 2, None)
    assert 0 < len(items[1].detail) < 400
    json.dumps(items[1].detail, ensure_ascii=False).encode("utf-8")
    _check_sums(items, counts)


def test_a_file_of_all_kinds_of_broken_rows_ends_with_every_line_accounted_for(
    tmp_path: Path,
) -> None:
    lines = [line for broken in BROKEN.values() for line in (GOOD, broken, b" ")]
    items, counts = _jsonl(tmp_path, b"\r\n".join(lines) + b"\r\n", limits=WIDE)

    assert len(BROKEN) >= 30
    assert counts.rejected == counts.used == counts.blank == len(BROKEN)
    assert counts.records + counts.blank == len(lines)
    _check_sums(items, counts)
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
    items, counts = _jsonl(tmp_path, json.dumps({"prompt": " p ", **line}))

    assert [(row.prompt, row.reference) for row in items] == expected
    assert counts == Counts(records=1, used=1, rows=len(expected))


def test_a_row_carries_what_its_line_says(tmp_path: Path) -> None:
    line = {"prompt": "p", "response": "r", "slots": {" a ": "x"}, "context": "c"}
    line |= {"meta": {"n": 1, "deep": [{"x": 1.5}]}, "split": "test"}
    items, _ = _jsonl(tmp_path, b"\xef\xbb\xbf\n" + json.dumps(line).encode())

    assert items == [Row("rows.jsonl", 2, "test", "p", "r", {"a": "x"}, "c", line["meta"])]


def test_a_line_cannot_leave_the_split_of_its_file(tmp_path: Path) -> None:
    line = '{"prompt": "p", "response": "r", "split": "%s"}\n'
    items, _ = _jsonl(tmp_path, line % "test" + line % "train", split="test")

    assert [getattr(item, "split", None) for item in items] == ["test", None]
    assert items[1].reason == "bad_split"


def test_bad_references_of_a_used_record_are_listed_apart(tmp_path: Path) -> None:
    items, counts = _jsonl(tmp_path, '{"prompt": "p", "references": ["", "a", 3, "b"]}')

    assert [item.reference for item in items] == ["a", "b", 0, 2]
    assert [item.reason for item in items[2:]] == ["empty_reference", "reference_not_text"]
    assert counts == Counts(records=1, used=1, rows=2, rejected_references=2)


def _turns(*turns: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})


def test_a_chat_gives_the_last_answer_its_question_and_the_turns_before(tmp_path: Path) -> None:
    turns = [("system", "be brief"), ("user", "a"), ("assistant", "b")]
    items, counts = _jsonl(
        tmp_path, _turns(*turns, ("user", "c"), ("assistant", "d"), ("user", "e"))
    )

    context = "system: be brief\n\nuser: a\n\nassistant: b"
    assert items == [Row("rows.jsonl", 1, None, "c", "d", None, context, None)]
    assert counts.warnings == {"turns after the last answer (dropped)": 1}


def test_a_chat_of_one_exchange_has_no_context(tmp_path: Path) -> None:
    items, _ = _jsonl(tmp_path, _turns(("user", "a"), ("assistant", "b")))

    assert (items[0].prompt, items[0].reference, items[0].context) == ("a", "b", None)


def test_two_answers_in_a_row_are_rejected(tmp_path: Path) -> None:
    items, _ = _jsonl(tmp_path, _turns(("user", "a"), ("assistant", "b"), ("assistant", "c")))

    assert items[0].reason == "bad_messages"


def test_what_is_odd_but_harmless_is_counted(tmp_path: Path) -> None:
    line = '{"prompt": "p", "response": "p", "label": 1, "id": 2}\n'
    items, counts = _jsonl(tmp_path, line * 2)

    assert len(items) == 2
    assert counts.warnings == {
        "unknown key label": 2,
        "unknown key id": 2,
        "a reference repeats its prompt": 2,
    }


def test_warnings_of_a_file_of_random_keys_stay_bounded(tmp_path: Path) -> None:
    line = '{{"prompt": "p", "response": "r", "key{}": 1}}\n'
    _, counts = _jsonl(tmp_path, "".join(line.format(number) for number in range(500)))

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
        _jsonl(tmp_path, data, limits=WIDE)
    assert "rows.jsonl" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing.jsonl", "", "a\x00b"])
def test_a_path_that_is_no_file_gives_one_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(StillhouseError, match="cannot be read"):
        list(read_jsonl(tmp_path / name))


def test_a_line_of_ten_megabytes_is_not_held_in_memory(tmp_path: Path) -> None:
    big = b'{"prompt": "' + b"x" * 10_000_000 + b'"}\n'
    path = _write(tmp_path / "big.jsonl", GOOD + b"\n" + big + GOOD + b"\n")
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
    items, counts = _jsonl(tmp_path, data, limits=SMALL)

    _check_sums(items, counts)
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
    items, counts = _jsonl(tmp_path, b"\n".join(lines))

    _check_sums(items, counts)
    assert counts.records == len(lines)


# --- CSV --------------------------------------------------------------------------------------


def test_rows_of_one_prompt_keep_their_physical_lines(tmp_path: Path) -> None:
    data = 'id,mr,ref\n1,a,"one\r\ntwo"\n\n2,a,"say ""hi"", then go"\n3,"b, c",three'
    items, counts = _csv(tmp_path, data, split="train")

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
    items, counts = _csv(tmp_path, f'mr,ref\n"x\ny",1\n{row}\np,r\n', limits=SMALL)

    assert [type(item) for item in items] == [Row, Rejection, Row]
    assert (items[1].line, items[1].reason) == (4, reason)
    assert detail in items[1].detail
    assert items[2].line == 5 + row.count("\n")
    _check_sums(items, counts)


def test_a_quote_that_is_never_closed_is_one_record_that_names_its_lines(tmp_path: Path) -> None:
    items, _ = _csv(tmp_path, 'mr,ref\na,b\nc,"d\ne,f\ng,h\n')

    assert [item.line for item in items] == [2, 3]
    assert items[1].reason == "broken_csv"
    assert "(lines 3 to 5)" in items[1].detail


def test_a_field_past_the_csv_modules_own_limit_is_read(tmp_path: Path) -> None:
    limits = Limits(max_chars=200_000, max_line_bytes=300_000)
    items, _ = _csv(tmp_path, f"mr,ref\na,{'x' * 150_000}\nb,c\n", limits=limits)

    assert [len(row.reference) for row in items] == [150_000, 1]


def test_a_csv_line_of_ten_megabytes_is_not_held_in_memory(tmp_path: Path) -> None:
    path = _write(tmp_path / "big.csv", "mr,ref\na,b\nc," + "é" * 5_000_000 + "\nd,e\n")
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
    items, _ = _csv(tmp_path, "mr,ref\ncafé,£20\n".encode(encoding), encoding=told)

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
        _csv(tmp_path, data, encoding=encoding)


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
        _csv(tmp_path, data, limits=SMALL)


def test_another_delimiter_and_old_line_ends_are_read(tmp_path: Path) -> None:
    items, _ = _csv(tmp_path, "mr;ref\ra;b, c\rd;e\r", delimiter=";")

    assert [(row.line, row.prompt, row.reference) for row in items] == [
        (2, "a", "b, c"),
        (3, "d", "e"),
    ]
    with pytest.raises(StillhouseError, match="expected one sign"):
        _csv(tmp_path, "mr,ref\n", delimiter=", ")


def test_slots_come_from_the_callers_parser(tmp_path: Path) -> None:
    def parse(prompt: str) -> dict[str, str] | None:
        if prompt == "bad[":
            raise StillhouseError("bad[ is not closed")
        return {"name": prompt} if prompt == "Eagle" else None

    items, _ = _csv(tmp_path, "mr,ref\nEagle,a\nfree text,b\nbad[,c\n", parse_slots=parse)

    assert [item.slots for item in items[:2]] == [{"name": "Eagle"}, None]
    assert (items[2].reason, items[2].detail) == ("bad_slots", "bad[ is not closed")


CELLS = st.text(alphabet='ab",\n\r \x00é\u2028', max_size=12)


@given(st.lists(CELLS, max_size=10))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_as_csv_ends_as_rows_and_rejections(tmp_path: Path, lines: list[str]) -> None:
    items, counts = _csv(tmp_path, "\n".join(["mr,ref", "a,b", *lines]), limits=SMALL)

    _check_sums(items, counts)
    assert isinstance(items[0], Row)


# --- Hugging Face datasets --------------------------------------------------------------------


def _hub(folder: Path, **options):
    names = {"hub_split": "train", "prompt_column": "mr", "response_column": "ref"} | options
    return list(read_hub(folder.name, None, "train", root=folder.parent, **names))


@pytest.fixture(scope="module")
def hub_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets = pytest.importorskip("datasets")
    root = tmp_path_factory.mktemp("hub")
    rows = datasets.Dataset.from_dict({"mr": ["a", "b", None], "ref": [["x", "y"], [""], ["z"]]})
    rows.save_to_disk(str(root / "single"))
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(root / "splits"))
    (root / "parquet").mkdir()
    rows.to_parquet(str(root / "parquet" / "train-00000-of-00001.parquet"))
    (root / "jsonl").mkdir()
    lines = (
        b'{"mr": "a", "ref": ["x", "y"]}\n{"mr": "b", "ref": [""]}\n{"mr": null, "ref": ["z"]}\n'
    )
    _write(root / "jsonl" / "train.jsonl", lines)
    (root / "broken").mkdir()
    _write(root / "broken" / "train.jsonl", '{"mr": "a", "ref": ["x"]}\n{"mr":')
    (root / "script").mkdir()
    _write(root / "script" / "script.py", "raise SystemExit('this was run')")
    (root / "empty").mkdir()
    return root


@pytest.mark.parametrize("form", ["single", "splits", "parquet", "jsonl"])
def test_a_local_folder_is_read_in_each_of_its_forms(hub_folders: Path, form: str) -> None:
    items = _hub(hub_folders / form)

    assert [(i.line, i.prompt, i.reference) for i in items[:2]] == [(1, "a", "x"), (1, "a", "y")]
    assert [(i.line, i.reason) for i in items[2:]] == [
        (2, "empty_reference"),
        (3, "missing_prompt"),
    ]
    assert items[0].file == f"{form}/train"


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        ("splits", {"hub_split": "dev"}, "split 'dev', cannot be read"),
        ("single", {"hub_split": "test"}, "the folder holds one data set, train"),
        ("parquet", {"hub_split": "dev"}, "split 'dev', cannot be read"),
        ("parquet", {"response_column": "refs"}, "no column 'refs' .*Did you mean 'ref'"),
        ("broken", {}, "cannot be read"),
        ("script", {}, "cannot be read"),
        ("empty", {}, "cannot be read"),
    ],
)
def test_a_folder_that_cannot_be_read_gives_one_line(
    hub_folders: Path, folder: str, options: dict, message: str
) -> None:
    with pytest.raises(StillhouseError, match=message) as error:
        _hub(hub_folders / folder, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("owner/name", None, "prepare.hub.revision is None: expected the 40 hexadecimal digits"),
        ("owner/name", "main", "because names of branches move"),
        ("./missing", None, "expected a folder that exists or owner/name"),
        ("owner/name", "0" * 40, "owner/name, split 'train', cannot be read .*[Oo]ffline"),
    ],
    ids=["no revision", "branch", "no folder", "offline"],
)
def test_a_hub_data_set_needs_a_commit_and_a_network(tmp_path, name, revision, message) -> None:
    pytest.importorskip("datasets")
    columns = {"hub_split": "train", "prompt_column": "mr", "response_column": "ref"}
    with pytest.raises(StillhouseError, match=message):
        list(read_hub(name, revision, root=tmp_path, **columns))


# --- Files and URLs ---------------------------------------------------------------------------

DATA = b"mr,ref\na,b\n" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        match self.path.partition("?")[0]:
            case "/missing.csv":
                self.send_error(404)
            case "/to-file":
                self._redirect(f"file://{__file__}")
            case "/to-data":
                self._redirect("/data.csv")
            case "/loop":
                self._redirect("/loop")
            case "/short.csv":
                self._send(DATA[:500], len(DATA))
            case "/other.csv":
                self._send(DATA + b"x", len(DATA) + 1)
            case _:
                self._send(DATA, len(DATA))

    def _send(self, body: bytes, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def _redirect(self, target: str) -> None:
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        self.server.requested.append(self.path)  # type: ignore[attr-defined]


@contextmanager
def _serving() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    server.requested = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with _serving() as server:
        yield server


@pytest.fixture
def url(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.requested.clear()  # type: ignore[attr-defined]
    return f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize(
    "written",
    ["in/data.csv", "${FOLDER}/data.csv", "$FOLDER/data.csv", "{root}/in/data.csv", "~/data.csv"],
)
def test_a_path_is_found_however_it_is_written(tmp_path, monkeypatch, written: str) -> None:
    (tmp_path / "in").mkdir()
    path = _write(tmp_path / "in" / "data.csv", DATA)
    monkeypatch.setenv("FOLDER", "in")
    monkeypatch.setenv("HOME", str(tmp_path / "in"))
    source = written.replace("{root}", str(tmp_path))

    assert fetch(source, None, tmp_path / "cache", tmp_path) == path
    assert fetch(source, DIGEST.upper(), tmp_path / "cache", tmp_path) == path
    assert fetch(f"file://{path}", DIGEST, tmp_path / "cache", tmp_path) == path


@pytest.mark.parametrize(
    ("source", "sha256", "message"),
    [
        ("${NOT_SET}/a.csv", None, "environment variable NOT_SET, which is not set"),
        ("missing.csv", None, "missing.csv is missing"),
        (".", None, "is a folder, expected a file"),
        ("data.csv", "0" * 64, f"has the SHA-256 {DIGEST}, expected {'0' * 64}"),
        ("data.csv", "abc", "expected 64 hexadecimal digits"),
        ("x" * 5000, None, "cannot be read"),
        ("~no-such-person/a.csv", None, "no such home folder"),
        ("https://example.com/a.csv", None, "is a URL and needs a sha256"),
        ("file:///a.csv", None, "is a URL and needs a sha256"),
        ("ftp://example.com/a.csv", "0" * 64, "expected a path or a file://, http:// or https://"),
        ("file://elsewhere/a.csv", "0" * 64, "expected a path or a file://"),
    ],
)
def test_a_source_that_cannot_be_used_gives_one_line(tmp_path, source, sha256, message) -> None:
    path = _write(tmp_path / "data.csv", DATA)
    with pytest.raises(StillhouseError, match=message) as error:
        fetch(source, sha256, tmp_path / "cache", tmp_path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == DATA


@pytest.mark.parametrize("page", ["/data.csv", "/to-data", "/a%2Fb/../%00.csv?x=/y"])
def test_a_download_is_verified_and_kept(tmp_path: Path, url: str, page: str) -> None:
    path = fetch(url + page, DIGEST, tmp_path / "cache", tmp_path)

    assert path.read_bytes() == DATA
    assert [file.parent for file in (tmp_path / "cache").iterdir()] == [tmp_path / "cache"]


def test_what_is_in_the_cache_is_verified_before_use(tmp_path: Path, url: str, server) -> None:
    path = fetch(f"{url}/data.csv", DIGEST, tmp_path / "cache", tmp_path)
    fetch(f"{url}/data.csv", DIGEST, tmp_path / "cache", tmp_path)
    assert len(server.requested) == 1

    path.write_bytes(b"damaged")
    assert fetch(f"{url}/data.csv", DIGEST, tmp_path / "cache", tmp_path).read_bytes() == DATA
    assert len(server.requested) == 2


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("/other.csv", f"has the SHA-256 {hashlib.sha256(DATA + b'x').hexdigest()}, expected"),
        ("/short.csv", r"\(500 of 11,000 bytes came\)"),
        ("/missing.csv", "404"),
        ("/to-file", "cannot be downloaded .*not allowed"),
        ("/loop", "infinite loop"),
    ],
)
def test_a_failed_download_leaves_nothing(
    tmp_path: Path, url: str, page: str, message: str
) -> None:
    with pytest.raises(StillhouseError, match=message) as error:
        fetch(url + page, DIGEST, tmp_path / "cache", tmp_path)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_redirect_from_https_to_http_is_refused() -> None:
    request = urllib.request.Request("https://example.com/a.csv")
    redirect = _SafeRedirects().redirect_request
    with pytest.raises(ValueError, match="refused"):
        redirect(request, io.BytesIO(), 302, "Found", {}, "http://example.com/a.csv")
    followed = redirect(request, io.BytesIO(), 302, "Found", {}, "https://example.com/b.csv")
    assert followed.full_url == "https://example.com/b.csv"


def test_a_download_past_the_limit_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(StillhouseError, match="is larger than 999 bytes"):
        fetch(f"{url}/data.csv", DIGEST, tmp_path, tmp_path, max_bytes=999)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_gives_one_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with _serving() as server:
        port = server.server_port
    with pytest.raises(StillhouseError, match="cannot be downloaded"):
        fetch(f"http://127.0.0.1:{port}/data.csv", DIGEST, tmp_path, tmp_path)
