"""Where a text has a record's values, and what becomes of it when they are replaced."""

import pytest

from serving.slots import render_record
from stages._value_noise import copied_values, replace_values


def example(reference, **slots):
    return {"prompt": render_record(slots), "slots": slots, "references": [reference]}


def replaced(reference, slots, new):
    found = replace_values(example(reference, **slots), reference, new)
    return found and (found[0]["prompt"], found[1])


@pytest.mark.parametrize(
    "text",
    [
        "checkout-api failed.",
        "Checkout-api failed.",
        "CHECKOUT-API failed.",
        "(checkout-api), then checkout-api's cache: “checkout-api”.",
        "checkout-api - slow; checkout-api: slow. checkout-api/orders-db",
    ],
)
def test_a_value_is_found_beside_punctuation_and_in_plain_spellings(text):
    assert copied_values({"service": "checkout-api"}, text) == ["checkout-api"]
    (prompt, made) = replaced(text, {"service": "checkout-api"}, {"checkout-api": "fish-pie"})
    assert prompt == "service[fish-pie]"
    for spell in (str.lower, str.capitalize, str.upper):
        text = text.replace(spell("checkout-api"), spell("fish-pie"))
    assert made == text


@pytest.mark.parametrize(
    "text",
    [
        "checkout-api-v2 failed.",
        "checkout-api is old, checkout-api-v2 is new.",
        "pre-checkout-api failed.",
        "Checkout-API failed.",
        "checkout-apis failed.",
        "checkout api failed.",
        "checkout-api.5 failed.",
    ],
)
def test_a_value_inside_another_word_or_oddly_spelled_stays(text):
    assert copied_values({"service": "checkout-api"}, text) == []


def test_quantities_have_no_words_to_replace():
    slots = {"value": "1.8 s", "limit": "<5 ms", "loss": "-3 points", "price": "£20", "size": "XL"}
    text = "1.8 s, <5 ms, -3 points, £20 and XL"
    assert copied_values(slots, text) == ["XL"]


def test_a_new_value_is_not_taken_for_an_old_one():
    slots = {"service": "order-gateway", "metric": "throughput"}
    new = {"order-gateway": "throughput-price", "throughput": "wallet"}
    made = replaced("Throughput on order-gateway fell.", slots, new)
    assert made == ("service[throughput-price], metric[wallet]", "Wallet on throughput-price fell.")


def test_a_value_inside_a_longer_one_belongs_to_it():
    slots = {"service": "orders-db", "cause": "orders-db upgrade"}
    text = "orders-db failed after an orders-db upgrade."
    assert copied_values(slots, text) == ["orders-db", "orders-db upgrade"]
    assert replaced(text, slots, {"orders-db": "fish"}) == (
        "service[fish], cause[orders-db upgrade]",
        "fish failed after an orders-db upgrade.",
    )
    alone = "An orders-db upgrade failed."
    assert copied_values(slots, alone) == ["orders-db upgrade"]
    assert replaced(alone, slots, {"orders-db upgrade": "old pie"}) is None


def test_a_value_of_two_slots_stays():
    assert copied_values({"service": "billing", "cause": "Billing"}, "billing") == []
    assert copied_values({"service": "billing", "cause": "disk"}, "billing") == ["billing"]


def test_the_prompts_own_spelling_stays():
    one = {"prompt": "eatType[pub],  Type[pie]", "slots": {"eatType": "pub", "Type": "pie"}}
    made, text = replace_values(one, "A pie in a pub.", {"pie": "fish", "pub": "bar"})
    assert (made["prompt"], text) == ("eatType[bar],  Type[fish]", "A fish in a bar.")
    nested = {"note": "see Type[pie]", "Type": "pie"}
    assert replaced("A pie.", nested, {"pie": "fish"}) is None


def test_a_name_keeps_the_small_letter_it_has_inside_a_sentence():
    made = replaced("Meet at the Eagle.", {"name": "The Eagle"}, {"The Eagle": "The Fox"})
    assert made == ("name[The Fox]", "Meet at the Fox.")
