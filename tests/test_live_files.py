"""Records become Parquet: none is lost or doubled by crashes, broken lines or two processes."""

import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
from datetime import date

import pytest
from live_cases import NOON, all_bytes, record, turned, written

from serving._live.files import live_files, turn_spools
from serving._live.reading import read_live
from serving._live.spool import Spool, closed_spools, spool_folder
from serving.live_files import main
from tests.structure import ROOT


def spool_of(folder):
    (path,) = spool_folder(folder).iterdir()
    return path


def test_records_come_back_as_they_were_written(tmp_path):
    assert written(tmp_path, record(cost_usd=0.25)) == ["written"]

    assert turned(tmp_path).records == 1
    (row,) = read_live(tmp_path)
    assert row["request_id"] == "request-1"
    assert row["time"].timestamp() == NOON
    assert row["models"] == {"student": "a" * 64}
    assert row["cost_usd"] == 0.25
    assert row["mean_logprob"] == -0.1
    assert row["prompt"] is None
    assert row["prompt_chars"] == len("prompt secret")
    assert list(spool_folder(tmp_path).iterdir()) == []


def test_a_file_is_of_the_day_of_its_records_in_utc(tmp_path):
    written(tmp_path, record("a"), record("b", time=NOON + 12 * 3600.0))

    turned(tmp_path)

    days = [path.parent.name for path in live_files(tmp_path)]
    assert days == ["date=2026-11-21", "date=2026-11-22"]
    (row,) = read_live(tmp_path, first=date(2026, 11, 22))
    assert row["request_id"] == "b"


def test_a_spool_is_turned_twice_without_doubling_records(tmp_path):
    written(tmp_path, record("a"), record("b"))
    spool = spool_of(tmp_path)
    lines = spool.read_bytes()
    turned(tmp_path)
    spool.write_bytes(lines)  # as if the crash had come before its removal

    turned(tmp_path)

    assert [row["request_id"] for row in read_live(tmp_path)] == ["a", "b"]


def test_a_torn_line_is_kept_apart_with_its_reason(tmp_path):
    written(tmp_path, record("a"), record("b"))
    spool = spool_of(tmp_path)
    whole = spool.read_bytes()
    spool.write_bytes(whole[:-40])

    done = turned(tmp_path)

    assert (done.records, done.rejected) == (1, 1)
    (rejected,) = (tmp_path / "rejected").iterdir()
    told = json.loads(rejected.read_text())
    assert (told["line"], told["reason"]) == (2, "torn: the line has no end")
    assert whole.decode().endswith(told["text"] + whole.decode()[-40:])


BROKEN = {
    "not JSON": b"{\n",
    "no object": b"[1]\n",
    "no time": b'{"schema": 1}\n',
    "another schema": b'{"time": "2026-11-21T12:00:00+00:00", "schema": 2}\n',
    "missing fields": b'{"time": "2026-11-21T12:00:00+00:00", "schema": 1}\n',
    "not UTF-8": b"\xff\xfe\n",
    "zeros": b"\0\0\0\n",  # what a power cut may leave
}


@pytest.mark.parametrize("line", BROKEN.values(), ids=list(BROKEN))
def test_a_line_that_is_no_record_costs_no_other(tmp_path, line):
    written(tmp_path, record("a"), record("b"))
    spool = spool_of(tmp_path)
    first, second = spool.read_bytes().splitlines(keepends=True)
    spool.write_bytes(first + line + second)

    done = turned(tmp_path)

    assert (done.records, done.rejected) == (2, 1)


def test_a_field_of_a_wrong_type_or_name_is_rejected(tmp_path):
    written(tmp_path, *(record(str(number)) for number in range(3)))
    spool = spool_of(tmp_path)
    rows = [json.loads(line) for line in spool.read_bytes().splitlines()]
    rows[0]["prompt_tokens"] = "many"
    rows[1]["surprise"] = 1
    spool.write_text("".join(json.dumps(row) + "\n" for row in rows))

    turned(tmp_path)

    assert [row["request_id"] for row in read_live(tmp_path)] == ["2"]


WRITER = """
import sys, time
sys.path[:0] = ["tests"]
from live_cases import record, settings
from pathlib import Path
from serving._live.log import LiveLog
log = LiveLog(settings(Path(sys.argv[1])), observe=lambda _: None, convert=False)
log.start()
number = 0
while True:
    log.write(record(f"{sys.argv[2]}-{number}"))
    number += 1
    time.sleep(0.0005)
"""


def start_writer(folder, name):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(folder), name], cwd=ROOT)


def wait_for_lines(folder, names, lines):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        spools = list(spool_folder(folder).glob("*.jsonl.open"))
        if len(spools) == names and all(p.read_bytes().count(b"\n") >= lines for p in spools):
            return
        time.sleep(0.02)
    raise AssertionError("the writers do not write")


def test_killed_writers_lose_nothing_they_had_written(tmp_path):
    writers = [start_writer(tmp_path, name) for name in "ab"]
    try:
        wait_for_lines(tmp_path, 2, 50)
        assert turned(tmp_path).spools == 0  # they live
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
    lines = sum(p.read_bytes().count(b"\n") for p in spool_folder(tmp_path).iterdir())

    done = turned(tmp_path)

    assert (done.spools, done.records) == (2, lines)
    ids = {row["request_id"] for row in read_live(tmp_path)}
    numbers = [sorted(int(i[2:]) for i in ids if i[0] == name) for name in "ab"]
    assert all(some == list(range(len(some))) and len(some) >= 50 for some in numbers)


def test_a_file_that_was_being_made_when_its_process_died_is_made_again(tmp_path):
    written(tmp_path, record("a"))
    left = tmp_path / "date=2026-11-21" / f".{spool_of(tmp_path).stem}.parquet.tmp"
    left.parent.mkdir()
    left.write_bytes(b"PAR1 and no more")

    turned(tmp_path)

    assert [row["request_id"] for row in read_live(tmp_path)] == ["a"]
    assert not left.exists()


def test_a_spool_stays_when_its_parquet_cannot_be_written(tmp_path):
    written(tmp_path, record("a"))
    (tmp_path / "date=2026-11-21").write_text("in the way")

    with pytest.raises(OSError):
        turned(tmp_path)

    assert len(closed_spools(tmp_path)) == 1
    (tmp_path / "date=2026-11-21").unlink()
    assert turned(tmp_path).records == 1


def test_one_process_at_a_time_turns_spools(tmp_path, capsys):
    written(tmp_path, record("a"))
    with (tmp_path / ".turning").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert turn_spools(tmp_path, 30, 10**9) is None

    assert turned(tmp_path).records == 1


def test_a_spool_is_taken_once_its_writer_closed_it(tmp_path):
    spool = Spool(tmp_path)
    spool.write(b"{}\n")
    assert closed_spools(tmp_path) == []

    spool.close()

    assert closed_spools(tmp_path) == [spool.path]


def test_files_are_the_owner_s_alone(tmp_path):
    folder = tmp_path / "live"
    written(folder, record("a"))
    spool = spool_of(folder)
    assert stat.S_IMODE(spool.stat().st_mode) == 0o600
    spool.write_bytes(spool.read_bytes() + b"torn")

    turned(folder)

    for path in folder.rglob("*"):
        if path.name != ".turning":
            expected = 0o700 if path.is_dir() else 0o600
            assert stat.S_IMODE(path.stat().st_mode) == expected, path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_old_days_and_then_the_oldest_files_are_removed(tmp_path):
    for day in range(4):
        written(tmp_path, record(str(day), time=NOON + day * 86_400.0))
        turned(tmp_path)
    newest = live_files(tmp_path)[-1].stat().st_size

    done = turn_spools(tmp_path, 3, 10**9, date(2026, 11, 24))
    assert done and done.removed == 1
    assert [path.parent.name[-2:] for path in live_files(tmp_path)] == ["22", "23", "24"]

    turn_spools(tmp_path, 3, newest + 10, date(2026, 11, 24))
    assert [row["request_id"] for row in read_live(tmp_path)] == ["3"]
    assert not (tmp_path / "date=2026-11-22").exists()


def test_the_command_tells_what_it_did(tmp_path):
    written(tmp_path, record("a"))
    command = [sys.executable, "-m", "serving.live_files", str(tmp_path), "--keep-days", "99999"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.startswith("1 spools, 1 records, 0 lines rejected, 0 files removed")
    assert len(live_files(tmp_path)) == 1


def test_the_command_ends_with_one_line_when_the_disk_fails(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "nice", lambda _: 0)  # of this process, which runs other tests
    (tmp_path / "a file").touch()

    assert main([str(tmp_path / "a file")]) == 1

    assert capsys.readouterr().err.count("\n") == 1


def test_no_text_is_in_any_file_by_default(tmp_path):
    written(tmp_path, record("a"))
    assert b"secret" not in all_bytes(tmp_path)

    turned(tmp_path)

    assert b"secret" not in all_bytes(tmp_path)
