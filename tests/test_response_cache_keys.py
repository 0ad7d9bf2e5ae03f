"""Keys of the response cache: every difference counts, and no two requests share one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving._responses.keys import cacheable, response_key
from serving._responses.values import pack, unpack

REQUEST = {
    "models": "a" * 64,
    "template": "{prompt}",
    "decoding": {"max_new_tokens": 64, "method": "greedy"},
    "tenant": "acme",
    "prompt": "name[Blue Spice]",
    "context": "text",
    "slots": {"name": "Blue Spice"},
    "answers": 1,
}
TEXTS = st.text(st.characters(exclude_categories=[]), max_size=6)  # lone surrogates, too
REQUESTS = st.fixed_dictionaries(
    {
        "models": TEXTS,
        "template": TEXTS,
        "decoding": st.dictionaries(TEXTS, st.integers(0, 2) | st.booleans() | TEXTS, max_size=2),
        "tenant": TEXTS,
        "prompt": TEXTS,
        "context": st.none() | TEXTS,
        "slots": st.none() | st.dictionaries(TEXTS, TEXTS, max_size=2),
    }
)


def test_a_key_is_the_same_in_every_process_and_release():
    assert response_key(**REQUEST) == (
        "b75620ffdd9096e34efbd819a2d7343902264fe91afcee5ef09a2d52d199a983"
    )


@pytest.mark.parametrize("name", REQUEST)
def test_every_part_of_a_request_changes_its_key(name):
    other = {"decoding": {"method": "greedy"}, "slots": {}, "answers": 2}.get(name, "other")
    assert response_key(**REQUEST | {name: other}) != response_key(**REQUEST)


@given(REQUESTS, REQUESTS)
def test_different_requests_never_have_one_key(one, other):
    forms = [json.dumps(it, sort_keys=True, ensure_ascii=False) for it in (one, other)]
    assert (response_key(**one) == response_key(**other)) == (forms[0] == forms[1])


@given(st.lists(TEXTS, min_size=2, max_size=2), st.integers(0, 6))
def test_a_text_cut_elsewhere_between_two_parts_has_another_key(parts, cut):
    one = REQUEST | {"tenant": parts[0], "prompt": parts[1]}
    whole = parts[0] + parts[1]
    other = REQUEST | {"tenant": whole[:cut], "prompt": whole[cut:]}
    same = one["tenant"] == other["tenant"]
    assert (response_key(**one) == response_key(**other)) == same


def test_a_pair_of_surrogates_is_not_the_character_that_it_stands_for():
    pair, character = ({**REQUEST, "prompt": text} for text in ("\ud83d\ude00", "\U0001f600"))
    assert response_key(**pair) != response_key(**character)


def test_order_of_settings_does_not_change_a_key_and_types_do():
    def of(decoding):
        return response_key(**REQUEST | {"decoding": decoding})

    assert of({"a": 1, "b": [1]}) == of({"b": [1], "a": 1})
    assert len({of({"a": value}) for value in (1, "1", 1.0, True, None, [1], {})}) == 7


@pytest.mark.parametrize("value", [{1: 2}, {"a": float("nan")}, {"a": {1, 2}}, {"a": {2: 3}}])
def test_a_setting_without_one_form_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        response_key(**REQUEST | {"decoding": value})


def test_a_sample_without_a_seed_is_not_cached():
    assert cacheable({}) and cacheable({"method": "beam", "beams": 4})
    assert cacheable({"method": "sample", "seed": 0})
    assert not cacheable({"method": "sample"}) and not cacheable({"method": "sample", "seed": None})


@given(st.text("abc-9", min_size=1), st.binary(), st.floats(0, 1e10), st.floats(1, 1e6))
def test_a_value_comes_back_as_it_was_packed(key, payload, created, ttl_s):
    assert unpack(key, pack(key, payload, created, ttl_s)) == (payload, created, ttl_s)


@given(st.binary(max_size=20), st.data())
def test_a_value_with_any_changed_or_missing_byte_is_none(payload, data):
    value = pack("key", payload, 1.0, 2.0)
    place = data.draw(st.integers(0, len(value) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = value[:place] + bytes([value[place] ^ flip]) + value[place + 1 :]
    assert unpack("key", changed) is None
    assert unpack("key", value[:place]) is None
    assert unpack("key", value + payload + b"x") is None


@given(st.binary(max_size=100))
def test_foreign_bytes_are_no_value(value):
    assert unpack("key", value) is None


def test_a_value_under_another_name_is_none():
    assert unpack("other", pack("key", b"payload", 1.0, 2.0)) is None
