"""The stage: errors planted into clean texts, every detector measured on them, nothing hidden."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from structure import ROOT
from toy import write_prepared

from serving.errors import StillhouseError
from stages import _io
from stages._clean_texts import CleanText, listed, one_per_prompt, read_list, text_id
from stages._detectors import Similarity, list_detectors, unlike_in_meaning, unlike_in_words
from stages._params import check_params
from stages.detectors import detectors, read_clean_texts

E2E_LIST = ROOT / "configs/clean_references/e2e_dev.json"


def params(**settings):
    settings = {"resamples": 100, **settings}
    sections = {"prepare": {"source": "jsonl", "files": {"train": {"path": "x"}}}}
    return check_params({**sections, "detectors": settings}, Path("params.yaml"))


@pytest.fixture
def paths(tmp_path):
    """Pubs; the test split has the 48 pubs of train."""
    pubs = write_prepared(tmp_path)["train"]
    _io.write_jsonl(tmp_path / "test.jsonl", pubs)
    inputs = {split: tmp_path / f"{split}.jsonl" for split in ("validation", "calibration", "test")}
    inputs["slots"] = tmp_path / "slots.json"
    outputs = {"report": tmp_path / "detectors.json", "planted": tmp_path / "planted.jsonl"}
    return inputs, outputs


def test_the_slot_check_finds_swapped_values_and_no_error_in_clean_texts(paths):
    inputs, outputs = paths
    detectors(params(), inputs, outputs)
    check = _io.read_json(outputs["report"])["detectors"]["slot_check"]
    assert check["false_alarm_rate"] == 0.0
    assert check["clean_texts"] == 48
    assert check["kinds"]["swap_value"]["auroc"] == 1.0
    assert check["kinds"]["swap_value"]["detected"] == 1.0
    assert check["kinds"]["swap_value"]["n"] == 48


def test_an_error_that_a_detector_cannot_see_leaves_it_at_chance(paths):
    inputs, outputs = paths
    detectors(params(kinds=["deny_fact"]), inputs, outputs)
    found = _io.read_json(outputs["report"])["detectors"]["grounding"]
    assert found["kinds"]["deny_fact"]["auroc"] == 0.5
    assert not found["needs_schema"]


def test_without_a_schema_the_slot_check_is_not_run_and_the_others_are(paths):
    inputs, outputs = paths
    _io.write_json(inputs["slots"], None)
    headline = detectors(params(), inputs, outputs)
    found = _io.read_json(outputs["report"])["detectors"]
    assert found["slot_check"] == {"status": "not run", "reason": "the data has no slot schema"}
    assert found["grounding"]["status"] == found["bleu"]["status"] == "run"
    assert headline["slot_check"] == {}


def test_a_kind_that_fits_no_text_is_not_run(paths):
    inputs, outputs = paths
    detectors(params(kinds=["change_digit"]), inputs, outputs)
    digit = _io.read_json(outputs["report"])["detectors"]["slot_check"]["kinds"]["change_digit"]
    assert digit["n"] == 0
    assert digit["status"] == "not run"
    assert "auroc" not in digit


def test_data_without_records_or_second_references_is_measured_where_it_can_be(paths):
    inputs, outputs = paths
    rows = [{"id": str(n), "prompt": "the pub", "references": [f"The pub was {n}."]} for n in "123"]
    for split in ("calibration", "test"):
        _io.write_jsonl(inputs[split], rows)
    _io.write_json(inputs["slots"], None)
    detectors(params(), inputs, outputs)
    report = _io.read_json(outputs["report"])
    assert report["detectors"]["bleu"]["status"] == "not run"
    assert report["kinds"]["status"] == "not run"
    kinds = report["detectors"]["grounding"]["kinds"]
    assert kinds["swap_value"]["status"] == "not run"
    assert kinds["change_digit"]["n"] == 3
    assert kinds["add_foreign_name"]["auroc"] == 1.0


@pytest.mark.parametrize("references", [{"references": []}, {}], ids=["empty", "absent"])
def test_prompts_without_a_reference_are_left_out_and_a_split_of_such_is_refused(paths, references):
    inputs, outputs = paths
    pubs = _io.read_jsonl(inputs["test"])
    bare = [{key: pub[key] for key in ("id", "prompt", "slots")} | references for pub in pubs]
    _io.write_jsonl(inputs["test"], [*pubs[:30], *bare[30:]])
    assert read_clean_texts(params(), inputs)[0]["texts"] == 30
    _io.write_jsonl(inputs["test"], bare)
    with pytest.raises(StillhouseError, match=r"test\.jsonl has no reference") as error:
        detectors(params(), inputs, outputs)
    assert "\n" not in str(error.value)
    assert not any(path.exists() for path in outputs.values())


def test_the_report_says_what_bleu_keeps_of_false_answers(paths):
    inputs, outputs = paths
    detectors(params(), inputs, outputs)
    kept = _io.read_json(outputs["report"])["kinds"]["swap_value"]
    assert kept["false_share"] == 1.0
    assert 0.3 < kept["bleu_kept_low"] <= kept["bleu_kept"] <= kept["bleu_kept_high"] < 1.0
    assert "case:lc" in kept["signature"]


def test_every_planted_text_is_there_to_be_read(paths):
    inputs, outputs = paths
    detectors(params(kinds=["swap_value"]), inputs, outputs)
    rows = _io.read_jsonl(outputs["planted"])
    assert len(rows) == 48
    assert all(row["planted"] != row["clean"] for row in rows)
    assert rows[0]["scores"]["slot_check"]["clean"] == 0.0
    assert rows[0]["scores"]["slot_check"]["planted"] >= 1.0


def test_the_same_seed_gives_the_same_files(paths):
    inputs, outputs = paths
    detectors(params(), inputs, outputs)
    first = [path.read_bytes() for path in outputs.values()]
    detectors(params(), inputs, outputs)
    assert [path.read_bytes() for path in outputs.values()] == first


def test_more_texts_than_asked_for_are_drawn_by_the_seed(paths):
    inputs, _ = paths
    source, clean = read_clean_texts(params(max_texts=20), inputs)
    assert source["texts"] == len(clean) == 20
    assert read_clean_texts(params(max_texts=20), inputs)[1] == clean


def test_one_reference_per_prompt_is_clean_and_the_others_are_what_it_is_compared_with():
    example = {"id": "1", "prompt": "p", "references": ["a", "b", "c"]}
    (clean,) = one_per_prompt([example], seed=4)
    assert sorted([clean.text, *clean.others]) == ["a", "b", "c"]


def test_a_text_without_another_reference_is_not_judged_by_bleu():
    alone = one_per_prompt([{"id": "1", "prompt": "p", "references": ["a b c d"]}], seed=1)[0]
    scored = unlike_in_words([("a b c d", alone)])
    assert str(scored[0]) == "nan"
    assert list_detectors(None, None, [alone], 0.05)["bleu"].startswith("no calibration")


class Axes:
    """An encoder of the numbers in a text: "3 4" points to (0.6, 0.8)."""

    def encode(self, texts):
        vectors = np.asarray([[float(part) for part in text.split()] for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_similarity_is_measured_where_it_is_asked_for_with_a_threshold_from_calibration():
    shared = {"id": "1", "prompt": "p", "references": ["1 0", "0 1", "3 4"]}
    clean = CleanText(shared, "1 0", ("0 1", "3 4"))
    scored = unlike_in_meaning([("0 2", clean), ("1 0", clean)], Similarity(Axes(), None))
    assert scored.tolist() == pytest.approx([0.0, 0.4])
    limited = unlike_in_meaning([("4 3", clean)], Similarity(Axes(), 1))
    assert limited.tolist() == pytest.approx([0.4])
    found = list_detectors(None, Similarity(Axes(), None), [clean], 1.0)
    assert found["semantic_similarity"].threshold == pytest.approx(0.4)
    off = list_detectors(None, None, [clean], 1.0)["semantic_similarity"]
    assert off == "detectors.similarity is false"


def test_clean_texts_can_be_a_list_of_ids(paths, tmp_path):
    inputs, outputs = paths
    example = _io.read_jsonl(inputs["validation"])[2]
    ids = [text_id(example["prompt"], text) for text in example["references"]]
    _io.write_json(tmp_path / "clean.json", {"split": "validation", "ids": ids})
    detectors(params(clean=str(tmp_path / "clean.json")), inputs, outputs)
    source = _io.read_json(outputs["report"])["clean"]
    assert (source["texts"], source["prompts"]) == (2, 1)
    assert source["data"]["sha256"] == _io.sha256_file(inputs["validation"])


def test_a_list_for_other_data_is_refused(paths, tmp_path):
    inputs, _ = paths
    _io.write_json(tmp_path / "clean.json", {"split": "test", "ids": ["0" * 16]})
    with pytest.raises(StillhouseError, match="1 of them are not in the split test"):
        read_clean_texts(params(clean=str(tmp_path / "clean.json")), inputs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing: expected a list"),
        ([], "expected an object with split and ids"),
        ({"split": "train", "ids": []}, "expected split validation, calibration or test"),
    ],
)
def test_a_file_that_is_no_list_is_refused(tmp_path, content, message):
    if content is not None:
        _io.write_json(tmp_path / "clean.json", content)
    with pytest.raises(StillhouseError, match=message):
        read_list(tmp_path / "clean.json")


def test_the_list_of_restaurant_references_holds_ids_alone():
    listing = read_list(E2E_LIST)
    assert len(set(listing["ids"])) == len(listing["ids"]) >= 200
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in listing["ids"])


@pytest.mark.slow
@pytest.mark.skipif("E2E_DIR" not in os.environ, reason="E2E_DIR names no folder with the E2E data")
def test_the_slot_check_disagrees_with_few_references_that_were_found_right():
    from serving.slots import SlotSchema, check_answer, parse_record
    from stages._params import read_yaml

    path = Path(os.environ["E2E_DIR"]) / "devset.csv"
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [(row["mr"], row["ref"]) for row in csv.DictReader(stream)]
    examples = [{"id": mr, "prompt": mr, "references": [ref]} for mr, ref in rows]
    schema = SlotSchema.from_dict(read_yaml(ROOT / "configs/schemas/e2e.yaml"))
    clean = listed(examples, E2E_LIST)
    alarms = [
        t for t in clean if check_answer(t.text, parse_record(t.example["id"]), schema).errors
    ]
    assert len(clean) == 240
    assert len(alarms) <= 4
