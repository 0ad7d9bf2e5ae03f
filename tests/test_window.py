"""`make window`: what a window has and says of itself, and the same rows are one window."""

import sys
from datetime import date

import pytest
from live_cases import KEY, KEY_TEXT, OTHER_KEY, SECRET, record, written
from structure import ROOT
from window_cases import (
    DAY,
    frozen,
    ids_of,
    live_row,
    live_rows,
    rows_of,
    serve,
    write_live,
)

from serving._live.checks import Checked, Found
from serving.errors import StillhouseError
from stages import _io
from stages._windows.choosing import Asked
from stages.window import main, read_keys, window


def test_a_row_is_what_the_service_kept(tmp_path):
    findings = (Found("slots", "missing", "service"), Found("grounding", "number", None, 0, 2))
    checked = Checked("found", "found", findings, slots_asked=3, claims=4)
    serve(tmp_path, record(checked=checked, cost_usd=0.25, latency_s=0.5), texts="clear")
    (row,) = rows_of(frozen(tmp_path))
    assert (row["prompt"], row["context"]) == (f"prompt {SECRET}", f"context {SECRET}")
    assert row["answer"] == f"answer {SECRET}"
    assert (row["rung"], row["model_sha256"], row["cache"]) == ("student", "a" * 64, "off")
    assert (row["slots_asked"], row["slot_errors"], row["claims"], row["ungrounded"]) == (
        3,
        1,
        4,
        1,
    )
    assert (row["mean_logprob"], row["cost_usd"], row["latency_ms"]) == (-0.1, 0.25, 500.0)
    assert row["time"].isoformat() == "2026-11-21T12:00:00+00:00"


def test_figures_of_checks_that_did_not_run_are_null(tmp_path):
    serve(tmp_path, record(checked=Checked("ok", "not_run", slots_asked=2)), texts="clear")
    (row,) = rows_of(frozen(tmp_path))
    assert (row["slots_asked"], row["slot_errors"]) == (2, 0)
    assert (row["claims"], row["ungrounded"]) == (None, None)


def test_a_window_describes_itself(tmp_path):
    path = write_live(tmp_path / "live", live_rows(3))
    made = frozen(tmp_path)
    info = _io.read_json(made.folder / "window.json")
    assert info == made.info
    assert made.folder.name == info["id"] == f"{DAY}_{DAY}-{info['content_sha256'][:10]}"
    assert (info["rows"], info["rows_with_text"]) == (3, 3)
    assert (info["first"], info["last"]) == (f"{DAY}T12:00:00+00:00", f"{DAY}T12:00:02+00:00")
    source = {"file": f"date={DAY}/a.parquet", "sha256": _io.sha256_file(path), "rows": 3}
    assert info["sources"] == [source]
    assert (info["rejected"], info["planted"]) == ({"files": 0, "rows": 0}, None)


def test_freezing_twice_does_nothing_twice(tmp_path):
    write_live(tmp_path / "live", live_rows(3))
    first = frozen(tmp_path)
    (first.folder / "gold.jsonl").write_text("{}\n", encoding="utf-8")
    second = frozen(tmp_path)
    assert (first.new, second.new, second.folder) == (True, False, first.folder)
    assert (first.folder / "gold.jsonl").is_file()
    assert [path.name for path in (tmp_path / "windows").iterdir()] == [first.folder.name]


def test_the_same_rows_in_other_files_are_the_same_window(tmp_path):
    rows = live_rows(40)
    write_live(tmp_path / "one" / "live", rows)
    write_live(tmp_path / "two" / "live", rows[::-1][:15], "b", group_rows=4)
    write_live(tmp_path / "two" / "live", rows[:30], "c", day="2026-11-20")
    first, second = frozen(tmp_path / "one"), frozen(tmp_path / "two")
    assert first.info["id"] == second.info["id"]
    assert second.info["duplicates"] == 5


@pytest.mark.parametrize("name", ["answer", "mean_logprob", "slot_errors", "id", "time"])
def test_another_value_anywhere_is_another_window(tmp_path, name):
    changes = {
        "answer": {"answer": "api-1 is up."},
        "mean_logprob": {"mean_logprob": -0.250000001},
        "slot_errors": {"findings": [{"check": "slots", "kind": "missing"}]},
        "id": {"id": "row-9"},
        "time": {"time": live_row(2)["time"]},
    }
    write_live(tmp_path / "one" / "live", [live_row(0), live_row(1)])
    write_live(tmp_path / "two" / "live", [live_row(0), live_row(1, **changes[name])])
    hashes = {frozen(tmp_path / one).info["content_sha256"] for one in ("one", "two")}
    assert len(hashes) == 2


def test_only_rows_of_the_asked_days_are_frozen(tmp_path):
    serve(tmp_path, record("a"), record("b", time=record().time + 12 * 3600.0))
    made = frozen(tmp_path, first=date(2026, 11, 22), last=date(2026, 11, 22))
    assert made.info["rows"] == 1
    assert made.info["first"].startswith("2026-11-22T00:00:00")
    assert made.info["id"].startswith("2026-11-22_2026-11-22-")


def test_the_newest_rows_are_frozen_wherever_they_lie(tmp_path):
    rows = live_rows(100)
    write_live(tmp_path / "live", rows[50:], "a")
    write_live(tmp_path / "live", rows[:50], "b")
    made = frozen(tmp_path, newest=3)
    assert sorted(ids_of(made)) == ["row-000097", "row-000098", "row-000099"]
    assert made.info["left_out"] == 97


def test_a_sample_follows_from_the_rows_and_not_from_their_files(tmp_path):
    rows = live_rows(2_000)
    write_live(tmp_path / "one" / "live", rows)
    write_live(tmp_path / "two" / "live", rows[1_200:] + rows[:100], "a", group_rows=77)
    write_live(tmp_path / "two" / "live", rows[:1_300], "b")
    first, second = (frozen(tmp_path / one, most=500) for one in ("one", "two"))
    assert first.info["id"] == second.info["id"]
    assert (first.info["rows"], first.info["left_out"]) == (500, 1_500)
    numbers = [int(name[-6:]) for name in ids_of(first)]
    assert 900 < sum(numbers) / len(numbers) < 1_100  # of all rows alike


@pytest.mark.parametrize("policy", ["off", "hashed"])
def test_rows_without_clear_texts_keep_their_figures(tmp_path, policy):
    hash_key = KEY if policy == "hashed" else None
    serve(tmp_path, record(), texts=policy, hash_key=hash_key)
    made = frozen(tmp_path)
    (row,) = rows_of(made)
    assert {row[name] for name in ("prompt", "context", "slots", "answer")} == {None}
    assert row["prompt_chars"] == len(f"prompt {SECRET}")
    assert (made.info["rows_with_text"], made.info["texts"]) == (0, {policy: 1})


def test_sealed_texts_are_opened_with_their_key_alone(tmp_path):
    serve(tmp_path, record(), texts="clear", seal_key=KEY)
    without, opened = frozen(tmp_path), frozen(tmp_path, keys={KEY.id: KEY})
    assert rows_of(without)[0]["prompt"] is None
    assert without.info["texts"] == {"sealed": 1}
    assert rows_of(opened)[0]["prompt"] == f"prompt {SECRET}"
    assert (opened.info["rows_with_text"], opened.info["texts"]) == (1, {"opened": 1})
    assert without.folder != opened.folder
    assert opened.folder.stat().st_mode & 0o077 == 0


def test_a_key_that_opens_nothing_is_refused_by_name(tmp_path):
    serve(tmp_path, record(), texts="clear", seal_key=KEY)
    with pytest.raises(StillhouseError, match=f"sealed with {KEY.id}, found {OTHER_KEY.id}"):
        frozen(tmp_path, keys={OTHER_KEY.id: OTHER_KEY})
    assert list((tmp_path / "windows").iterdir()) == []


def test_texts_of_an_older_key_stay_closed_beside_those_that_open(tmp_path):
    serve(tmp_path, record("a"), texts="clear", seal_key=KEY)
    serve(tmp_path, record("b"), texts="clear", seal_key=OTHER_KEY)
    made = frozen(tmp_path, keys={KEY.id: KEY})
    assert made.info["texts"] == {"opened": 1, "sealed": 1}
    assert (made.info["rows"], made.info["rows_with_text"]) == (2, 1)


def test_an_empty_folder_says_what_waits_in_spools(tmp_path):
    written(tmp_path / "live", record())
    with pytest.raises(StillhouseError, match=r"has no records .found 1 spools that are not"):
        window(tmp_path / "live", tmp_path / "windows", Asked())


def test_days_that_end_before_they_begin_are_refused():
    with pytest.raises(StillhouseError, match=r"ends on 2026-11-20, before it begins"):
        Asked(date(2026, 11, 21), date(2026, 11, 20))
    with pytest.raises(StillhouseError, match=r"window of 0 rows"):
        Asked(newest=0)


def test_key_files_are_read_and_never_shown(tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY_TEXT + "\n", encoding="ascii")
    assert read_keys([path]) == {KEY.id: KEY}
    path.write_text("no key", encoding="ascii")
    with pytest.raises(StillhouseError, match=r"must be 32 bytes in base64") as caught:
        read_keys([path])
    assert "no key" not in str(caught.value)
    with pytest.raises(StillhouseError, match=r"cannot be read .FileNotFoundError"):
        read_keys([tmp_path / "absent"])


def test_the_command_tells_what_it_did(tmp_path, monkeypatch, capsys):
    write_live(tmp_path / "live", [*live_rows(3), live_row(1), live_row(5, id=None)])
    (tmp_path / "live" / f"date={DAY}" / "bad.parquet").touch()
    run_command(tmp_path, monkeypatch)
    said = capsys.readouterr().out
    assert "3 rows, 3 with text, of 1 files" in said
    assert "not in it: 1 with an id that came before" in said
    assert f"rejected: date={DAY}/bad.parquet, all rows: " in said
    run_command(tmp_path, monkeypatch, "--first", DAY, "--max-rows", "9")
    assert "there already, nothing done" in capsys.readouterr().out
    run_command(tmp_path, monkeypatch, "--last-rows", "2")
    assert "2 rows, 2 with text" in capsys.readouterr().out


def test_a_mistake_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"^error: window: .* has no records") as caught:
        run_command(tmp_path, monkeypatch)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(SystemExit, match=r"^2$"):
        run_command(tmp_path, monkeypatch, "--first", "yesterday")


def test_a_window_is_named_for_drift_and_nothing_else_changes(tmp_path, monkeypatch):
    before = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("\n".join(before) + "\n", encoding="utf-8")
    write_live(tmp_path / "live", live_rows(3))
    run_command(tmp_path, monkeypatch, "--compare")
    (name,) = [folder.name for folder in (tmp_path / "windows").glob("[!.]*")]
    after = (tmp_path / "params.yaml").read_text(encoding="utf-8").splitlines()
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert [line.split("#")[0].strip() for line in changed] == [f"window: {name}"]


def run_command(tmp_path, monkeypatch, *arguments):
    folders = ["--live", str(tmp_path / "live"), "--windows", str(tmp_path / "windows")]
    monkeypatch.setattr(sys, "argv", ["window", *folders, *arguments])
    main()
