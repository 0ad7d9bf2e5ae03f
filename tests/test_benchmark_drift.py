"""The drift benchmark: which rows are dealt to whom, what repeats come to, and the other judge."""

import json
import stat

import numpy as np
import pytest

from benchmarks._drift_detectors import Evidently, evidently_columns
from benchmarks._drift_draws import REFERENCE_ROWS, Cell, all_cells, chosen_cells, deal, work_of
from benchmarks._drift_draws import draw_pool as draw
from benchmarks._drift_summary import summarise, table
from benchmarks.drift import read_lines
from serving.errors import StillhouseError
from stages._drift.comparing import Side
from stages._drift.features import Table

PLACES = {"none": np.arange(2000), "units": np.arange(2000, 2300)}
OURS = {"outcome": "drift", "alarms": ["prompt_chars"], "seconds": 1.0}
QUIET = {"outcome": "no_evidence", "alarms": [], "seconds": 2.0}


def test_every_scenario_has_every_share_and_names_choose_by_their_beginning():
    assert [cell.name for cell in all_cells()][:4] == [
        "none/50",
        "none/200",
        "none/1000",
        "services/0.1",
    ]
    assert len(all_cells()) == 3 + 4 * 3
    assert [cell.name for cell in chosen_cells(["units", "none/5"])] == [
        "none/50",
        "units/0.1",
        "units/0.3",
        "units/1",
    ]


def test_work_goes_repeat_by_repeat_and_planted_windows_have_repeats_of_their_own():
    cells = [Cell("none", 50), Cell("units", 200, 0.1)]
    names = [(repeat, cell.name) for repeat, cell in work_of(cells, clean=2, planted=1)]
    assert names == [(0, "none/50"), (0, "units/0.1"), (1, "none/50")]


def test_reference_and_window_share_no_row_and_a_repeat_has_one_reference():
    reference, window = deal(3, Cell("none", 1000), PLACES)
    assert (len(reference), len(window)) == (REFERENCE_ROWS, 1000)
    assert not set(reference.tolist()) & set(window.tolist())
    other, smaller = deal(3, Cell("none", 50), PLACES)
    assert (other == reference).all()
    assert (smaller == window[:50]).all()
    assert (deal(4, Cell("none", 50), PLACES)[0] != reference).any()


@pytest.mark.parametrize(("share", "changed"), [(0.1, 20), (0.3, 60), (1.0, 200)])
def test_a_planted_window_has_its_share_of_changed_rows(share, changed):
    _, window = deal(0, Cell("units", 200, share), PLACES)
    assert len(set(window.tolist())) == 200
    assert int((window >= 2000).sum()) == changed


def test_the_pool_has_each_prompt_once_and_knows_where_each_scenario_lies():
    pool, places = draw(clean=30, changed=5)
    assert len({row["prompt"] for row in pool}) == len({row["id"] for row in pool}) == len(pool)
    assert sum(map(len, places.values())) == len(pool)
    assert {pool[place]["meta"]["drift"] for place in places["style"]} == {"style"}
    assert not any("drift" in pool[place]["meta"] for place in places["none"])


def test_shares_are_of_the_repeats_that_were_made():
    found = [OURS | {"p_values": {"prompt_chars": 0.001}}, QUIET | {"p_values": {"rung": 0.5}}]
    theirs = {"dataset": False, "columns": {"prompt": True}, "embeddings": {}, "seconds": 1.0}
    lines = [{"cell": "none/50", "detector": "ours", "found": one} for one in found]
    lines.append({"cell": "none/50", "detector": "evidently", "found": theirs})
    told = summarise(lines, all_cells(), 0.05)
    assert list(told) == ["none/50"]
    ours, other = told["none/50"]["ours"], told["none/50"]["evidently"]
    assert (ours["verdict_drift"]["hits"], ours["verdict_drift"]["n"]) == (1, 2)
    assert ours["tests"]["prompt_chars"] == {"made": 1, "alarms": 1, "p_below_alpha": 1}
    assert ours["cpu_s"] == 1.5
    assert (other["any_column"]["share"], other["dataset"]["share"]) == (1.0, 0.0)
    assert "50.0 [1.3, 98.7]" in table(told)[1]


def test_a_torn_line_is_no_verdict(tmp_path):
    line = {"cell": "none/50", "repeat": 0, "detector": "ours", "found": {}}
    text = json.dumps(line)
    (tmp_path / "part-1-of-2.jsonl").write_text(f"{text}\n{text[:20]}")
    (tmp_path / "part-2-of-2.jsonl").write_text(f"{text}\n\n")
    assert read_lines([tmp_path]) == [line]


def one_side(lengths, services, words):
    """A side with gaps, and a column that is the same everywhere."""
    numbers = {"prompt_chars": np.array(lengths), "slot_count": np.ones(len(lengths))}
    names = {"slot_values.service": services, "slot_names": [("a", "b")] * len(lengths)}
    return Side(Table([{}] * len(lengths), words, numbers, {}, names), {})


BEFORE = one_side([10.0, np.nan], [("api",), None], ["a", "b"])
AFTER = one_side([12.0, 11.0], [("(not in training)",), None], ["c", "d"])


def test_evidently_gets_the_columns_that_can_differ_with_gaps_as_none():
    columns, kinds = evidently_columns(BEFORE.table, AFTER.table)
    assert kinds == {"prompt": "text", "prompt_chars": "num", "slot_values.service": "cat"}
    assert columns["prompt_chars"] == ([10.0, None], [12.0, 11.0])
    assert columns["slot_values.service"] == (["api", None], ["(not in training)", None])


def test_an_environment_without_evidently_is_told_in_one_line(tmp_path):
    with pytest.raises(StillhouseError, match="pip install evidently"):
        Evidently(script(tmp_path, "exit 1"))


def test_evidently_is_asked_and_answers_line_by_line(tmp_path):
    answers = ['{"version": "9"}', '{"dataset": true}']
    python = script(tmp_path, f"echo '{answers[0]}'; read line; echo \"$line\" > {tmp_path}/asked")
    with python.open("a") as stream:
        stream.write(f"\necho '{answers[1]}'\n")
    with Evidently(python) as judge:
        assert judge.version == "9"
        assert judge.judge(BEFORE, AFTER) == {"dataset": True}
    asked = json.loads((tmp_path / "asked").read_text())
    assert asked["vectors"] is None
    assert asked["columns"]["prompt"] == [["a", "b"], ["c", "d"]]


def script(folder, body):
    """A program in place of another environment's Python."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
