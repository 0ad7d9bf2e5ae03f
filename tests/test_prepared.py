"""Rows become examples: references together, no prompt on two sides, every row counted."""

from collections import Counter
from pathlib import Path

import pytest

from serving.slots import SlotSchema
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

ROOT = Path(__file__).parents[1]
SPLITS = ("train", "validation", "calibration", "test")


def row(prompt, reference="An answer.", split=None, line=1):
    return Row("f", line, split, prompt, reference, None, None, None)


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
