"""Duplicates: folding, keys and exact Jaccard similarity against a naive reference."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import StillhouseError
from stages._duplicates import (
    Match,
    exact_key,
    near_duplicate_sets,
    near_duplicates,
    normalise,
    shingles,
    slot_pairs,
)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("  The  Eagle,\nin the  CENTRE. ", "the eagle in the centre"),
        ("It’s — “good”!", "it s good"),
        ("eu-west-1 / checkout_api", "eu west 1 checkout api"),
        ("ＦＵＬＬ　width ﬁne", "full width fine"),
        ("Straße", "strasse"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
        ("£20 + 3 % at #4", "£20 + 3 % at #4"),
        ("हिन्दी", "हिन्दी"),
        ("1.8 s", "1 8 s"),
        ("?!…", ""),
    ],
)
def test_normalise_folds_case_width_punctuation_and_space(text: str, folded: str) -> None:
    assert normalise(text) == folded


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (("Hello, World", None), ("hello world!", None), True),
        (("18 s", None), ("1.8 s", None), False),
        (("?", None), ("!", None), False),
        (("", {"a": "X", "b": "y"}), ("other order", {"b": "Y.", "a": "x"}), True),
        (("same", {"a": "x"}), ("same", {"a": "y"}), False),
        (("same", {"a": "x y"}), ("same", {"a x": "y"}), False),
        (("a: x", {"a": "x"}), ("a: x", None), False),
        (("same", {}), ("same", None), True),
    ],
    ids=["text", "number", "signs", "order", "value", "border", "record-or-text", "no-slots"],
)
def test_exact_key_is_equal_for_copies_only(one, other, equal: bool) -> None:
    assert (exact_key(*one) == exact_key(*other)) is equal


def test_shingles_are_runs_of_three_words() -> None:
    assert shingles("A b, c d!") == {"a b c", "b c d"}


@pytest.mark.parametrize(("text", "expected"), [("a b", {"a b"}), ("a", {"a"}), ("?!", set())])
def test_a_short_text_is_one_shingle_and_one_without_words_none(text: str, expected) -> None:
    assert shingles(text) == expected


def test_similarity_is_shared_over_joined_shingles() -> None:
    # abcd has {abc, bcd}, abce {abc, bce}: 1 shared of 3.
    assert near_duplicates(["a b c d"], ["x y z", "a b c e"], 0.3) == [Match(0, 1, 1 / 3)]
    assert near_duplicates(["a b c d"], ["x y z", "a b c e"], 0.34) == []


def test_records_are_compared_by_pairs_whatever_their_order() -> None:
    asked = slot_pairs({"name": "Eagle", "food": "Thai", "area": "centre", "near": "Pub"})
    close = slot_pairs({"near": "pub", "area": "CENTRE", "food": "Thai", "name": "Vaults"})

    assert near_duplicate_sets([close], [asked], 0.6) == [Match(0, 0, 3 / 5)]


def test_the_threshold_itself_counts() -> None:
    assert near_duplicate_sets([frozenset("abcd")], [frozenset("abcde")], 0.8) == [Match(0, 0, 0.8)]


def test_only_the_best_match_is_given_and_of_equal_ones_the_first() -> None:
    held_out = [frozenset("ab"), frozenset("abc"), frozenset("abc")]

    assert near_duplicate_sets([frozenset("abcd")], held_out, 0.1) == [Match(0, 1, 0.75)]


@pytest.mark.parametrize(
    ("candidates", "held_out"),
    [([], ["a"]), (["a"], []), (["a"], [""]), ([""], ["a"]), ([""], [""])],
)
def test_nothing_resembles_nothing(candidates: list[str], held_out: list[str]) -> None:
    assert near_duplicates(candidates, held_out, 0.5) == []


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.01, float("nan")])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(StillhouseError, match="above 0 and at most 1"):
        near_duplicate_sets([frozenset("a")], [frozenset("a")], threshold)


def _naive(candidates, held_out, threshold: float) -> list[Match]:
    matches = []
    for index, one in enumerate(candidates):
        scored = [(len(one & b) / len(one | b), -j) for j, b in enumerate(held_out) if one & b]
        if scored and max(scored)[0] >= threshold:
            similarity, position = max(scored)
            matches.append(Match(index, -position, similarity))
    return matches


SETS = st.lists(st.frozensets(st.sampled_from("abcdefgh"), max_size=6), max_size=12)


@given(SETS, SETS, st.sampled_from([0.2, 0.25, 0.5, 0.75, 0.8, 1.0]))
def test_sparse_products_find_what_comparing_every_pair_finds(candidates, held_out, at) -> None:
    assert near_duplicate_sets(candidates, held_out, at) == _naive(candidates, held_out, at)


def test_chunks_of_one_row_give_the_same() -> None:
    held_out = [shingles(f"w{i} w{i + 1} w{i + 2} w{i + 3}") for i in range(50)]
    candidates = [pairs | {"more"} for pairs in held_out[::-1]] + held_out
    whole = near_duplicate_sets(candidates, held_out, 0.5)

    assert near_duplicate_sets(candidates, held_out, 0.5, max_cells=1) == whole
    assert [match.candidate_index for match in whole] == list(range(100))
