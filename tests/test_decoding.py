"""Decoding settings are checked whole, batches keep to their budget, slots choose an answer."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving._decoding import Decoding, cut_batches
from serving.errors import StillhouseError


@given(
    st.lists(st.integers(0, 40), max_size=30),
    st.integers(1, 120),
    st.integers(0, 10),
)
def test_batches_keep_to_the_budget_and_lose_nothing(lengths, budget, extra):
    batches = cut_batches(lengths, budget, extra)
    flat = [index for batch in batches for index in batch]
    assert flat == sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    for batch in batches:
        cost = (max(lengths[i] for i in batch) + extra) * len(batch)
        assert batch and (cost <= budget or len(batch) == 1)
    for left, right in pairwise(batches):
        assert (lengths[right[0]] + extra) * (len(left) + 1) > budget, "one more would have fitted"


@pytest.mark.parametrize(
    ("decoding", "said"),
    [
        ({}, ["max_new_tokens is missing"]),
        (
            {"max_new_tokens": 0, "top_p": 2, "topk": 5, "method": "magic"},
            ["'topk' is unknown", "max_new_tokens must", "top_p must", "method must"],
        ),
        ({"max_new_tokens": True}, ["max_new_tokens must"]),
        ({"max_new_tokens": 5, "temperature": float("nan")}, ["temperature must"]),
        ({"max_new_tokens": 5, "method": ["beam"]}, ["method must"]),
        ({"max_new_tokens": 5, "beams": 3}, ["greedy does not go with beams 3"]),
        ({"max_new_tokens": 5, "method": "beam", "beams": 2, "answers": 3}, ["no 3 answers"]),
    ],
    ids=["missing", "all-at-once", "bool", "nan", "unhashable", "beams", "n-best"],
)
def test_wrong_decoding_settings_are_told_together(decoding, said):
    with pytest.raises(StillhouseError) as caught:
        Decoding.from_dict(decoding)
    assert all(part in str(caught.value) for part in said)
    assert "\n" not in str(caught.value)
