"""Answers checked against records: what is missing, added, wrong; negation; numbers; rewriting."""

import pytest

from serving.slots import (
    Finding,
    Mention,
    SlotCheck,
    SlotSchema,
    check_answer,
    find_mentions,
    parse_record,
    relexicalise,
)
from tests.slot_schemas import SCHEMA, errors

# record, answer, errors
CHECKS = [
    ("service[checkout-api]", "Checkout API is down.", []),
    ("service[checkout-api]", "The checkout service is down.", []),
    ("service[O'Hare gateway]", "The OHare-gateway’s logs are full.", []),
    ("service[checkout-api]", "It is down.", ["missing service"]),
    ("service[checkout-api]", "Billing is down.", ["wrong service Billing"]),
    ("service[checkout-api]", "orders-db is down.", ["wrong service orders-db"]),
    ("service[orders-db]", "orders-db, not orders-dbx", []),
    ("service[orders-db]", "orders-db and then orders-db", []),
    ("service[orders-db]", "orders-db and users-db", ["wrong service users-db"]),
    ("service[orders]", "orders-db is down.", ["wrong service orders-db"]),
    ("service[The Mill]", "mill is down, near the windmill", []),
    ("region[eu-west-1]", "In ireland", []),
    ("region[eu-west-1]", "In London", ["wrong region London"]),
    ("region[eu-west-1]", "In Ireland and London", ["wrong region London"]),
    ("region[eu-west-1]", "in eu-west-12", ["missing region"]),
    ("region[eu-west-1]", "not in Ireland", ["wrong region Ireland"]),
    ("region[eu-west-1]", "In Ireland, never in London", []),
    ("region[eu-west-1]", "not in London or Ireland", ["wrong region Ireland"]),
    ("region[eu-west-1]", "not only in Ireland", []),
    ("region[eu-west-2]", "near the capital", []),
    ("region[eu-west-1]", "Ireland is not far from the capital", []),
    ("region[sa-east-1]", "in SAO  PAULO", []),
    ("region[sa-east-1]", "in Sa\u0303o Paulo", []),
    ("region[mars-1]", "on Mars 1", []),
    ("region[mars-1]", "in London", ["wrong region London"]),
    ("service[billing]", "Billing in London", ["added region London"]),
    ("service[billing]", "Billing in London, yes, London", ["added region London"]),
    ("service[billing]", "Billing near the capital", []),
    ("severity[high]", "a sev1 incident", []),
    ("severity[low]", "a sev1 incident", ["wrong severity sev1"]),
    ("service[billing]", "Billing: severe, sev1", ["added severity severe"]),
    ("cause[bad deploy]", "caused by a bad deploy", []),
    ("cause[bad deploy]", "the cause was not a bad deploy", ["wrong cause bad deploy"]),
    ("service[eu-west-1], region[eu-west-1]", "eu-west-1 is down", []),
    ("colour[red], cause[x]", "x", []),
]


@pytest.mark.parametrize(("record", "answer", "expected"), CHECKS, ids=[c[1] for c in CHECKS])
def test_names_and_choices(record: str, answer: str, expected: list[str]) -> None:
    assert errors(check_answer(answer, parse_record(record), SCHEMA)) == expected


FLAGS = [
    ("Data was lost.", "yes"),
    ("Data were gone", "yes"),
    ("There was no data loss.", "no"),
    ("All data is safe.", "no"),
    ("It caused no outage and data was lost.", "yes"),
    ("There wasn't any data loss.", "no"),
    ("There wasn’t any data loss.", "no"),
    ("Without data loss", "no"),
    ("Not without data loss", "yes"),
    ("Not only data loss", "yes"),
    ("Data loss: no.", "no"),
    ("Data loss - no", "no"),
    ("Data loss: yes", "yes"),
    ("No, there was data loss", "yes"),
    ("It never led to any data loss", "no"),
    ("Not in the backup and in the archive, data loss", "yes"),
    ("We never did find out about data loss", "yes"),  # five words away
    ("none of them saw data loss", "no"),
    ("No sync in Ireland: data loss", "yes"),
]


@pytest.mark.parametrize(("answer", "polarity"), FLAGS, ids=[f[0] for f in FLAGS])
def test_a_negation_turns_a_flag_round(answer: str, polarity: str) -> None:
    other = {"yes": "no", "no": "yes"}[polarity]
    assert check_answer(answer, {"data_loss": polarity}, SCHEMA).errors == 0
    turned = check_answer(answer, {"data_loss": other}, SCHEMA)
    assert [f.slot for f in turned.wrong] == ["data_loss"]
    assert turned.errors == 1
    assert [f.slot for f in check_answer(answer, {"cause": "x"}, SCHEMA).added] == ["data_loss"]


def test_a_cue_belongs_to_one_statement() -> None:
    record = {"data_loss": "no", "region": "eu-west-1", "service": "billing"}
    answer = "No data was lost in Ireland by billing."

    assert errors(check_answer(answer, record, SCHEMA)) == []


def test_both_polarities_contradict_each_other() -> None:
    check = check_answer("No data loss at first; then data was lost.", {"data_loss": "no"}, SCHEMA)

    assert errors(check) == ["wrong data_loss data was lost"]


SAME_AMOUNT = [
    ("1.8 s", "1.8 seconds"),
    ("1.8 s", "1,800 ms"),
    ("1.8 s", "1800 milliseconds"),
    ("1.8 s", "1.8s"),
    ("1.8 s", "one point eight seconds"),
    ("1800 ms", "1.8 s"),
    ("25 min", "twenty-five minutes"),
    ("25 min", "a 25-minute wait"),
    ("90 min", "1 h 30 min"),
    ("90 min", "1h30min"),
    ("90 min", "one hour and 30 minutes"),
    ("1 h 30 min", "90 minutes"),
    ("5 min", "5 min and 30 s"),
    ("60 min", "an hour"),
    ("3 s", "３ seconds"),
    ("120 s", "a hundred and twenty seconds"),
    ("2500 s", "two thousand five hundred seconds"),
    ("2500 s", "2.5 thousand seconds"),
]


@pytest.mark.parametrize(("value", "answer"), SAME_AMOUNT)
def test_equal_amounts_are_equal_however_written(value: str, answer: str) -> None:
    check = check_answer(answer, {"value": value}, SCHEMA)

    assert check.missing == check.wrong == ()


# value of `customers`, answer, errors
NUMBERS = [
    ("3 %", "3% of them", []),
    ("3 %", "three percent", []),
    ("3 %", "3.05 percent", []),  # within the tolerance of 2 %
    ("3 %", "4 percent", ["wrong customers 4 percent"]),
    ("3 %", "3 customers", ["wrong customers 3 customers"]),
    ("3 %", "3 of them", ["missing customers"]),
    ("50 %", "half of our customers", []),
    ("40 %", "half of our customers", ["wrong customers half of our customers"]),
    ("1200 customers", "1.2k customers", []),
    ("1200 customers", "1,200 customers", []),
    ("1200 customers", "1.2 million customers", ["wrong customers 1.2 million customers"]),
    ("3 %", "3 % on 7 nodes", ["added number 7"]),
    ("3 %", "3 % at 14:05", ["added number 14:05"]),
    ("3 %", "3 % on seven nodes and 7 racks", ["added number seven", "added number 7"]),
    ("3 %", "3 %, one of the worst, 24/7, p99, 5xx, 2nd, first, eu-west-9, two-step", []),
    ("3 %", "3 %, then 3 % again", []),
    ("3 %", "an hour for 3 %", []),
    ("3 %", "3 % for 2 hours", ["added value 2 hours"]),
    ("everyone", "everyone", []),
]


@pytest.mark.parametrize(("value", "answer", "expected"), NUMBERS, ids=[n[1] for n in NUMBERS])
def test_numbers_need_a_reason(value: str, answer: str, expected: list[str]) -> None:
    assert errors(check_answer(answer, {"customers": value}, SCHEMA)) == expected


def test_a_unit_may_have_no_name() -> None:
    units = {"": {"dimension": "count", "factor": 1, "say": ["", "tries"]}}
    slots = {"retries": {"kind": "quantity", "units": units}}
    schema = SlotSchema.from_dict({"name": "x", "slots": slots})

    assert errors(check_answer("3 of them, twelve", {"retries": "3"}, schema)) == [
        "added number twelve"
    ]
    assert errors(check_answer("after 4", {"retries": "3"}, schema)) == ["wrong retries 4"]
    assert errors(check_answer("after 3 tries", {"retries": "3"}, schema)) == []


# value, threshold, answer, errors
TWO_OF_ONE_DIMENSION = [
    ("1.8 s", "400 ms", "1.8 s, above 400 ms", []),
    ("1.8 s", "400 ms", "1.8 s, above 500 ms", ["wrong threshold 500 ms"]),
    ("1.8 s", "400 ms", "1.8 s", ["missing threshold"]),
    ("1.8 s", "400 ms", "2 s, above 500 ms", ["wrong value 2 s", "wrong threshold 500 ms"]),
    ("1.8 s", "400 ms", "1.8 s, above 400 ms for 3 min", ["added number 3 min"]),
    ("400 ms", "400 ms", "400 ms", []),
]


@pytest.mark.parametrize(("value", "threshold", "answer", "expected"), TWO_OF_ONE_DIMENSION)
def test_amounts_of_one_dimension_are_told_apart(
    value: str, threshold: str, answer: str, expected: list[str]
) -> None:
    record = {"value": value, "threshold": threshold}

    assert errors(check_answer(answer, record, SCHEMA)) == expected


def test_a_check_counts_what_the_schema_knows() -> None:
    check = check_answer("Down in London.", parse_record("service[billing], colour[red]"), SCHEMA)

    assert check == SlotCheck(
        missing=(Finding("service", "billing", None, None, None),),
        added=(Finding("region", None, "London", 8, 14),),
        wrong=(),
        slots=1,
        unknown=("colour",),
        cut=False,
    )
    assert (check.errors, check.error_rate) == (2, 2.0)
    assert check_answer("", {}, SCHEMA).error_rate == 0.0


def test_mentions_name_the_asked_value_and_its_place() -> None:
    record = parse_record("service[checkout-api], severity[high], data_loss[no]")
    text = "The Checkout  Service had a sev1 in Ireland; no data was lost."

    assert find_mentions(text, SCHEMA, record) == [
        Mention("service", "checkout-api", 0, 21),
        Mention("severity", "high", 28, 32),
        Mention("region", "eu-west-1", 36, 43),
        Mention("data_loss", "no", 48, 61),
    ]
    assert [m.value for m in find_mentions(text, SCHEMA)] == [
        *("checkout-api", "sev1", "eu-west-1", "no")
    ]


def test_one_span_may_say_two_slots_of_one_value() -> None:
    mentions = find_mentions("400 ms", SCHEMA, {"value": "400 ms", "threshold": "0.4 s"})

    assert [(m.slot, m.start, m.end) for m in mentions] == [("value", 0, 6), ("threshold", 0, 6)]


# answer, target record, rewritten; the source is the record below
SOURCE = "service[checkout-api], region[eu-west-1], value[1.8 s], data_loss[no], severity[high]"
REWRITES = [
    ("Checkout API is slow.", "service[orders-db]", "Orders-db is slow."),
    ("The checkout-api is slow.", "service[The Hub]", "The Hub is slow."),
    ("It is slow (1,800 ms).", "value[25 min]", "It is slow (25 min)."),
    ("In Ireland and ireland", "region[eu-west-2]", "In eu-west-2 and eu-west-2"),
    ("An Ireland team", "region[sa-east-1]", "A São Paulo team"),
    ("It was severe.", "severity[low]", "It was low severity."),
    ("Of high severity", "severity[low]", "Of low severity"),
    ("No data loss", "data_loss[yes]", "No data loss"),
    ("No data loss in Ireland", "cause[x]", "No data loss in Ireland"),
    ("Not in Ireland", "region[eu-west-2]", "Not in Ireland"),
]


@pytest.mark.parametrize(("answer", "target", "rewritten"), REWRITES, ids=[r[0] for r in REWRITES])
def test_an_answer_is_rewritten_to_another_record(answer: str, target: str, rewritten: str) -> None:
    assert relexicalise(answer, parse_record(SOURCE), parse_record(target), SCHEMA) == rewritten
