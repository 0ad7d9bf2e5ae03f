"""Rows as columns, values worked out by hand: what is known, what is new, what is left out."""

import random

import numpy as np
import pytest
from drift_cases import STUDENT, live_row, pubs
from toy import SCHEMA

from serving._cascade.route import Price, Route, Rung
from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages._drift.evidence import changed_values, violations
from stages._drift.features import NEW_VALUE, NEW_WORDS, distinct_places, kind_of, tabulate
from stages._drift.planting import shift_rows
from stages._drift.reference import cascade_rows, winner_rows
from stages._drift.vectors import Encoder, choose_texts
from stages._drift.vocabulary import learn, unseen_share, value_form, words
from stages._kept_vectors import encode_texts

PARSED = SlotSchema.from_dict(SCHEMA)
TRAIN = [
    {
        "prompt": "name[The Mill], food[fish], dogs[yes]",
        "slots": {"name": "The Mill", "food": "fish", "dogs": "yes"},
        "references": ["The Mill serves fish and dogs are welcome."],
    }
]
KNOWN = learn(TRAIN, PARSED)


def row(prompt="name[The Mill], food[fish], dogs[yes]", **slots):
    found = slots or {"name": "The Mill", "food": "fish", "dogs": "yes"}
    asked = {"id": "1", "prompt": prompt, "slots": found, "prompt_chars": len(prompt)}
    return asked | {"answer": "The Mill serves pies", "answer_chars": 20, "model_sha256": STUDENT}


def test_numbers_are_one_word():
    assert words("p95 rose from 9.4 to 1,200 ms") == ["p0", "rose", "from", "0", "to", "0", "ms"]


def test_amounts_are_compared_by_their_units():
    assert value_form("9.4  s", listed=False) == "# s"
    assert value_form("18:41 UTC", listed=False) == "# utc"
    assert value_form("502 responses", listed=True) == "502 responses"
    assert value_form("eu-west-1", listed=False) == "eu-west-1"


def test_a_choice_keeps_its_number():
    schema = {"name": "s", "slots": {"error": {"kind": "choice", "values": {"502": ["502"]}}}}
    known = learn([{"prompt": "", "slots": {"error": "502"}}], SlotSchema.from_dict(schema))
    assert known.knows("error", "502")
    assert not known.knows("error", "503")


def test_the_share_of_unseen_words_is_of_all_words():
    assert unseen_share("the mill was closed", frozenset({"the", "mill"})) == 0.5
    assert unseen_share("…", frozenset()) is None


def test_columns_hold_what_can_be_worked_out_by_hand():
    changed = row("food[sushi], name[The Mill]", food="sushi", name="The Mill")
    table = tabulate([row(), changed], KNOWN, None)
    assert table.numbers["prompt_unseen_words"].tolist() == [0.0, 0.2]  # sushi, of five
    assert table.numbers["slots_not_in_training"].tolist() == [0.0, 0.5]
    assert table.numbers["slot_order_not_in_training"].tolist() == [0.0, 1.0]
    assert table.numbers["slot_count"].tolist() == [3.0, 2.0]
    assert table.numbers["answer_unseen_words"].tolist() == [0.25, 0.25]  # pies
    assert table.numbers["answer_to_prompt_chars"].tolist() == [20 / 37, 20 / 27]
    assert table.shares["values_outside_schema"].tolist() == [0.0, 1.0]
    assert table.categories["slot_values.food"] == [("fish",), (NEW_WORDS,)]
    assert table.categories["slot_values.dogs"] == [("yes",), None]


def test_a_new_value_of_known_words_is_told_from_one_with_new_words():
    values = ["The Mill", "Mill, The", "The Crown"]
    table = tabulate([row(name=value) for value in values], learn(TRAIN, None), None)
    assert table.categories["slot_values.name"] == [("the mill",), (NEW_WORDS,), (NEW_WORDS,)]
    known = learn([*TRAIN, {"prompt": "", "slots": {"name": "Green, Crown"}}], None)
    found = tabulate([row(name=value) for value in values], known, None)
    assert found.categories["slot_values.name"] == [("the mill",), (NEW_VALUE,), (NEW_VALUE,)]


def test_slots_sorted_by_the_service_are_in_no_order_of_their_own():
    kept = row() | {"slots": {"dogs": "yes", "food": "fish", "name": "The Mill"}}
    assert tabulate([kept], KNOWN, None).numbers["slot_order_not_in_training"].tolist() == [0.0]


def test_what_is_not_known_is_a_gap():
    bare = {"id": "1", "prompt_chars": 30, "slot_errors": None, "mean_logprob": -np.inf}
    table = tabulate([bare], KNOWN, None)
    assert table.numbers["prompt_chars"].tolist() == [30.0]
    empty = [name for name, column in table.numbers.items() if np.isnan(column[0])]
    assert set(empty) == set(table.numbers) - {"prompt_chars"}
    assert all(np.isnan(column[0]) for column in table.shares.values())
    assert table.categories["slot_names"] == [None]


def test_slot_names_are_known_without_texts():
    bare = {"id": "1", "slot_names": ["food", "name"]}
    table = tabulate([bare], KNOWN, None)
    assert table.categories["slot_names"] == [("food", "name")]
    assert table.numbers["slot_count"].tolist() == [2.0]


def test_answers_of_other_models_have_no_output_and_no_quality():
    checked = row() | {"slot_errors": 1, "rung": "student"}
    table = tabulate([checked], KNOWN, frozenset({"another"}))
    assert table.numbers["slot_count"].tolist() == [3.0]
    others = [name for name in (*table.numbers, *table.shares) if kind_of(name) != "input"]
    columns = table.numbers | table.shares
    assert len(others) == 9
    assert all(np.isnan(columns[name][0]) for name in others)
    assert table.categories["rung"] == [None]


def test_repeats_are_counted_once_and_rows_without_text_each():
    rows = [row(), {"id": "2"}, row(), {"id": "3"}, row() | {"context": "more"}]
    assert distinct_places(tabulate(rows, KNOWN, None)) == [0, 1, 3, 4]


def test_a_table_gives_rows_in_the_order_asked():
    table = tabulate([row(), {"id": "2"}], KNOWN, None).take([1, 0])
    assert [one["id"] for one in table.rows] == ["2", "1"]
    assert table.texts == ["", row()["prompt"]]
    assert table.categories["slot_values.food"] == [None, ("fish",)]


def test_new_values_are_counted_by_slot_the_grown_one_first():
    before = [row(), row(food="pasta", name="The Mill")]
    after = [row(food="sushi", name="The Mill"), row(food="sushi", name="The Mill")]
    first, *others = changed_values(before, after, KNOWN)
    assert (first["slot"], first["new_values"]) == ("food", [["sushi", 2]])
    assert first["not_in_training"] == {"reference": 0.5, "current": 1.0}
    assert first["with_new_words"] == {"reference": 0.5, "current": 1.0}
    dogs = next(one for one in others if one["slot"] == "dogs")
    assert dogs["asked"] == {"reference": 0.5, "current": 0.0}
    assert dogs["not_in_training"]["current"] is None


def test_what_the_schema_does_not_allow_is_counted():
    found = violations([row(food="sushi", price="high"), row(food="sushi")], KNOWN)
    assert found["unknown_slots"] == [["price", 1]]
    assert found["values_not_listed"] == [["food: sushi", 2]]
    assert violations([row(food="sushi")], learn(TRAIN, None))["values_not_listed"] == []


def test_personal_data_is_masked_in_what_is_shown():
    found = changed_values([], [row(name="jane.doe@example.org")], KNOWN)
    values = next(one["new_values"] for one in found if one["slot"] == "name")
    assert "jane.doe" not in str(values)


def test_a_shift_changes_every_record_and_its_answer():
    rows = [live_row(pub, number) for number, pub in enumerate(pubs(60, "shift"))]
    shifted = shift_rows(rows, np.random.default_rng(0))
    for old, new in zip(rows, shifted, strict=True):
        assert new["prompt"] != old["prompt"]
        assert list(new["slots"]) == ["name", "food", "dogs"]  # in the order of the prompt
        assert new["slots"]["name"] in new["answer"]
        assert new["prompt_chars"] == len(new["prompt"])
        assert new["mean_logprob"] == old["mean_logprob"]


def test_a_shift_of_plain_text_makes_up_words():
    rows = [{"id": str(n), "prompt": f"please tell where number {n} stands"} for n in range(40)]
    shifted = shift_rows([*rows, {"id": "hidden"}], np.random.default_rng(0))
    said = {word for one in shifted[:-1] for word in one["prompt"].split() if word.isalpha()}
    assert {"esaelp", "llet"} & said
    assert shifted[-1] == {"id": "hidden"}


def test_the_first_rung_that_is_sure_answers():
    pub = pubs(1, "one")[0]
    answers = {
        "baseline": {pub["id"]: {"text": "B", "confidence": 0.7}},
        "student": {pub["id"]: {"text": "S", "mean_logprob": -0.1, "min_logprob": -0.5}},
    }

    def rung_at(threshold):
        rungs = (
            Rung("baseline", "local", threshold, "confidence", "b" * 64),
            Rung("student", "local", -0.4, "min_logprob", "5" * 64),
        )
        route = Route(rungs, "answer", 0.1, 0.05, "slots", {"student": Price()}, "")
        return cascade_rows([pub], answers, route, PARSED)[0]

    assert (rung_at(0.6)["rung"], rung_at(0.6)["answer"]) == ("baseline", "B")
    assert rung_at(0.8)["rung"] == "student"  # nobody is sure: the last one answers


def test_the_reference_is_checked_as_the_service_checks():
    pub = pubs(1, "one")[0]
    good = {"text": pub["references"][0], "mean_logprob": -0.1}
    bad = {"text": pub["references"][0].replace(pub["slots"]["food"], "99 things")}
    found = [winner_rows([pub], {pub["id"]: one}, STUDENT, PARSED)[0] for one in (good, bad)]
    assert [one["slots_asked"] for one in found] == [3, 3]
    assert found[0]["slot_errors"] == 0
    assert found[1]["slot_errors"] >= 1
    assert found[1]["ungrounded"] == 1  # the number
    assert found[1]["mean_logprob"] is None
    with pytest.raises(StillhouseError, match="no answer to the calibration prompt"):
        winner_rows([pub], {}, STUDENT, PARSED)


def test_vectors_of_the_reference_are_made_once(tmp_path):
    asked = []

    def encode(texts):
        asked.append(list(texts))
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)

    first = encode_texts(["bb", "a", "bb"], encode, tmp_path, "model")
    again = encode_texts(["a", "bb"], encode, tmp_path, "model")
    assert asked == [["a", "bb"]]
    assert again["bb"].tolist() == first["bb"].tolist() == [2.0, 1.0]
    encode_texts(["a", "bb"], encode, tmp_path, "another model")
    encode_texts(["a"], encode, None, "model")
    assert len(asked) == 3
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_file_of_vectors_is_made_again(tmp_path):
    def encode(texts):
        return np.ones((len(texts), 2), dtype=np.float32)

    encode_texts(["a"], encode, tmp_path, "model")
    next(tmp_path.iterdir()).write_bytes(b"\x93NUMPY torn")
    assert encode_texts(["a"], encode, tmp_path, "model")["a"].tolist() == [1.0, 1.0]


def test_a_folder_that_is_no_embedder_is_refused(tmp_path):
    with pytest.raises(StillhouseError, match=r"no contract\.json"):
        Encoder(tmp_path)


def test_encoded_texts_are_different_and_not_empty():
    texts = [f"text {number}" for number in range(30)] * 2 + ["", " "]
    chosen = choose_texts(texts, 10, np.random.default_rng(0))
    assert len(set(chosen)) == len(chosen) == 10
    assert sorted(chosen, key=texts.index) == chosen
    random.Random(0).shuffle(texts)
    assert len(choose_texts(texts, 100, np.random.default_rng(0))) == 30
