"""Windows in the prepared data: marked, counted, on one side each, and nothing else changed."""

import json
from collections import Counter
from pathlib import Path

import pytest
from retrain_cases import make_window
from window_cases import window_row

from serving.errors import StillhouseError
from stages import _io
from stages._params import check_params
from stages.prepare import prepare

SPLITS = ("train", "validation", "calibration", "test")
SCHEMA = "tests/data/pubs.yaml"


def record(number, food="fish"):
    return f"name[Pub {number}], food[{food}]"


def base(tmp_path):
    """Forty records in four splits, as a source gives them."""
    rows = [
        {"prompt": record(n), "response": f"Pub {n}: fish.", "split": SPLITS[n % 4]}
        for n in range(40)
    ]
    _io.write_jsonl(tmp_path / "rows.jsonl", rows)
    files = {"train": {"path": str(tmp_path / "rows.jsonl")}}
    return {"source": "jsonl", "files": files, "slot_schema": SCHEMA}


def run(tmp_path, windows=None, name="out", **changes):
    """Prepare with these windows; the splits, windows.jsonl, the counts and the outputs."""
    settings = base(tmp_path) | changes | ({"windows": windows} if windows else {})
    params = check_params({"prepare": settings}, Path("params.yaml"))
    outputs = {"prepared": tmp_path / name / "prepared", "reports": tmp_path / name / "reports"}
    counts = prepare(params, {"raw": tmp_path, "windows": tmp_path / "windows"}, outputs)
    names = (*SPLITS, "windows", "rejected")
    return {n: _io.read_jsonl(outputs["prepared"] / f"{n}.jsonl") for n in names}, counts, outputs


def window(tmp_path, prompts, gold=()):
    """A window that asks these prompts; `gold` are numbers of rows with a reference."""
    rows = [window_row(n, prompt=prompt) for n, prompt in enumerate(prompts)]
    folder = make_window(tmp_path / "windows", rows)
    lines = [{"id": f"row-{n:06d}", "references": [f"Gold {n}.", f"Also {n}."]} for n in gold]
    if lines:
        _io.write_jsonl(folder / "gold.jsonl", lines)
    return folder


def new(*numbers):
    return [record(n, "pasta") for n in numbers]


def added(data, split, folder):
    return [row for row in data[split] if row.get("window") == folder.name]


def test_without_windows_there_is_an_empty_file_and_no_mark(tmp_path):
    data, counts, _ = run(tmp_path)
    assert data["windows"] == []
    assert "windows" not in counts
    assert not any("window" in row for split in SPLITS for row in data[split])


def test_held_out_gold_leaves_training_and_validation_byte_for_byte(tmp_path):
    _, _, before = run(tmp_path)
    folder = window(tmp_path, new(*range(100, 121)), gold=range(14))
    data, counts, after = run(tmp_path, {folder.name: {}}, "with")
    for name in ("train.jsonl", "validation.jsonl", "slots.json"):
        assert (after["prepared"] / name).read_bytes() == (before["prepared"] / name).read_bytes()
    for name in ("calibration.jsonl", "test.jsonl"):
        assert (
            (after["prepared"] / name)
            .read_bytes()
            .startswith((before["prepared"] / name).read_bytes())
        )
    assert [len(added(data, split, folder)) for split in SPLITS] == [0, 0, 3, 11]  # 1 : 3.5
    assert len(data["windows"]) == 7
    assert counts["windows"][folder.name]["gold"]["test"] == 11
    example = added(data, "test", folder)[0]
    assert example["references"][0].replace("Gold", "Also") == example["references"][1]
    assert example["slots"]["food"] == "pasta"


def test_gold_for_training_is_cut_into_all_splits_by_hash(tmp_path):
    folder = window(tmp_path, new(*range(100, 140)), gold=range(40))
    data, _, _ = run(tmp_path, {folder.name: {"gold": "train"}})
    assert [len(added(data, split, folder)) for split in SPLITS] == [20, 2, 4, 14]
    shares = {"validation": 0.1, "calibration": 0.1, "test": 0.1}
    again, _, _ = run(tmp_path, {folder.name: {"gold": "train", "shares": shares}}, "again")
    assert [len(added(again, split, folder)) for split in SPLITS] == [28, 4, 4, 4]


def test_every_row_of_a_window_is_used_or_rejected_with_a_reason(tmp_path):
    known = [record(0), "food[fish], name[pub 0]", record(3)]  # of train, twice, and of test
    prompts = [*new(100, 101, 102, 102), None, *known, "just words", "a[b], food[fish]", "x" * 60]
    folder = window(tmp_path, prompts, gold=[0])
    _io.write_jsonl(
        folder / "gold.jsonl",
        [{"id": "row-000000", "references": ["Gold."]}, {"id": "nobody", "references": ["G."]}],
    )
    data, counts, _ = run(tmp_path, {folder.name: {}}, max_chars=50)
    told = counts["windows"][folder.name]
    assert told["rejected_by_reason"] == {
        "asked_already": 2,
        "gold_line": 1,
        "no_text": 1,
        "not_a_record": 1,
        "repeated_in_window": 2,
        "text_too_long": 1,
        "unknown_slots": 1,
    }
    assert (told["rows"], told["prompts"], sum(told["gold"].values())) == (11, 2, 1)
    lines = [line for line in data["rejected"] if "windows" in line["file"]]
    assert Counter(line["reason"] for line in lines) == told["rejected_by_reason"]
    assert all(set(line) == {"file", "line", "reason", "detail", "reference"} for line in lines)


def test_no_prompt_is_on_two_sides(tmp_path):
    prompts = [*new(*range(100, 130)), *(record(n) for n in range(8))]
    first = window(tmp_path, prompts, gold=range(0, 38, 2))
    second = window(tmp_path, [*prompts[::-1], *new(200)], gold=range(0, 38, 3))
    uses = {first.name: {"gold": "train"}, second.name: {"gold": "held_out"}}
    data, counts, _ = run(tmp_path, uses)
    asked = [row["prompt"] for name in (*SPLITS, "windows") for row in data[name]]
    assert len(asked) == len(set(asked)) == 40 + 30 + 1
    assert counts["windows"][second.name]["prompts"] == 1


def test_near_copies_of_the_other_side_are_left_out(tmp_path):
    words = "how do I reset the password of my account"
    rows = [
        {"prompt": f"{s} question {n}", "response": f"{n}", "split": s}
        for s in SPLITS
        for n in (1, 2)
    ]
    rows += [{"prompt": words, "response": "Click.", "split": "train"}]
    rows += [{"prompt": words.replace("password", "name"), "response": "So.", "split": "test"}]
    _io.write_jsonl(tmp_path / "texts.jsonl", rows)
    prompts = [f"{words} now", f"{words.replace('password', 'name')} now", "a fresh question"]
    folder = window(tmp_path, prompts, gold=[0, 2])
    changes = {"files": {"train": {"path": str(tmp_path / "texts.jsonl")}}, "slot_schema": None}
    data, counts, _ = run(tmp_path, {folder.name: {}}, **changes)
    assert counts["windows"][folder.name]["rejected_by_reason"] == {"near_copy": 2}
    assert [row["prompt"] for row in added(data, "test", folder)] == ["a fresh question"]
    assert data["windows"] == []


def test_at_most_so_many_rows_are_taken_the_same_ones_every_time(tmp_path):
    folder = window(tmp_path, new(*range(100, 160)))
    data, _, outputs = run(tmp_path, {folder.name: {"prompts": 20}})
    again, _, same = run(tmp_path, {folder.name: {"prompts": 20}}, "again")
    assert len(data["windows"]) == 20
    assert data == again
    for path in outputs["prepared"].iterdir():
        assert path.read_bytes() == (same["prepared"] / path.name).read_bytes()
    none, _, _ = run(tmp_path, {folder.name: {"prompts": 0}}, "none")
    assert none["windows"] == []


@pytest.mark.parametrize("what", ["content_sha256", "gold_sha256"])
def test_another_window_than_the_one_that_was_meant_is_refused(tmp_path, what):
    folder = window(tmp_path, new(100, 101), gold=[0])
    info = _io.read_json(folder / "window.json")
    meant = {"content_sha256": info["content_sha256"]}
    meant["gold_sha256"] = _io.sha256_file(folder / "gold.jsonl")
    run(tmp_path, {folder.name: meant})
    with pytest.raises(StillhouseError, match=r"means 000000000000.*make retrain"):
        run(tmp_path, {folder.name: meant | {what: "0" * 64}})


def test_a_window_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StillhouseError, match=r"there is no window .*lost"):
        run(tmp_path, {"lost": {}})


@pytest.mark.parametrize("name", ["../secret", "a/b", ".hidden", ""])
def test_a_window_is_a_folder_s_name_and_no_path(tmp_path, name):
    with pytest.raises(StillhouseError, match=r"prepare\.windows"):
        run(tmp_path, {name: {}})


def test_personal_data_in_a_window_is_scrubbed_where_asked(tmp_path):
    mail = "jane.doe@example.com"
    prompts = [f"name[{mail}], food[pasta]", f"name[{mail} too], food[pasta]", f"write to {mail}"]
    folder = window(tmp_path, prompts, gold=[0])
    data, _, outputs = run(tmp_path, {folder.name: {}}, personal_data="scrub")
    assert "jane" not in json.dumps(data)
    assert data["windows"][0]["slots"]["name"] == "[email] too"
    report = _io.read_json(outputs["reports"] / "personal_data.json")
    assert report["found"]["email"] >= 2
