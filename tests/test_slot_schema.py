"""Slot schemas: round trip, all mistakes at once, and the expressions they may use."""

import copy
import re
import time
from typing import Any

import pytest

from serving._slots.paths import PatternError
from serving._slots.patterns import read_pattern
from serving.errors import StillhouseError
from serving.slots import SlotSchema, check_answer
from tests.slot_schemas import INCIDENTS, TIME_UNITS
from tests.structure import ROOT, read_yaml

SCHEMA_FILES = sorted((ROOT / "configs/schemas").glob("*.yaml"))


def with_pattern(pattern: str) -> SlotSchema:
    return SlotSchema.from_dict({"name": "x", "slots": {"s": {"kind": "name", "pattern": pattern}}})


def test_a_schema_is_given_back_as_it_came() -> None:
    data = copy.deepcopy(INCIDENTS)
    schema = SlotSchema.from_dict(data)
    data["slots"].clear()

    assert schema.to_dict() == INCIDENTS
    schema.to_dict()["slots"].clear()
    assert schema.to_dict() == INCIDENTS


@pytest.mark.parametrize("path", SCHEMA_FILES, ids=[p.stem for p in SCHEMA_FILES])
def test_the_schemas_of_the_project_are_right(path: Any) -> None:
    data = read_yaml(path)

    assert SlotSchema.from_dict(data).to_dict() == data
    assert data["name"] == path.stem


def test_the_project_has_schemas() -> None:
    assert {"e2e"} <= {path.stem for path in SCHEMA_FILES}


# where to put what, what the error tells
MISTAKES: list[tuple[tuple[str, ...], Any, str]] = [
    (("slot",), {}, "the schema: unknown key 'slot' (did you mean 'slots'?)"),
    (("name",), "", "key 'name': expected text"),
    (("negation",), "not", "key 'negation': expected a list of texts"),
    (("words",), {"Rate": "x"}, "key 'words', word 'Rate': expected a name of small letters"),
    (("words",), {"rate": "(x"}, "key 'words', word 'rate': '(x' has a ( that is never closed"),
    (("slots",), {}, "key 'slots': expected at least one slot"),
    (("slots", "number"), {"kind": "name"}, "slot 'number': expected a name without brackets"),
    (("slots", "cause"), "name", "slot 'cause': expected a mapping, found str 'name'"),
    (("slots", "cause", "kind"), "names", "found 'names' (did you mean 'name'?)"),
    (("slots", "cause", "knwon"), [], "slot 'cause': unknown key 'knwon' (did you mean 'known'?)"),
    (("slots", "cause", "known"), "x", "slot 'cause', key 'known': expected a list of texts"),
    (("slots", "cause", "pattern"), "{rate}s", "uses {rate}, which is not among the words"),
    (("slots", "cause", "pattern"), "x?", "'x?' can match nothing at all"),
    (("slots", "region", "values"), {"a": "b"}, "expected a mapping of value to a list"),
    (("slots", "region", "values"), {"a": ["("]}, "'(' has a ( that is never closed"),
    (("slots", "region", "values"), {1: ["b"]}, "(write yes, no and numbers in quotes)"),
    (("slots", "severity", "same"), [["hihg"]], "'hihg' is not among the values (did you mean"),
    (("slots", "severity", "hints"), {"x": ["y"]}, "key 'hints': 'x' is not among the values"),
    (("slots", "data_loss", "affirm"), True, "key 'affirm': expected text, found bool 'True'"),
    (("slots", "data_loss", "affirm"), "no", "affirm and refuse are both 'no'"),
    (("slots", "value", "units"), {}, "slot 'value', key 'units': expected at least one unit"),
    (("slots", "value", "units"), {"s": {}}, "unit 's', key 'factor': is missing"),
    (("slots", "value", "units"), {"s": {"factor": 0}}, "expected more than 0, found 0"),
    (("slots", "value", "tolerance"), "1", "key 'tolerance': expected a number"),
    (("slots", "value", "values"), {"30 mn": ["x"]}, "'30 mn' is no number with one of the units"),
]


@pytest.mark.parametrize(("place", "entry", "told"), MISTAKES, ids=[m[2] for m in MISTAKES])
def test_a_mistake_is_told_by_slot_and_key(place: tuple[str, ...], entry: Any, told: str) -> None:
    data = copy.deepcopy(INCIDENTS)
    target = data
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = entry

    with pytest.raises(StillhouseError, match=re.escape(told)) as caught:
        SlotSchema.from_dict(data)
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_told_together() -> None:
    slots = {"a": {"kind": "choice"}, "b": {"kind": "flag", "say": "x"}, "c": {"kind": "what"}}

    with pytest.raises(StillhouseError, match="slot schema x has 6 mistakes") as caught:
        SlotSchema.from_dict({"name": "x", "slots": slots, "extra": 1})
    for part in ("'extra'", "slot 'a', key 'values'", "slot 'b', key 'affirm'", "slot 'c'"):
        assert part in str(caught.value)


@pytest.mark.parametrize("data", [None, [], "name: x", 3])
def test_what_is_no_mapping_is_refused(data: Any) -> None:
    with pytest.raises(StillhouseError, match="expected a mapping with name and slots"):
        SlotSchema.from_dict(data)


# expression, text it must match whole, text it must not match whole; both in folded spelling
ALLOWED = [
    ("São Paulo", "sao paulo", "s paulo"),
    ("Ireland|London", "london", "ondon"),
    (r"[A-C]x{2}", "bxx", "bx"),
    (r"\d+(?:\.\d+)? UTC", "12.5 utc", "12. utc"),
    (r"a+", "a" * 20, "a" * 21),
    ("(?<!not )bad", "bad", "badly"),
    (r"[^a-z]\$", "1$", "x$"),
    ("l’eau", "l'eau", "leau"),
    ("x(?=y)y", "xy", "xz"),
]


@pytest.mark.parametrize(("source", "text", "other"), ALLOWED)
def test_an_expression_is_spelled_like_folded_text(source: str, text: str, other: str) -> None:
    part = read_pattern(source)

    assert re.fullmatch(part.source, text)
    assert not re.fullmatch(part.source, other)
    assert part.first is None or text[0] in part.first


@pytest.mark.parametrize(
    "source",
    [
        *("(a+)+x", "(a|a)*b", "(a|aa)+b", "(?:a?){30}b", "a?" * 30 + "a" * 30, r"(\w+\s?)*$"),
        *(r"(?:(?:a{1,9}){1,9}){1,9}", r"\w*\w*\w*\w*x", "(" * 60 + "a" + ")" * 60),
        *("a" * 4_000, "a{200}", "a++", "a**", "*a", r"(a)\1", "(?P<n>a)", "(?i)a", "a{x}", "[a"),
    ],
)
def test_an_expression_that_could_run_away_or_is_not_supported_is_refused(source: str) -> None:
    with pytest.raises(PatternError):
        read_pattern(source)
    with pytest.raises(StillhouseError, match="slot 's', key 'pattern'"):
        with_pattern(source)


@pytest.mark.parametrize("source", ["[a-z ]+[a-z ]+[a-z ]+x", "[a-z]+-[a-z]+(-[0-9]+)?", ".*.*="])
@pytest.mark.parametrize("piece", ["a", "a ", "ab-", "a-1-"])
def test_the_worst_expression_that_is_allowed_ends_soon(source: str, piece: str) -> None:
    schema = with_pattern(source)
    began = time.perf_counter()

    check_answer(piece * 10_000, {"s": "x"}, schema)

    assert time.perf_counter() - began < 2.0  # some 0.06 s


def test_words_stand_for_their_alternatives_and_may_use_earlier_ones() -> None:
    words = {"colour": "red|blue", "thing": "{colour} car|bike"}

    assert re.fullmatch(read_pattern("a {thing}", words).source, "a blue car")
    with pytest.raises(PatternError, match="which is not among the words before it"):
        read_pattern("{colour}", {"colour": "{thing}", "thing": "x"})


def test_words_that_grow_without_end_are_refused() -> None:
    words = {"a": "xxxxxxxxxx"} | {chr(98 + n): f"{{{chr(97 + n)}}}" * 10 for n in range(20)}

    with pytest.raises(PatternError):
        read_pattern("{u}", words)


def test_units_are_shared_by_dimension() -> None:
    slots = {
        "wait": {"kind": "quantity", "units": {"s": TIME_UNITS["s"]}},
        "total": {"kind": "quantity", "units": {"min": TIME_UNITS["min"]}},
    }
    schema = SlotSchema.from_dict({"name": "x", "slots": slots})

    assert check_answer("after 2 minutes", {"wait": "120 s"}, schema).errors == 0
