"""Every row is used or rejected with a reason; no prompt stands on two sides; seeds repeat."""

import json
from collections import Counter
from pathlib import Path

import pytest

from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages import _io
from stages._params import check_params, read_yaml
from stages._prepared import (
    Groups,
    cut_splits,
    group_rows,
    remove_leaks,
    remove_unfaithful,
    shared_prompts,
    vocabulary,
)
from stages._privacy import PersonalData
from stages._sources import Rejection, Row
from stages.prepare import prepare

ROOT = Path(__file__).parents[1]
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


def row(prompt, reference="An answer.", split=None, line=1):
    return Row("f", line, split, prompt, reference, None, None, None)


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


def test_rows_that_share_a_prompt_become_references():
    rows = [row("q", "one"), row("q", "two"), row("r", "three")]
    examples = group_rows(rows, None, PersonalData("off")).examples("train")
    assert [e["references"] for e in examples] == [["one", "two"], ["three"]]


def test_a_repeated_training_row_is_rejected_once_per_repeat():
    groups = group_rows([row("q"), row("q"), row("q")], None, PersonalData("off"))
    assert groups.counts()["rejected_by_reason"] == {"duplicate_row": 2}


def test_copies_of_held_out_prompts_leave_train_only():
    held_out = row("how do I reset the password of my account", split="test")
    rows = [
        held_out,
        row("How do I reset the password of my account?"),
        row("how do I reset the password of my account now"),
        row("how do I rename a printer"),
    ]
    groups = group_rows(rows, None, PersonalData("off"))
    remove_leaks(groups, text_similarity=0.6, record_similarity=1.0)
    assert [e["prompt"] for e in groups.examples("train")] == ["how do I rename a printer"]
    assert len(groups.examples("test")) == 1
    reasons = groups.counts()["rejected_by_reason"]
    assert reasons == {"copy_of_held_out": 1, "near_copy_of_held_out": 1}


def test_training_references_that_miss_their_record_are_rejected_and_held_out_ones_stay():
    schema = SlotSchema.from_dict(read_yaml(ROOT / "configs/schemas/e2e.yaml"))
    record, other = "name[Zizzi], food[French]", "name[Zizzi], food[Indian]"
    rows = [
        row(record, "Zizzi serves French food."),
        row(record, "Zizzi is a nice place."),
        row(other, "Zizzi serves French food."),
        row(record, "Zizzi.", split="validation"),
    ]
    groups = group_rows(rows, schema, PersonalData("off"))
    remove_unfaithful(groups, schema, 0)
    assert [e["references"] for e in groups.examples("train")] == [["Zizzi serves French food."]]
    assert [e["references"] for e in groups.examples("validation")] == [["Zizzi."]]
    assert groups.counts()["rejected_by_reason"] == {"slot_errors": 2}
    assert "slot errors: 1 (food)" in groups.rejected[0].detail


def test_spellings_of_one_prompt_are_cut_to_the_same_side():
    rows = [row(f"Question {n}{mark}", f"{mark}") for n in range(40) for mark in ("", "?", " !")]
    groups = group_rows(rows, None, PersonalData("off"))
    shares = check_params({}, Path("p")).prepare.split
    cut_splits(groups, shares, seed=1)
    sides = Counter()
    for split in SPLITS:
        sides.update({e["prompt"].strip("?! ") for e in groups.examples(split)})
    assert set(sides.values()) == {1}
    assert len(groups.examples("test")) == 12


def test_a_lost_row_is_noticed():
    groups = Groups(read=3, rejected=[Rejection("f", 1, "bad_meta", "x")])
    with pytest.raises(AssertionError, match="rows lost"):
        groups.counts()


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


def test_one_question_about_many_contexts_stays_many_examples():
    rows = [
        Row("f", n, None, "Summarise the text.", f"S{n}", None, f"Text {n} says {n * n}.", None)
        for n in range(40)
    ]
    groups = group_rows(rows, None, PersonalData("off"))
    cut_splits(groups, check_params({}, Path("p")).prepare.split, seed=1)
    remove_leaks(groups, text_similarity=0.95, record_similarity=1.0)
    assert [len(groups.examples(split)) for split in SPLITS] == [32, 2, 2, 4]


def test_one_prompt_with_other_slots_is_another_example():
    rows = [
        Row("f", n, None, "Say it.", f"{food}.", {"food": food}, None, None)
        for n, food in enumerate(("fish", "pies"))
    ]
    examples = group_rows(rows, None, PersonalData("off")).examples("train")
    assert [e["references"] for e in examples] == [["fish."], ["pies."]]
    assert len({e["id"] for e in examples}) == 2


def test_slots_and_meta_are_scrubbed_too():
    row = Row("f", 1, None, "p", "r", {"who": "a@b.example"}, None, {"by": ["c@d.example"]})
    seen = PersonalData("scrub")
    scrubbed = seen.look(row)
    assert scrubbed.slots == {"who": "[email]"}
    assert scrubbed.meta == {"by": ["[email]"]}
    assert seen.report()["found"] == {"email": 2}


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


def test_vocabulary_counts_what_train_never_says():
    examples = {
        "train": [{"prompt": "p", "references": ["A cat sat."]}],
        "test": [{"prompt": "q", "references": ["a dog sat", "a dog ran"]}],
    }
    words = vocabulary(examples)
    assert words["train"] == {"distinct_words": 3, "unseen_distinct": 0, "unseen_occurrences": 0}
    assert words["test"]["distinct_words"] == 4  # a dog sat ran
    assert words["test"]["unseen_distinct"] == 2 / 4
    assert words["test"]["unseen_occurrences"] == 3 / 6  # dog dog ran


def test_prompts_that_two_splits_share_are_counted_in_any_spelling():
    def asks(*prompts):
        return [{"prompt": prompt, "references": ["r"]} for prompt in prompts]

    splits = {"train": asks("a b"), "validation": asks("c d", "e f"), "test": asks("C d!", "g h")}
    assert shared_prompts(splits) == {
        "train and validation": 0,
        "train and test": 0,
        "validation and test": 1,
    }
