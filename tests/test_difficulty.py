"""The difficulty figures against values worked out by hand."""

import math

import pytest

from stages._difficulty import (
    difficulty,
    reference_agreement,
    self_bleu,
    skeleton,
    unseen_combinations,
    unseen_values,
    variety,
)


def example(references, slots=None):
    return {"prompt": "p", "references": references} | ({"slots": slots} if slots else {})


TRAIN = [
    example(["t"], {"name": "a", "food": "x"}),
    example(["t"], {"name": "b"}),
]
TEST = [
    example(["t"], {"name": "a", "food": "y"}),
    example(["t"], {"name": "c", "area": "z"}),
    example(["t"], {"name": "c"}),
]


def test_unseen_values_are_counted_by_distinct_pair_and_by_occurrence():
    # asked: name=a food=y name=c area=z name=c; new: food=y, name=c (twice), area=z
    found = unseen_values(TRAIN, TEST)
    assert found["distinct"] == 0.75  # 3 of the 4 distinct pairs
    assert found["occurrences"] == 0.8  # 4 of the 5 mentions
    assert found["by_slot"] == {"area": 1.0, "food": 1.0, "name": 0.6667}


def test_a_value_known_from_another_slot_is_still_unseen():
    train = [example(["t"], {"near": "The Eagle"})]
    assert unseen_values(train, [example(["t"], {"name": "The Eagle"})])["distinct"] == 1.0


def test_unseen_combinations_compare_sets_of_slot_names():
    # sets in test: {name, food} known, {name, area} new, {name} known
    found = unseen_combinations(TRAIN, TEST)
    assert found == {"prompts": 0.3333, "distinct": 0.3333, "distinct_combinations": 3}


def test_figures_about_slots_are_absent_without_slots():
    plain = [example(["a text"]), example(["another text"])]
    assert unseen_values(plain, plain) is None
    assert unseen_combinations(plain, plain) is None


def test_identical_references_agree_fully_and_disjoint_ones_not_at_all():
    same = [example(["one two three four five"] * 3)]
    apart = [example(["one two three four five", "six seven eight nine ten"])]
    assert reference_agreement(same)["bleu"] == 100.0
    assert reference_agreement(apart)["bleu"] < 10.0


def test_reference_agreement_is_bleu_against_the_other_reference():
    # 1-grams 4/5, 2-grams 3/4, 3-grams 2/3, 4-grams 1/2, equal lengths: no brevity penalty
    by_hand = 100 * math.prod((4 / 5, 3 / 4, 2 / 3, 1 / 2)) ** 0.25
    found = reference_agreement([example(["a b c d x", "a b c d y"])])
    assert found["bleu"] == pytest.approx(by_hand, abs=0.01)
    assert "case:lc" in found["signature"] and "tok:13a" in found["signature"]


def test_a_reference_is_never_scored_against_itself():
    lone = [example(["only one reference here"]), example(["a b c d e", "v w x y z"])]
    assert reference_agreement(lone)["bleu"] < 10.0
    assert reference_agreement(lone[:1]) is None


def test_letter_case_does_not_count():
    assert reference_agreement([example(["A B C D E", "a b c d e"])])["bleu"] == 100.0


@pytest.mark.parametrize(
    ("text", "slots", "frame"),
    [
        ("The Eagle serves food.", {"name": "The Eagle"}, "<name> serves food."),
        ("Checkout API is slow", {"service": "checkout-api"}, "<service> is slow"),
        ("from 400 ms to 1,800 ms", {}, "from # ms to # ms"),
        ("lag of 5 s, not 15 s", {"value": "15 s", "limit": "5 s"}, "lag of <limit>, not <value>"),
    ],
    ids=["name", "hyphen", "numbers", "longest-first"],
)
def test_skeleton_blanks_values_and_numbers(text, slots, frame):
    assert skeleton(text, slots) == frame


def test_variety_counts_openings_skeletons_and_words():
    rows = [
        example(["cafe A is by the river", "by the river is cafe A"], {"name": "cafe A"}),
        example(["bar B is by the river"], {"name": "bar B"}),
    ]
    found = variety(rows)
    assert found["skeletons"] == 2  # the two prompts share one frame
    assert found["distinct_skeletons"] == 0.6667
    assert found["distinct_openings"] == 1.0  # "cafe a is", "by the river", "bar b is"
    assert (found["tokens"], found["types"]) == (18, 8)
    assert found["words_mean"] == 6.0


def test_self_bleu_is_high_when_all_prompts_get_one_text_and_needs_enough_prompts():
    assert self_bleu([example(["one two three four five"])] * 30) == 100.0
    assert self_bleu([example(["one two three four five"])] * 20) is None


def test_self_bleu_leaves_the_text_itself_out():
    words = "abcdefghijklmnopqrstuvwxyz0123456789"
    apart = [example([" ".join([letter * 3] * 6)]) for letter in words]
    assert self_bleu(apart) < 5.0


def test_difficulty_of_nothing_is_no_crash():
    found = difficulty([], [])
    assert found["prompts"] == 0
    assert found["one_reference_against_rest"] is None
    assert found["self_bleu"] is None
