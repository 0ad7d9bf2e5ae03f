"""Every row is used or rejected with a reason; splits are cut by prompt; seeds repeat."""

import json
from pathlib import Path

import pytest

from serving.errors import StillhouseError
from stages import _io
from stages._params import check_params
from stages.prepare import prepare

SPLITS = ("train", "validation", "calibration", "test")


def run(tmp_path, settings, seed=20):
    params = check_params({"seed": seed, "prepare": settings}, Path("params.yaml"))
    outputs = {"prepared": tmp_path / "prepared", "reports": tmp_path / "reports"}
    counts = prepare(params, {"raw": tmp_path}, outputs)
    splits = {split: _io.read_jsonl(outputs["prepared"] / f"{split}.jsonl") for split in SPLITS}
    return counts, splits, outputs


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"source": "jsonl", "files": {"train": {"path": str(path)}}}


def questions(count):
    verbs = ["reset", "delete", "rename", "move", "copy", "share", "print", "lock"]
    return [
        {"prompt": f"{verbs[n % 8]} item {n} of list {n * 7}", "response": f"Done with item {n}."}
        for n in range(count)
    ]


def test_splits_are_cut_by_prompt_and_add_up(tmp_path):
    settings = jsonl(tmp_path / "a.jsonl", questions(100))
    counts, splits, _ = run(tmp_path, settings)
    assert counts["prompts"] == {"train": 80, "validation": 5, "calibration": 5, "test": 10}
    ids = [example["id"] for examples in splits.values() for example in examples]
    assert len(set(ids)) == 100


def test_ids_and_splits_do_not_depend_on_the_order_of_the_file(tmp_path):
    rows = questions(60)
    _, first, _ = run(tmp_path / "1", jsonl(tmp_path / "a.jsonl", rows))
    _, second, _ = run(tmp_path / "2", jsonl(tmp_path / "b.jsonl", rows[::-1]))
    for split in SPLITS:
        assert {e["id"] for e in first[split]} == {e["id"] for e in second[split]}


def test_given_splits_stay_as_they_are(tmp_path):
    settings = jsonl(tmp_path / "train.jsonl", questions(50))
    test = [{"prompt": f"new question {n}", "references": ["a", "b"]} for n in range(7)]
    settings["files"]["test"] = {
        "path": jsonl(tmp_path / "t.jsonl", test)["files"]["train"]["path"]
    }
    counts, splits, _ = run(tmp_path, settings)
    assert [e["prompt"] for e in splits["test"]] == [t["prompt"] for t in test]
    assert splits["test"][0]["references"] == ["a", "b"]
    assert counts["rows_used"]["test"] == 14


def test_rows_of_one_file_may_name_their_split(tmp_path):
    rows = [q | {"split": SPLITS[n % 4]} for n, q in enumerate(questions(40))]
    counts, _, _ = run(tmp_path, jsonl(tmp_path / "a.jsonl", rows))
    assert set(counts["prompts"].values()) == {10}


def test_prompts_that_are_no_records_are_rejected_where_records_are_expected(tmp_path):
    rows = [{"prompt": f"name[A{n}], food[fish]", "response": f"A{n}: fish."} for n in range(40)]
    rows.append({"prompt": "just words", "response": "no"})
    settings = jsonl(tmp_path / "a.jsonl", rows) | {"slot_schema": "tests/data/pubs.yaml"}
    counts, splits, _ = run(tmp_path, settings)
    assert counts["rejected_by_reason"] == {"not_a_record": 1}
    assert splits["test"][0]["slots"]["food"] == "fish"


def test_broken_lines_are_kept_with_their_reason(tmp_path):
    path = tmp_path / "a.jsonl"
    settings = jsonl(path, questions(40))
    path.write_text(path.read_text() + "{broken\n" + '{"prompt": "p"}\n')
    counts, _, outputs = run(tmp_path, settings)
    rejected = _io.read_jsonl(outputs["prepared"] / "rejected.jsonl")
    assert (rejected[0]["line"], rejected[0]["reason"]) == (41, "broken_json")
    assert counts["rows_rejected"] == len(rejected) == 2
    assert counts["rows_read"] == 42


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"prompt": f"p{n} q{n} r{n}", "response": "Same."} for n in range(40)],
            "nothing to learn",
        ),
        (questions(2), "no usable row for"),
    ],
    ids=["one answer", "too few"],
)
def test_data_that_cannot_teach_is_refused(tmp_path, rows, message):
    with pytest.raises(StillhouseError, match=message):
        run(tmp_path, jsonl(tmp_path / "a.jsonl", rows))


def test_rejections_survive_a_refused_data_set(tmp_path):
    (tmp_path / "a.jsonl").write_text("{broken\n" + json.dumps(questions(1)[0]) + "\n")
    settings = {"source": "jsonl", "files": {"train": {"path": str(tmp_path / "a.jsonl")}}}
    with pytest.raises(StillhouseError, match="reasons in"):
        run(tmp_path, settings)
    assert len(_io.read_jsonl(tmp_path / "prepared/rejected.jsonl")) == 1


def test_personal_data_is_counted_and_on_request_replaced(tmp_path):
    rows = questions(40)
    rows[3]["response"] = "Write to jane.doe@example.com today."
    _, splits, outputs = run(tmp_path / "1", jsonl(tmp_path / "a.jsonl", rows))
    report = json.loads((outputs["reports"] / "personal_data.json").read_text())
    assert report["found"] == {"email": 1}
    assert "jane" not in json.dumps(report)
    rows.append({"prompt": "", "meta": {}, "split": "jane.doe@example.com"})
    settings = jsonl(tmp_path / "a.jsonl", rows) | {"personal_data": "scrub"}
    _, splits, outputs = run(tmp_path / "2", settings)
    assert "jane" not in json.dumps(splits)
    assert "jane" not in (outputs["prepared"] / "rejected.jsonl").read_text()
    assert "[email]" in json.dumps(splits)


def test_the_built_in_data_is_the_same_for_the_same_seed(tmp_path):
    sizes = {"train_prompts": 40, "validation_prompts": 10, "calibration_prompts": 10}
    settings = {
        "incidents": sizes | {"test_prompts": 20},
        "slot_schema": "configs/schemas/incidents.yaml",
    }
    _, _, first = run(tmp_path / "1", settings)
    _, _, same = run(tmp_path / "2", settings)
    _, _, other = run(tmp_path / "3", settings, seed=21)
    for path in first["prepared"].iterdir():
        assert path.read_bytes() == (same["prepared"] / path.name).read_bytes(), path.name
    name = "train.jsonl"
    assert (first["prepared"] / name).read_bytes() != (other["prepared"] / name).read_bytes()


def test_the_built_in_data_has_references_and_slots(tmp_path):
    sizes = {"train_prompts": 40, "validation_prompts": 10, "calibration_prompts": 10}
    settings = {
        "incidents": sizes | {"test_prompts": 20},
        "slot_schema": "configs/schemas/incidents.yaml",
    }
    counts, splits, outputs = run(tmp_path, settings)
    assert counts["prompts"]["test"] == 20
    assert all(len(example["references"]) >= 4 for example in splits["test"])
    assert all(example["slots"] for split in SPLITS for example in splits[split])
    assert (outputs["reports"] / "difficulty.json").exists()
    header = (outputs["reports"] / "lengths.csv").read_text().splitlines()[0]
    assert header.startswith("words,train_prompts,train_references")


def test_a_given_split_that_cannot_be_used_is_not_replaced(tmp_path):
    settings = jsonl(tmp_path / "train.jsonl", questions(50))
    (tmp_path / "test.jsonl").write_text("{broken\n" * 3 + json.dumps({"prompt": "x"}) + "\n")
    settings["files"] |= {"test": {"path": str(tmp_path / "test.jsonl")}}
    with pytest.raises(StillhouseError, match="no usable row for test"):
        run(tmp_path, settings)


@pytest.mark.parametrize(
    ("slots", "reason"),
    [({"food": "a]b"}, "bad_slots"), ({"colour": "red"}, "unknown_slots")],
    ids=["unwritable", "unknown"],
)
def test_slots_that_no_check_could_use_are_rejected(tmp_path, slots, reason):
    rows = [{"prompt": f"name[A{n}], food[fish]", "response": f"A{n}: fish."} for n in range(40)]
    rows.append({"prompt": "p", "response": "r", "slots": slots})
    settings = jsonl(tmp_path / "a.jsonl", rows) | {"slot_schema": "tests/data/pubs.yaml"}
    counts, _, _ = run(tmp_path, settings)
    assert counts["rejected_by_reason"] == {reason: 1}


def test_data_without_records_is_told_to_drop_the_schema(tmp_path):
    settings = jsonl(tmp_path / "a.jsonl", questions(40)) | {"slot_schema": "tests/data/pubs.yaml"}
    with pytest.raises(StillhouseError, match=r"set prepare\.slot_schema: null"):
        run(tmp_path, settings)
