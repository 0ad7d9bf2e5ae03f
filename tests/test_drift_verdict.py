"""When a test is an alarm, and what all tests together say."""

from dataclasses import replace

import pytest

from stages._drift import verdict as v

PLAIN = v.Test("prompt words", "input", 0.3, 0.001, 0.3, 0.1, 500, 200)


def reach(*tests, left_out=(), min_rows=50):
    return v.reach_verdict(tests, left_out, alpha=0.05, min_rows=min_rows)


@pytest.mark.parametrize(
    ("p_value", "effect", "alarm"),
    [(0.001, 0.3, True), (0.05, 0.3, False), (0.001, 0.1, False), (0.9, 0.05, False)],
)
def test_an_alarm_needs_a_small_p_value_and_a_large_effect(p_value, effect, alarm):
    test = replace(PLAIN, p_value=p_value, effect=effect)
    assert [one.alarm for one in v.judge([test], alpha=0.05)] == [alarm]


def test_one_small_p_value_among_many_is_luck():
    others = [replace(PLAIN, name=f"other {i}", p_value=0.8) for i in range(19)]
    judged = v.judge([replace(PLAIN, p_value=0.01), *others], alpha=0.05)
    assert judged[0].p_adjusted == pytest.approx(0.2)
    assert not any(one.alarm for one in judged)


def test_kinds_of_drift_are_kept_apart():
    output = replace(PLAIN, name="answer words", kind="output", p_value=0.6)
    reached = reach(PLAIN, output)
    assert reached.outcome == "drift"
    assert reached.kinds == {
        "input": "drift",
        "output": "no_evidence",
        "quality": "not_compared",
    }


def test_a_test_of_too_few_rows_is_named_and_not_judged():
    few = replace(PLAIN, name="entropy", kind="output", n_current=49)
    reached = reach(replace(PLAIN, p_value=0.04), few)
    assert [one.test.name for one in reached.judged] == ["prompt words"]
    assert reached.judged[0].p_adjusted == 0.04  # the test left out asks for no correction
    assert reached.kinds["output"] == "too_few_rows"
    assert "found 500 reference and 49 current" in reached.not_compared[0].reason


def test_too_few_rows_everywhere_is_no_verdict():
    assert reach(replace(PLAIN, n_reference=10)).outcome == "too_few_rows"
    assert reach().outcome == "too_few_rows"


def test_what_could_not_be_compared_is_passed_on():
    missing = v.NotCompared("slot errors", "quality", "the window keeps no answers")
    reached = reach(PLAIN, left_out=[missing])
    assert reached.not_compared == (missing,)
    assert reached.kinds["quality"] == "not_compared"


def test_the_weaker_of_rows_and_distinct_texts_counts():
    distinct = replace(PLAIN, p_value=0.4, effect=0.05, n_current=7, detail={"texts": 7})
    (weaker,) = v.weaker_of([PLAIN], [distinct])
    assert (weaker.p_value, weaker.effect, weaker.n_current) == (0.4, 0.05, 7)
    assert weaker.detail == {
        "texts": 7,
        "p_value_over_rows": 0.001,
        "p_value_over_distinct": 0.4,
    }


def test_one_text_sent_many_times_is_too_few_rows():
    distinct = replace(PLAIN, p_value=0.0005, n_current=1)
    assert reach(*v.weaker_of([PLAIN], [distinct])).outcome == "too_few_rows"


def test_a_test_without_a_partner_stays():
    alone = replace(PLAIN, name="schema")
    assert [t.name for t in v.weaker_of([PLAIN], [alone])] == ["prompt words", "schema"]
