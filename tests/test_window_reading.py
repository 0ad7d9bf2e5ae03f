"""A frozen window is read in batches: whole, as a sample, as figures; damage is told."""

import subprocess
import sys
from collections import Counter

import pyarrow.parquet as pq
import pytest
from window_cases import NOON, live_row, window_row, write_live, write_window

from serving.errors import StillhouseError
from stages import _io
from stages._windows.gold import read_gold
from stages._windows.reading import read_window, sample_rows, summarise
from tests.structure import ROOT


def test_rows_come_as_they_were_frozen(tmp_path):
    rows = [window_row(0, slots='{"service": "api"}', slot_names=["service"]), window_row(1)]
    window = read_window(write_window(tmp_path / "w", rows))
    first, second = window.rows()
    assert (first["slots"], first["slot_names"]) == ({"service": "api"}, ["service"])
    assert first["time"] == NOON
    assert (second["slots"], second["prompt"], second["confidence"]) == (None, None, None)
    assert list(window.rows(["id"])) == [{"id": "row-000000"}, {"id": "row-000001"}]


def test_batches_are_as_small_as_asked(tmp_path):
    window = read_window(write_window(tmp_path / "w", [window_row(n) for n in range(250)]))
    assert max(batch.num_rows for batch in window.batches(batch_rows=40)) <= 40
    assert sum(batch.num_rows for batch in window.batches(["id"])) == 250


def test_a_sample_follows_from_the_rows_and_the_seed(tmp_path):
    rows = [window_row(n) for n in range(500)]
    one = write_window(tmp_path / "one", rows)
    other = write_window(tmp_path / "other", rows[::-1], batch_rows=7)
    sample, told = sample_rows(one, 50, seed=20)
    assert sample == sample_rows(other, 50, seed=20)[0]
    assert told == {"rows": 500, "sampled": 50, "left_out": 450, "seed": 20}
    assert sample == sorted(sample, key=lambda row: row["time"])
    assert sample != sample_rows(one, 50, seed=21)[0]


def test_every_row_is_sampled_as_often_as_any(tmp_path):
    folder = write_window(tmp_path / "w", [window_row(n) for n in range(20)])
    drawn = Counter(
        row["id"] for seed in range(60) for row in sample_rows(folder, 10, seed, ["id"])[0]
    )
    assert len(drawn) == 20
    assert all(14 < count < 46 for count in drawn.values())  # 30 each, standard deviation 4


def test_a_sample_of_more_rows_than_there_are_is_all_of_them(tmp_path):
    folder = write_window(tmp_path / "w", [window_row(n, prompt="x") for n in range(3)])
    sample, told = sample_rows(folder, 10, seed=1, columns=["prompt", "id"])
    assert sample == [{"prompt": "x", "id": f"row-00000{n}"} for n in range(3)]
    assert (told["sampled"], told["left_out"]) == (3, 0)


def test_the_summary_of_five_rows_is_as_by_hand(tmp_path):
    figures = [1.0, 2.0, 3.0, 4.0, None]
    rows = [
        window_row(n * 43_200, confidence=figure, rung="student" if n else "teacher", prompt="x")
        for n, figure in enumerate(figures)
    ]
    told = summarise(write_window(tmp_path / "w", rows))
    assert (told["rows"], told["rows_with_text"]) == (5, 5)
    assert (told["first"], told["last"]) == (
        rows[0]["time"].isoformat(),
        "2026-11-23T12:00:00+00:00",
    )
    assert told["days"] == {"2026-11-21": 1, "2026-11-22": 2, "2026-11-23": 2}
    assert told["missing"]["confidence"] == pytest.approx(0.2)
    assert (told["missing"]["answer"], told["missing"]["prompt"]) == (1.0, 0.0)
    found = told["quantiles"]["confidence"]
    assert (found["min"], found["p25"], found["p50"], found["max"]) == (1.0, 1.75, 2.5, 4.0)
    assert found["mean"] == 2.5
    assert told["values"]["rung"] == {"student": 4, "teacher": 1}
    assert told["quantiles"]["latency_ms"] == {}


def test_figures_that_are_no_numbers_are_left_out_of_quantiles(tmp_path):
    rows = [window_row(n, uncertainty=value) for n, value in enumerate([0.5, float("nan")])]
    found = summarise(write_window(tmp_path / "w", rows))["quantiles"]["uncertainty"]
    assert (found["min"], found["max"], found["mean"]) == (0.5, 0.5, 0.5)


def test_a_window_that_is_not_there_names_those_that_are(tmp_path):
    write_window(tmp_path / "planted", [window_row(0)])
    with pytest.raises(StillhouseError, match=r"no window .*absent .found: planted."):
        read_window(tmp_path / "absent")


def test_a_description_of_another_format_is_refused(tmp_path):
    folder = write_window(tmp_path / "w", [window_row(0)])
    info = _io.read_json(folder / "window.json")
    for other in (info | {"schema": 2}, [], {"schema": 1}):
        _io.write_json(folder / "window.json", other)
        with pytest.raises(StillhouseError, match=r"another format than 1"):
            read_window(folder)


def test_rows_that_are_not_those_described_are_refused(tmp_path):
    folder = write_window(tmp_path / "w", [window_row(0), window_row(1)])
    table = pq.ParquetFile(folder / "rows.parquet").read()
    pq.write_table(table.slice(0, 1).drop_columns(["rung"]), folder / "rows.parquet")
    with pytest.raises(StillhouseError, match=r"rung is missing; 1 rows, and window.json says 2"):
        read_window(folder)


def test_a_changed_byte_of_a_window_is_seen(tmp_path):
    rows = [window_row(n, prompt=f"prompt {n}") for n in range(2_000)]
    folder = write_window(tmp_path / "w", rows, batch_rows=2_000)
    path = folder / "rows.parquet"
    whole = bytearray(path.read_bytes())
    whole[whole.index(b"PAR1") + 400] ^= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(StillhouseError, match=r"is damaged"):
        list(read_window(folder).rows())


def test_gold_is_read_by_row_and_bad_lines_are_named(tmp_path):
    folder = write_window(tmp_path / "w", [window_row(0), window_row(1)])
    assert read_gold(folder).references == {}
    lines = [
        '{"id": "row-000000", "references": ["a", " "]}',
        "",
        '{"id": "row-000000", "references": ["b"]}',
        '{"id": "row-9", "references": ["c"]}',
        '{"id": "row-000001", "references": "d"}',
        '{"id": "row-000001", "references": [""]}',
        '{"id": "row-000001", "references": ["\\ud800"]}',
        '{"references": []}',
        "{torn",
    ]
    (folder / "gold.jsonl").write_text("\n".join(lines), encoding="utf-8")
    gold = read_gold(folder)
    assert gold.references == {"row-000000": ["a"]}
    assert [(entry["line"], entry["reason"]) for entry in gold.rejected] == [
        (3, "a second line for its row"),
        (4, "no row has this id"),
        (5, "references are no list of texts"),
        (6, "no reference"),
        (7, "references are no UTF-8"),
        (8, "no id of a row"),
        (9, "no JSON"),
    ]


MEASURE = """
import sys
from pathlib import Path
from stages._windows.choosing import Asked
from stages._windows.freezing import freeze
from stages._windows.live import LiveRows
from stages._windows.reading import sample_rows, summarise

root = Path(sys.argv[1])
made = freeze(root / "windows", LiveRows(root / "live", Asked()))
rows, told = sample_rows(made.folder, 100, seed=1)
summary = summarise(made.folder)
assert len(rows) == 100 and summary["rows"] == told["rows"] == made.info["rows"]
status = Path("/proc/self/status").read_text()
print(made.info["rows"], status.split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """A file of 120 MB of text, whole in one row group, against one of a fifth."""
    peaks = {}
    for name, count in (("small", 3_000), ("large", 15_000)):
        texts = {"prompt": "x" * 4_000, "answer": "y" * 4_000}
        rows = [live_row(number, **texts) for number in range(count)]
        write_live(tmp_path / name / "live", rows, group_rows=count)
        command = [sys.executable, "-c", MEASURE, tmp_path / name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found, peak_kb = map(int, done.stdout.split())
        assert found == count
        peaks[name] = peak_kb / 1_000
    assert peaks["large"] - peaks["small"] < 40, peaks
