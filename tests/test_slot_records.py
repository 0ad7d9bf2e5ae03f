"""Records as text: read, refused with the place, written, read back."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import StillhouseError
from serving.slots import is_record, parse_record, render_record


@pytest.mark.parametrize(
    ("prompt", "slots"),
    [
        ("name[The Eagle], food[Japanese]", {"name": "The Eagle", "food": "Japanese"}),
        ("customer rating[5 out of 5]", {"customer rating": "5 out of 5"}),
        (" cause[a, b],\n near [Café]", None),
        (" cause[a, b],\n near[Café] ", {"cause": "a, b", "near": "Café"}),
        ("cause[index [2] of [a[b]], then]", {"cause": "index [2] of [a[b]], then"}),
        ("cause[日本 🚀], x[ y ]", {"cause": "日本 🚀", "x": " y "}),
        ("Why did it fail?", None),
        ("", None),
        ("name[The Eagle]. food[x]", None),
        ("name[The Eagle],", None),
        ("name[]", None),
        ("[x]", None),
        ("name[a", None),
        ("name[a]]", None),
        ("name[a], name[b]", None),
    ],
)
def test_a_prompt_is_read_as_a_record_or_refused(prompt: str, slots: dict[str, str] | None) -> None:
    assert is_record(prompt) == (slots is not None)
    if slots is not None:
        assert parse_record(prompt) == slots


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("name[a], name[b]", "slot 'name' comes twice at character 10"),
        ("name[a], food[b", "the [ of slot 'food' is never closed at character 14"),
        ("name[a] food[b]", "expected a comma or the end at character 8"),
        ("name[a], food[]", "slot 'food' is empty; leave it out at character 15"),
        ("tell me", "expected slot[value] at character 1"),
    ],
)
def test_a_refused_record_tells_where(prompt: str, told: str) -> None:
    with pytest.raises(StillhouseError, match="no record: ") as caught:
        parse_record(prompt)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_record_that_cannot_be_written_is_refused() -> None:
    for slots in ({}, {"a": ""}, {"a": "]["}, {"a[": "b"}, {"a,b": "c"}):
        with pytest.raises(StillhouseError, match="cannot write"):
            render_record(slots)


balanced = st.recursive(
    st.text(min_size=1).filter(lambda text: not set(text) & set("[]")),
    lambda inner: st.builds("{}[{}]{}".format, inner, inner, inner),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]\w{0,8}( \w{1,5})?", fullmatch=True),
        balanced.filter(str.strip),  # a blank value is no value
        min_size=1,
    )
)
def test_a_written_record_reads_back(slots: dict[str, str]) -> None:
    assert parse_record(render_record(slots)) == slots


@pytest.mark.parametrize("piece", ["a[", "[[", "]", "a[b], ", " ", "a", "a[b[c]], "])
def test_hostile_prompts_take_no_time(piece: str) -> None:
    began = time.perf_counter()

    assert not is_record(piece * 200_000)

    assert time.perf_counter() - began < 2.0
