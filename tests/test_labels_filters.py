"""Filters: every answer is kept or turned away for a reason, and counted."""

import pytest
from label_cases import label, manifest
from toy import SCHEMA

from serving.slots import SlotSchema
from stages._labels import Filters, reason_to_reject, sort_out, write_index, write_shard

PUB = {"name": "The Mill", "food": "fish", "dogs": "yes"}
GOOD = "The Mill serves fish and dogs are welcome."


@pytest.mark.parametrize(
    ("text", "changes", "filters", "reason"),
    [
        (GOOD, {}, {}, None),
        (GOOD, {"finish_reason": "length"}, {}, "unfinished"),
        (GOOD, {"finish_reason": "content_filter"}, {}, "unfinished"),
        ("", {}, {}, "empty"),
        (" \n", {}, {}, "empty"),
        (GOOD + " \ufffd", {}, {}, "broken_text"),
        (GOOD + " \ud83d", {}, {}, "broken_text"),
        (GOOD, {}, {"max_tokens": 5}, None),
        (GOOD, {}, {"max_tokens": 4}, "too_long"),
        (GOOD, {}, {"max_chars": len(GOOD)}, None),
        (GOOD, {}, {"max_chars": len(GOOD) - 1}, "too_long"),
        ("The Mill serves fish.", {}, {}, "slot_errors"),
        ("The Mill serves fish.", {}, {"max_slot_errors": 1}, None),
        ("The Mill serves pasta.", {}, {"max_slot_errors": 1}, "slot_errors"),
        ("It is what it is.", {}, {"max_slot_errors": None}, None),
        ("the mill serves FISH, and dogs are welcome!", {}, {}, None),
    ],
)
def test_answers_are_turned_away_for_a_reason(text, changes, filters, reason):
    found = reason_to_reject(
        label(text=text, **changes), Filters(**filters), PUB, SlotSchema.from_dict(SCHEMA)
    )
    assert (found and found[0]) == reason


def test_slots_go_unchecked_without_record_or_schema():
    assert reason_to_reject(label(text="Anything."), Filters(), PUB, None) is None
    assert reason_to_reject(label(text="Anything."), Filters(), None, SlotSchema("x", {})) is None


def test_the_first_of_equal_texts_is_kept_and_every_answer_counted():
    texts = [GOOD, "Fish.", GOOD.upper().replace(" AND", ", and"), f"Well. {GOOD}"]
    labels = [label(text=text, rank=rank) for rank, text in enumerate(texts)]
    kept, rejected = sort_out(labels, Filters(), PUB, SlotSchema.from_dict(SCHEMA))
    assert [one.rank for one in kept] == [0, 3]
    assert [(one.rank, one.reason) for one in rejected] == [(1, "slot_errors"), (2, "duplicate")]
    assert rejected[0].detail == "missing name[The Mill]; missing dogs[yes]"
    assert (rejected[0].text, rejected[0].tokens) == ("Fish.", 5)


def test_a_text_that_was_rejected_makes_no_duplicate_and_equal_texts_may_stay():
    labels = [label(text=GOOD, finish_reason="length"), label(text=GOOD), label(text=GOOD)]
    assert len(sort_out(labels, Filters())[0]) == 1
    assert len(sort_out(labels, Filters(distinct=False))[0]) == 2


def test_half_a_character_does_not_stop_the_store(tmp_path):
    plan = manifest(example_count=1)
    kept, rejected = sort_out([label(text="x \ud83d")], Filters())
    write_shard(tmp_path, plan, 0, kept, rejected)
    assert write_index(tmp_path, plan).totals["rejected_by_reason"] == {"broken_text": 1}
