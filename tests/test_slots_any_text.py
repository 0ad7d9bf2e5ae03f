"""Slot checks on texts nobody chose: made of values, with one planted fault, random, hostile."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.slots import MAX_CHARS, SlotSchema, check_answer, parse_record, relexicalise
from tests.slot_schemas import E2E, SCHEMA, errors

SAID = {
    "service": {"checkout-api": "checkout-api", "orders-db": "orders-db", "billing": "billing"},
    "region": {"eu-west-1": "Ireland", "eu-west-2": "London", "sa-east-1": "São Paulo"},
    "severity": {"high": "high severity", "low": "low severity"},
    "data_loss": {"yes": "data loss", "no": "no data loss"},
    "customers": {"3 %": "3 %", "40 %": "40 percent", "900 customers": "900 customers"},
}
records = st.fixed_dictionaries(
    {}, optional={slot: st.sampled_from(sorted(values)) for slot, values in SAID.items()}
).filter(lambda record: len(record) >= 2)


def written(record: dict[str, str], order: random.Random) -> str:
    parts = [SAID[slot][value] for slot, value in record.items()]
    order.shuffle(parts)
    return "Report: " + "; ".join(parts) + "."


@given(records, st.randoms(use_true_random=False))
def test_an_answer_made_of_the_values_has_no_errors(
    record: dict[str, str], order: random.Random
) -> None:
    assert errors(check_answer(written(record, order), record, SCHEMA)) == []


@given(records, st.randoms(use_true_random=False), st.data())
def test_one_planted_fault_is_one_error(
    record: dict[str, str], order: random.Random, data: st.DataObject
) -> None:
    slot = data.draw(st.sampled_from(sorted(record)))
    other = data.draw(st.sampled_from([v for v in sorted(SAID[slot]) if v != record[slot]]))
    without = {s: v for s, v in record.items() if s != slot}

    omitted = check_answer(written(without, order), record, SCHEMA)
    assert ([f.slot for f in omitted.missing], omitted.errors) == ([slot], 1)
    invented = check_answer(written(record, order), without, SCHEMA)
    assert ([f.slot for f in invented.added], invented.errors) == ([slot], 1)
    swapped = check_answer(written(record | {slot: other}, order), record, SCHEMA)
    assert ([f.slot for f in swapped.wrong], swapped.errors) == ([slot], 1)


@given(records, records, st.randoms(use_true_random=False))
def test_a_rewritten_answer_says_its_target(
    source: dict[str, str], target: dict[str, str], order: random.Random
) -> None:
    target = {s: source[s] if s == "data_loss" else target.get(s, v) for s, v in source.items()}
    answer = relexicalise(written(source, order), source, target, SCHEMA)

    assert errors(check_answer(answer, target, SCHEMA)) == []


@given(st.text(max_size=300), st.dictionaries(st.sampled_from(sorted(SAID)), st.text(max_size=20)))
def test_any_text_is_checked_without_a_fault(answer: str, record: dict[str, str]) -> None:
    check = check_answer(answer, record, SCHEMA)

    for finding in (*check.added, *check.wrong):
        assert finding.start is not None
        assert answer[finding.start : finding.end] == finding.found
    assert relexicalise(answer, record, record, SCHEMA) == answer


HOSTILE = [
    *("a", "a ", "1", "1 ", "1,000", "[", "no ", "n't ", "not in Ireland or "),
    *(
        "customer rating of the very ",
        "price range is a very ",
        "low cheap ",
        "£20-",
        "1 h 30 min ",
    ),
    *("twenty-five hundred and ", "no kids or ", "checkout-api ", "é", "́", "'", " ", "ﷺ"),
]


@pytest.mark.parametrize("schema", [SCHEMA, E2E], ids=["incidents", "e2e"])
@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_answers_are_cut_and_take_no_time(piece: str, schema: SlotSchema) -> None:
    record = parse_record("name[The Mill], data_loss[no], familyFriendly[no], value[1.8 s]")
    answer = piece * (200_000 // len(piece))
    began = time.process_time()

    check = check_answer(answer, record, schema)

    assert time.process_time() - began < 20.0  # some 0.03 s; a runaway takes minutes
    assert check.cut
    assert relexicalise(answer, record, {"name": "x"}, schema)[MAX_CHARS + 9 :] in answer
