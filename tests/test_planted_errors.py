"""Planted errors: each kind changes the meaning of a clean text, by rules no detector reads."""

import ast
from random import Random
from typing import get_args

import pytest
from structure import ROOT

from stages._params.detectors import Detectors
from stages._planted_errors import KINDS, Clean, Kind, plant, pool_values
from stages._planted_errors.dropping import drop_slot
from stages._planted_errors.numbers import change_digit
from stages._planted_errors.polarity import deny_fact, flip_negation
from stages._planted_errors.strangers import NAMES, add_foreign_name
from stages._planted_errors.values import mend_article, swap_value

PUB = {"name": "The Eagle", "food": "Italian", "priceRange": "high", "near": "Burger King"}
PUB_TEXT = "The Eagle serves Italian food near Burger King. Its price range is high."


def swaps(text, record, pools, draws=40):
    return {swap_value(text, record, pools, Random(draw)) for draw in range(draws)}


def test_a_swapped_value_is_another_records_value_of_the_same_slot():
    pools = {"food": ["English", "Italian"], "near": ["Avalon", "Burger King"]}
    assert swaps(PUB_TEXT, PUB, pools) == {
        "The Eagle serves English food near Burger King. Its price range is high.",
        "The Eagle serves Italian food near Avalon. Its price range is high.",
    }


def test_a_value_goes_wherever_the_text_says_it():
    text = "At Zizzi you eat well; Zizzi is cheap."
    assert swaps(text, {"name": "Zizzi"}, {"name": ["Aromi"]}) == {
        "At Aromi you eat well; Aromi is cheap."
    }


def test_values_that_mean_the_same_are_never_swapped():
    pools = {"price": ["less than £20", "cheap"], "rating": ["5 out of 5", "high"]}
    record = {"price": "less than £20", "rating": "5 out of 5"}
    text = "It costs less than £20 and is rated 5 out of 5."
    assert swaps(text, record, pools) == {None}


def test_a_level_is_swapped_only_where_its_slot_is_named():
    pools = {"priceRange": ["cheap"], "customer rating": ["1 out of 5"]}
    record = {"priceRange": "more than £30", "customer rating": "high"}
    assert swaps("It has a high price range.", record, pools) == {None}
    assert swaps("It has a high customer rating.", record, pools) == {
        "It has a 1 out of 5 customer rating."
    }


def test_a_quantity_is_swapped_for_one_of_the_same_unit_and_another_amount():
    pools = {"value": ["4.2 %", "3 s", "4.2 min", "7 %"]}
    assert swaps("It rose to 4.2%.", {"value": "4.2 %"}, pools) == {"It rose to 7 %."}


def test_an_empty_value_is_found_nowhere():
    assert swaps("It is cheap.", {"area": "", "near": " "}, {"area": ["x"], "near": ["y"]}) == {
        None
    }


def test_a_value_inside_another_slots_value_is_left_alone():
    record = {"food": "Indian", "near": "Raja Indian Cuisine"}
    text = "It is near Raja Indian Cuisine."
    assert swaps(text, record, {"food": ["French"]}) == {None}


@pytest.mark.parametrize(
    ("text", "record", "expected"),
    [
        ("It is pricy. Zizzi lies in Leeds.", {"area": "Leeds"}, "It is pricy."),
        ("Zizzi, near Avalon, is cheap.", {"near": "Avalon"}, "Zizzi, is cheap."),
        ("Zizzi near Avalon is cheap.", {"near": "Avalon"}, "Zizzi is cheap."),
        ("Zizzi is an Italian pub.", {"food": "Italian"}, "Zizzi is a pub."),
        ("api (limit 5 s) is slow.", {"limit": "5 s"}, "api is slow."),
        ("Zizzi is Italian.", {"food": "Italian"}, None),
    ],
)
def test_what_a_text_says_of_one_slot_is_dropped(text, record, expected):
    assert drop_slot(text, record, Random(0)) == expected


def test_dropping_one_slot_leaves_the_others_in():
    record = {"near": "Burger King", "area": "riverside"}
    text = "Zizzi, near Burger King in the riverside area, is cheap."
    left = {drop_slot(text, record, Random(draw)) for draw in range(20)}
    assert left == {
        "Zizzi, near Burger King, is cheap.",
        "Zizzi, in the riverside area, is cheap.",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is not family-friendly.", "It is family-friendly."),
        ("It does not welcome children.", "It does welcome children."),
        ("It is a non-family-friendly pub.", "It is a family-friendly pub."),
        ("It is a family friendly pub.", "It is not a family friendly pub."),
        ("A kid friendly pub.", "A non kid friendly pub."),
        ("Children are welcome.", None),  # by its small letter alone: "Children" opens it
        ("No data was lost.", "Some data was lost."),
        ("Some data was lost.", "No data was lost."),
        ("It caused no data loss.", "It caused data loss."),
        ("There is no workaround.", "There is a workaround."),
        ("A workaround is available.", "No workaround is available."),
        ("Look no further than Zizzi.", None),
        ("It is not cheap and not family-friendly.", None),
        ("It is cheap.", None),
    ],
)
def test_a_yes_becomes_a_no_and_a_no_a_yes(text, expected):
    assert flip_negation(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The disk was full.", "The disk was not full."),
        ("It has been resolved.", "It has not been resolved."),
        ("If you are hungry, eat.", None),
        ("It is not cheap.", None),
        ("No workaround is available.", None),
        ("Zizzi serves fish.", None),
    ],
)
def test_a_stated_fact_is_denied(text, expected):
    assert deny_fact(text, Random(0)) == expected


def test_one_digit_of_one_number_changes():
    text = "It took 15 min at 9.5 %."
    found = {change_digit(text, Random(draw)) for draw in range(300)}
    changes = {new: sum(a != b for a, b in zip(new, text, strict=True)) for new in found}
    assert set(changes.values()) == {1}
    assert len(found) == 8 + 9 + 8 + 9  # no first digit becomes 0


@pytest.mark.parametrize("text", ["p99 latency in eu-west-1", "no number at all", "v2.3b"])
def test_digits_of_names_are_no_numbers(text):
    assert change_digit(text, Random(0)) is None


def test_of_a_time_only_minutes_change():
    found = {change_digit("At 13:15 UTC.", Random(draw)) for draw in range(100)}
    assert found == {f"At 13:1{digit} UTC." for digit in "012346789"}


def test_a_foreign_name_is_one_that_prompt_and_text_lack():
    text = "Zizzi is cheap."
    for draw in range(50):
        changed = add_foreign_name(text, "near[Fenwick Mews]", Random(draw))
        (name,) = [name for name in NAMES if name in changed]
        assert name != "Fenwick Mews"
        assert changed.startswith("Zizzi is cheap, ")


def test_articles_follow_the_word_behind_them():
    assert mend_article("a Italian pub", 2) == "an Italian pub"
    assert mend_article("An pub", 3) == "A pub"
    assert mend_article("an one star pub", 3) == "a one star pub"


def planted(seed, texts):
    records = [text.record for text in texts]
    return plant(texts, KINDS, pool_values(records), seed)


def test_planting_depends_on_the_seed_and_the_text_alone():
    texts = [Clean(f"{n}", "", PUB_TEXT, PUB | {"food": food}) for n, food in enumerate("ab")]
    one = {(error.kind, texts[error.clean].id, error.text) for error in planted(1, texts)}
    turned = texts[::-1]
    again = {(error.kind, turned[error.clean].id, error.text) for error in planted(1, turned)}
    assert one == again
    assert one != {(e.kind, texts[e.clean].id, e.text) for e in planted(2, texts)}


def test_no_planted_text_is_the_clean_one():
    texts = [Clean("0", "", PUB_TEXT, PUB), Clean("1", "", "Nothing to change here", {})]
    errors = planted(3, texts)
    assert {error.kind for error in errors} == {
        "drop_slot",
        "deny_fact",
        "add_foreign_name",
    }
    assert all(error.text != texts[error.clean].text for error in errors)


def test_planting_reads_no_detector_and_no_schema():
    files = sorted((ROOT / "stages/_planted_errors").glob("*.py"))
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names.add(node.module)
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            assert not (isinstance(node, ast.Name) and node.id == "open")
    own = {name for name in names if name.split(".")[0] in ("serving", "stages", "yaml", "pathlib")}
    assert len(files) == 6
    assert own and all(name.startswith("stages._planted_errors") for name in own)


def test_every_kind_can_be_asked_for():
    assert Detectors().kinds == KINDS == get_args(Kind)
