"""The reports of the built-in data: they say their record and nothing else, in good English."""

import re
from pathlib import Path

import pytest
import yaml

from serving.slots import SlotSchema, check_answer
from stages._incidents import IncidentCounts, drifted, generate
from stages._incidents.causes import ACTIONS, CAUSES, cause_of
from stages._incidents.drift import SCENARIOS
from stages._incidents.numbers import format_seconds, in_words, say_before_noun, say_quantity
from stages._incidents.phrases import article
from stages._incidents.world import METRICS, NEW_UNIT_METRICS, SYMPTOMS

SCHEMA = Path(__file__).parent.parent / "configs" / "schemas" / "incidents.yaml"
SMALL = IncidentCounts(train=1200, validation=20, calibration=20, test=220)


@pytest.fixture(scope="module")
def data():
    return generate(7, SMALL)


@pytest.fixture(scope="module")
def schema():
    return SlotSchema.from_dict(yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))


def all_rows(data):
    return [row for rows in data.values() for row in rows]


def pairs(rows):
    return [(text, row["slots"]) for row in rows for text in row["references"]]


# --- clean references


def test_the_slot_checker_finds_no_error_in_any_reference(data, schema):
    for text, slots in pairs(all_rows(data)):
        check = check_answer(text, slots, schema)
        assert check.slots == len(slots) and not check.errors, (text, slots, check)


def test_the_slot_checker_notices_when_a_value_is_another(data, schema):
    rows = data["test"]
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        for slot in set(row["slots"]) & set(other["slots"]):
            if row["slots"][slot] != other["slots"][slot]:
                asked = row["slots"] | {slot: other["slots"][slot]}
                assert check_answer(row["references"][0], asked, schema).errors, (slot, row, other)


def test_open_values_are_said_as_they_stand(data):
    for text, slots in pairs(all_rows(data)):
        said = text.lower().replace("-", " ")
        assert slots["service"].lower().replace("-", " ") in said
        assert slots.get("start", "") in text
        if "cause" in slots and not cause_of(slots["cause"]).because:
            assert slots["cause"].lower().replace("-", " ") in said


def test_the_numbers_of_measured_values_are_said(data):
    counted = 0
    for text, slots in pairs(all_rows(data)):
        number, _, unit = slots.get("value", "0 s").partition(" ")
        if "value" in slots and unit in ("ms", "s", "GB", "%"):
            counted += 1
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]*\d)", text), (text, slots)
    assert counted > 1000


def test_status_words_are_said_only_when_the_record_has_a_status(data):
    word = re.compile(r"resolv|monitor|investigat|identif", re.IGNORECASE)
    for text, slots in pairs(all_rows(data)):
        assert bool(word.search(text.replace(slots["service"], ""))) == ("status" in slots), text


def test_what_was_done_follows_from_what_was_wrong(data):
    for row in all_rows(data):
        slots = row["slots"]
        if {"cause", "action"} <= set(slots):
            assert slots["action"] in cause_of(slots["cause"]).actions
        if slots.get("status") == "investigating":
            assert "cause" not in slots and "action" not in slots


# --- good English

UGLY = {
    "double space": r"  ",
    "space before a mark": r" [,.;:](?!\d)",
    "a before a vowel": r"\b[Aa] (?:[aeio]|8|11\b|18\b)",
    "an before a consonant": r"\b[Aa]n (?:[bcdfgjklmnpqrstvwyz]|[0-79](?!1\b|8\b))",
    "one with a plural": r"(?<![\d.,])1 (?:minutes|hours|seconds|days|milliseconds|messages|jobs)",
    "many with a singular": r"(?:[2-9]|\d\d) (?:minute|hour|second|day|message|job)\b",
    "doubled word": r"\b([A-Za-z]+) \1\b",
    "doubled mark": r"[,;.] ?[,;.]",
    "sentence in lower case": r"(?<=[.!?] )(?![\w.]+-)[a-z]",
    "placeholder": r"[{}<>_]|None",
    "verb of the wrong number": r"\b(?:customers|users|merchants|tenants) (?:was|is|has)\b",
}


@pytest.mark.parametrize("fault", UGLY)
def test_no_reference_has_ugly_english(data, fault):
    pattern = re.compile(UGLY[fault])
    bad = [text for text, _ in pairs(all_rows(data)) if pattern.search(text)]
    assert not bad, bad[:3]


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("a before a vowel", "We saw a error rate of 3%."),
        ("an before a consonant", "This was an major incident."),
        ("one with a plural", "It lasted 1 minutes."),
        ("many with a singular", "It lasted 25 minute."),
        ("doubled word", "orders-consumer consumer lag rose."),
        ("sentence in lower case", "It rose. we looked."),
        ("space before a mark", "It rose , then fell."),
    ],
    ids=lambda value: value if " " in value and len(value) < 24 else "",
)
def test_the_patterns_for_ugly_english_find_it(fault, text):
    assert re.search(UGLY[fault], text)


def test_reports_begin_and_end_as_sentences_do(data):
    for text, slots in pairs(all_rows(data)):
        begins = text[0].isupper() or text[0] in "[0123456789" or text.startswith(slots["service"])
        assert begins and text.endswith("."), text


def test_reports_are_a_sentence_or_a_few(data):
    sizes = [len(text.split()) for text, _ in pairs(all_rows(data))]
    assert max(sizes) < 80 and 15 < sum(sizes) / len(sizes) < 30


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [("error", "an"), ("major", "a"), ("8-hour", "an"), ("18-minute", "an"), ("180-s", "a"),
     ("80%", "an"), ("11-minute", "an"), ("110 ms", "a"), ("uptime", "an"), ("1.5-hour", "a")],
    ids=str,
)  # fmt: skip
def test_articles_go_by_sound(phrase, expected):
    assert article(phrase) == expected


# --- numbers


class Always:
    """A random source that always draws the same number."""

    def __init__(self, point):
        self.point = point

    def random(self):
        return self.point


@pytest.mark.parametrize(
    ("text", "spelling", "expected"),
    [
        ("25 min", "long", "25 minutes"),
        ("25 min", "words", "twenty-five minutes"),
        ("1 h", "long", "1 hour"),
        ("30 min", "words", "half an hour"),
        ("90 min", "words", "an hour and a half"),
        ("90 min", "long", "90 minutes"),
        ("1.8 s", "words", "1.8 seconds"),
        ("18,400 messages", "short", "18.4k messages"),
        ("18,440 messages", "short", "18,440 messages"),
        ("3 %", "long", "3%"),
        ("12 users", "words", "twelve users"),
        ("400 ms", "short", "400ms"),
        ("2 days", "short", "2 days"),
    ],
    ids=lambda value: str(value).replace(" ", "_"),
)
def test_a_quantity_is_said_exactly(text, spelling, expected):
    assert say_quantity(Always(0.0), text, spelling) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.85, "850 ms"), (1.8, "1.8 s"), (42.34, "42.3 s"), (600, "10 min"), (12600, "3.5 h")],
)
def test_times_are_written_as_dashboards_show_them(seconds, expected):
    assert format_seconds(seconds) == expected


def test_small_numbers_are_written_out():
    assert [in_words(n) for n in (0, 13, 20, 47)] == ["zero", "thirteen", "twenty", "forty-seven"]


def test_a_quantity_before_a_noun_has_no_plural():
    assert say_before_noun(Always(0.9), "5 s") == "5-second"
    assert say_before_noun(Always(0.0), "2,000 messages") == "2,000-message"
    assert say_before_noun(Always(0.0), "25 min", long=True) == "25-minute"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_drifted_references_are_clean_too(schema, scenario):
    for text, slots in pairs(drifted(9, 120, scenario, 1.0, references=3)):
        check = check_answer(text, slots, schema)
        assert check.slots == len(slots) and not check.errors, (text, slots, check)


def test_every_value_of_the_closed_slots_is_described_by_the_schema(schema):
    assert {m.name for m in (*METRICS, *NEW_UNIT_METRICS)} == set(schema.slots["metric"]["values"])
    assert {s.name for s in SYMPTOMS} == set(schema.slots["symptom"]["values"])
    assert set(ACTIONS) == set(schema.slots["action"]["values"])
    bare = {cause.head for cause in CAUSES if cause.bare}
    assert bare == set(schema.slots["cause"]["values"])
