"""What params.yaml says about prepare reaches the reader, the filters and the reports."""

import hashlib
import json
from pathlib import Path

import pytest

from serving.errors import StillhouseError
from stages import _io
from stages._params import check_params
from stages.prepare import prepare

SPLITS = ("train", "validation", "calibration", "test")
RECORD = "name[Zizzi], food[fish], area[north], price[low], dogs[{}]"


def run(tmp_path, settings):
    params = check_params({"prepare": settings}, Path("params.yaml"))
    outputs = {"prepared": tmp_path / "prepared", "reports": tmp_path / "reports"}
    counts = prepare(params, {"raw": tmp_path}, outputs)
    splits = {split: _io.read_jsonl(outputs["prepared"] / f"{split}.jsonl") for split in SPLITS}
    return counts, splits, outputs["reports"]


def two_per_split():
    """Two pairs in each split, no two of them alike."""
    return {
        split: [(f"{split} question {n}", f"{split} answer {n}") for n in range(2)]
        for split in SPLITS
    }


def jsonl(tmp_path, pairs, extra=()):
    """Settings of one file whose rows name their split; `extra` are whole rows."""
    rows = [
        {"prompt": prompt, "response": response, "split": split}
        for split in SPLITS
        for prompt, response in pairs[split]
    ]
    path = tmp_path / "rows.jsonl"
    _io.write_jsonl(path, [*rows, *extra])
    return {"source": "jsonl", "files": {"train": {"path": str(path)}}}


def csv(tmp_path, pairs, delimiter=",", encoding="utf-8"):
    """Settings of a file per split, answer before question, a column that nobody asked for."""
    files = {}
    for split in SPLITS:
        lines = [["answer", "who", "question"], *([a, "Ann", q] for q, a in pairs[split])]
        path = tmp_path / f"{split}.csv"
        path.write_text("".join(f"{delimiter.join(x)}\n" for x in lines), encoding=encoding)
        files[split] = {"path": str(path)}
    columns = {"prompt": "question", "response": "answer"}
    return {"source": "csv", "files": files, "columns": columns}


SAME = {split: split for split in SPLITS if split != "calibration"}  # which hubs do not know


def hub(tmp_path, pairs, names=SAME):
    """Settings of a folder in a hub format; `names` are the splits' names there."""
    for split, name in names.items():
        rows = [{"mr": prompt, "ref": response} for prompt, response in pairs[split]]
        _io.write_jsonl(tmp_path / "hub" / f"{name}.jsonl", rows)
    where = {"name": str(tmp_path / "hub"), "splits": names}
    return {"source": "hub", "hub": where, "columns": {"prompt": "mr", "response": "ref"}}


def pairs_of(examples):
    return [(example["prompt"], *example["references"]) for example in examples]


@pytest.mark.parametrize(
    ("delimiter", "encoding"),
    [(",", "utf-8"), (";", "utf-8"), ("\t", "cp1252"), (",", "utf-16")],
    ids=["plain", "semicolon", "tab in cp1252", "utf-16"],
)
def test_csv_columns_are_read_by_name_delimiter_and_encoding(tmp_path, delimiter, encoding):
    pairs = two_per_split() | {"test": [("Où est le café?", "Là-bas.")]}
    settings = csv(tmp_path, pairs, delimiter, encoding)
    settings |= {"delimiter": delimiter, "encoding": encoding}
    _, splits, _ = run(tmp_path, settings)
    assert {split: pairs_of(splits[split]) for split in SPLITS} == pairs


def test_hub_splits_and_columns_have_the_names_of_the_settings(tmp_path):
    pairs = two_per_split()
    pairs["train"] = [(f"number {n} of {n * 7}", f"answer {n}") for n in range(40)]
    names = {"train": "train", "validation": "test", "test": "validation"}
    counts, splits, _ = run(tmp_path, hub(tmp_path, pairs, names))
    assert pairs_of(splits["validation"]) == pairs["validation"]
    assert pairs_of(splits["test"]) == pairs["test"]
    assert counts["prompts"]["calibration"] == 2  # 5 % of the training prompts
    assert sorted(pairs_of(splits["train"] + splits["calibration"])) == sorted(pairs["train"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_file_must_have_the_hash_that_is_set(tmp_path, split):
    settings = csv(tmp_path, two_per_split())
    content = (tmp_path / f"{split}.csv").read_bytes()
    settings["files"][split]["sha256"] = hashlib.sha256(content).hexdigest()
    run(tmp_path, settings)
    (tmp_path / f"{split}.csv").write_bytes(content.replace(b"Ann", b"Bob"))
    with pytest.raises(StillhouseError, match="has the SHA-256"):
        run(tmp_path, settings)


@pytest.mark.parametrize("make", [jsonl, csv, hub], ids=["jsonl", "csv", "hub"])
def test_longer_texts_than_max_chars_are_rejected(tmp_path, make):
    pairs = two_per_split()
    pairs["train"] += [("long", "x" * 41), ("just short enough", "y" * 40)]
    settings = {"max_chars": 40, "split": {"calibration": 0.25}}  # where it is not given
    counts, splits, _ = run(tmp_path, make(tmp_path, pairs) | settings)
    assert counts["rejected_by_reason"] == {"text_too_long": 1}
    assert ["y" * 40] in [e["references"] for e in splits["train"] + splits["calibration"]]


@pytest.mark.parametrize("make", [jsonl, csv], ids=["jsonl", "csv"])
def test_longer_lines_than_max_line_bytes_are_rejected(tmp_path, make):
    pairs = two_per_split()
    pairs["train"] += [("long", "x" * 300), ("short enough", "y" * 100)]
    counts, splits, _ = run(tmp_path, make(tmp_path, pairs) | {"max_line_bytes": 200})
    assert counts["rejected_by_reason"] == {"line_too_long": 1}
    assert splits["train"][-1]["references"] == ["y" * 100]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [({}, 2), ({"near_duplicate_similarity": 1.0}, 3)],
    ids=["as delivered", "equal ones only"],
)
def test_near_copies_of_held_out_prompts_leave_train(tmp_path, settings, kept):
    asked = "how do I reset the password of my account"  # 7 shingles, all in the longer one's 8
    pairs = two_per_split() | {"test": [(asked, "Click reset.")]}
    pairs["train"] += [(f"{asked} now", "Click."), (f"{asked.title()}?", "Reset.")]
    counts, splits, _ = run(tmp_path, jsonl(tmp_path, pairs) | settings)
    assert len(splits["train"]) == kept
    assert counts["rejected_by_reason"]["copy_of_held_out"] == 1
    assert counts["rejected_by_reason"].get("near_copy_of_held_out", 0) == 3 - kept
    assert len(splits["test"]) == 1


@pytest.mark.parametrize(
    ("settings", "kept"),
    [({}, 3), ({"near_duplicate_record_similarity": 0.6}, 2)],
    ids=["as delivered", "from 0.6"],
)
def test_records_have_a_similarity_of_their_own(tmp_path, settings, kept):
    # 4 of the 5 slots are equal: 4 shared pairs of 6, a similarity of 0.67
    slots = {"name": "Zizzi", "food": "fish", "area": "north", "price": "low"}
    extra = [
        {"prompt": RECORD.format(dogs), "response": dogs, "slots": slots | {"dogs": dogs}}
        for dogs in ("yes", "no")
    ]
    extra[1]["split"] = "test"
    _, splits, _ = run(tmp_path, jsonl(tmp_path, two_per_split(), extra) | settings)
    assert len(splits["train"]) == kept


def test_repeated_rows_are_rejected_in_train_only(tmp_path):
    pairs = {split: rows + rows[:1] for split, rows in two_per_split().items()}
    counts, splits, _ = run(tmp_path, jsonl(tmp_path, pairs))
    assert counts["rejected_by_reason"] == {"duplicate_row": 1}
    assert counts["rows_used"] == {"train": 2, "validation": 3, "calibration": 3, "test": 3}
    assert splits["test"][0]["references"] == ["test answer 0"] * 2


def test_a_given_file_without_a_usable_row_is_not_replaced_by_training_prompts(tmp_path):
    pairs = two_per_split() | {"train": [(f"question {n}", f"{n}") for n in range(40)]}
    settings = csv(tmp_path, pairs | {"test": [("", "no question")]})
    with pytest.raises(StillhouseError, match="no usable row for test"):
        run(tmp_path, settings)


def test_personal_data_in_slots_context_and_meta_is_scrubbed(tmp_path):
    mail = "jane.doe@example.com"
    row = {"prompt": "who is on call?", "response": "Jane is.", "split": "test", "context": mail}
    row |= {"slots": {"contact": f"write to {mail}"}, "meta": {"by": [mail, 3]}}
    settings = jsonl(tmp_path, two_per_split(), [row]) | {"personal_data": "scrub"}
    _, splits, reports = run(tmp_path, settings)
    found = splits["test"][-1]
    assert found["slots"] == {"contact": "write to [email]"}
    assert (found["context"], found["meta"]) == ("[email]", {"by": ["[email]", 3]})
    report = json.loads((reports / "personal_data.json").read_text())
    assert (report["status"], report["found"]) == ("scrubbed", {"email": 3})


def test_leakage_is_the_share_of_held_out_sentences_that_train_has(tmp_path):
    pairs = two_per_split()
    pairs["train"] = [("a", "Room 1 is free."), ("b", "Ask at the desk."), ("c", "No.")]
    pairs["validation"] = [("d", "Room 22 is free."), ("e", "It rains.")]
    pairs["test"] = [("f", "Room 3 is free."), ("f", "Yes."), ("f", "Ask at the desk.")]
    _, _, reports = run(tmp_path, jsonl(tmp_path, pairs))
    overlap = json.loads((reports / "leakage.json").read_text())["sentence_frames_in_train"]
    assert overlap == {
        "validation": {"references": 0.5, "prompts": 0.5},
        "calibration": {"references": 0.0, "prompts": 0.0},
        "test": {"references": 0.6667, "prompts": 1.0},
    }


def test_lengths_are_shares_of_each_splits_prompts_and_references(tmp_path):
    def words(count, start):
        return " ".join(f"{start}{n}" for n in range(count))

    pairs = {
        "train": [(words(4, "a"), words(5, "b")), (words(9, "c"), words(6, "d"))],
        "validation": [(words(2, "e"), words(11, "f"))],
        "calibration": [(words(12, "g"), words(3, "h"))],
        "test": [(words(5, "i"), words(1, "j")), (words(5, "i"), words(10, "k"))],
    }
    _, _, reports = run(tmp_path, jsonl(tmp_path, pairs))
    names = [f"{split}_{kind}" for split in SPLITS for kind in ("prompts", "references")]
    assert (reports / "lengths.csv").read_text().splitlines() == [
        ",".join(["words", *names]),
        "0,0.5000,0.0000,1.0000,0.0000,0.0000,1.0000,0.0000,0.5000",
        "5,0.5000,1.0000,0.0000,0.0000,0.0000,0.0000,1.0000,0.0000",
        "10,0.0000,0.0000,0.0000,1.0000,1.0000,0.0000,0.0000,0.5000",
    ]
