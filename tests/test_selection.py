"""Pareto front, objective with ties, and the incumbent, each by hand."""

import pytest

from stages._gates import absent, itself
from stages._params.select import Gates
from stages._selection import (
    Contender,
    choose,
    compare_with_incumbent,
    figures_of,
    machine_gates,
    pareto,
    pareto_front,
)

COST = "cost_per_1k_requests_usd"
GOOD = itself("bleu_ratio", 1.0, 0.95)


def contender(name, cost=1.0, p95=1.0, memory=1.0, disk=1.0, bleu=60.0, errors=None, **changes):
    figures = {COST: cost, "latency_p95_ms": p95, "peak_memory_mb": memory, "disk_mb": disk}
    scores = {"bleu": {"score": bleu}}
    scores |= {} if errors is None else {"slot_error_rate": {"score": errors}}
    facts = {"name": name, "folder": f"models/{name}", "sha256": f"sha of {name}"}
    facts |= {"data_sha256": "d", "scores": scores, "figures": figures, "gates": [GOOD]}
    return Contender(**facts | {"machine": {"device": "cpu"}} | changes)


def standing(low=59.0, high=61.0, cost=1.0, **changes):
    scores = {"bleu": {"low": low, "high": high, "signature": "s"}}
    entry = {"model_sha256": "new", "data_sha256": "d", "scores": scores}
    return entry | {"figures": {COST: cost}, "machine": {"device": "cpu"}} | changes


def verdict(winner, record):
    return compare_with_incumbent(winner, record, COST, 0.05)["verdict"]


def test_the_front_holds_what_nothing_beats():
    points = {"a": (1, 3), "b": (2, 2), "c": (3, 1), "d": (2, 3), "e": (1, 3)}
    assert pareto_front(points) == {"a", "b", "c", "e"}  # a and e are equal: neither beats


def test_the_front_weighs_quality_cost_and_memory():
    better = contender("better", cost=2.0, bleu=61.0)
    worse = contender("worse", cost=2.0)
    assert pareto([contender("cheap"), better, worse]) == {"cheap", "better"}


def test_slot_errors_are_an_axis_where_they_are_measured():
    true = contender("true", cost=2.0, bleu=59.0, errors=0.0)
    fluent = contender("fluent", errors=0.4)
    assert pareto([true, fluent, contender("silent", cost=0.1)]) == {"true", "fluent"}


def test_who_lacks_a_figure_is_not_on_the_front():
    assert pareto([contender("a"), contender("b", cost=None)]) == {"a"}


def test_only_those_pass_that_may_win_and_fail_no_gate():
    assert contender("a").passed
    assert not contender("a", eligible=False).passed
    assert not contender("a", gates=[GOOD, absent("g", None, "?")]).passed
    assert not contender("a", gates=[]).passed


def test_the_least_by_the_first_objective_wins():
    winner, reason = choose([contender("a", 2.0), contender("b", 1.0, p95=99)], [COST], 0.05, None)
    assert winner.name == "b"
    assert reason == f"it has the least {COST}, 1 against 2 of a"


def test_ties_are_broken_in_the_stated_order():
    found = [contender("a", 1.0, 9.0, 5.0), contender("b", 1.04, 5.0, 9.0), contender("c", 1.06)]
    assert choose(found, [COST, "latency_p95_ms"], 0.05, None)[0].name == "b"
    assert choose(found, [COST, "peak_memory_mb"], 0.05, None)[0].name == "a"


def test_a_tie_in_everything_goes_to_the_one_that_is_named_first():
    winner, reason = choose([contender("a"), contender("b")], [COST, "disk_mb"], 0.05, None)
    assert winner.name == "a"
    assert reason == "a, b tie in every objective, and it is named first"


def test_the_incumbent_wins_a_tie_but_no_more():
    found = [contender("a", 1.0), contender("b", 1.05), contender("c", 2.0)]
    assert choose(found, [COST], 0.05, "sha of b")[0].name == "b"
    assert choose(found, [COST], 0.05, "sha of c")[0].name == "a"


def test_an_unmeasured_tie_breaker_comes_last():
    found = [contender("a", p95=None), contender("b", p95=5.0)]
    assert choose(found, [COST, "latency_p95_ms"], 0.05, None)[0].name == "b"


def test_a_figure_that_is_no_number_was_not_measured():
    report = {"latency_ms": {"p50": 1.0}, "peak_memory_mb": float("inf"), "disk_mb": True}
    assert set(figures_of(report).values()) == {None}
    assert set(figures_of({"latency_ms": None, COST: -1.0, "disk_mb": "2"}).values()) == {None}
    assert figures_of(None) == figures_of({})


def test_ceilings_are_gates_and_so_is_the_objective():
    gates = Gates(latency_p95_ms=5.0, peak_memory_mb=None)
    outcomes = machine_gates(gates, contender("a", cost=None, p95=6.0).figures, COST)
    assert [(gate.gate, gate.verdict) for gate in outcomes] == [
        ("latency_p95_ms", "fail"),
        (f"{COST}_measured", "inconclusive"),
    ]


@pytest.mark.parametrize(
    ("winner", "record", "expected"),
    [
        (standing(), None, "first"),
        (standing(), standing(), "same"),
        (standing(50, 58.9), standing(model_sha256="old"), "keep"),  # worse with the interval
        (standing(61.1, 63, cost=9.0), standing(model_sha256="old"), "replace"),
        (standing(cost=0.9), standing(model_sha256="old"), "replace"),
        (standing(cost=0.97), standing(model_sha256="old"), "keep"),  # a tie is no reason
        (standing(cost=2.0), standing(model_sha256="old"), "keep"),
        (standing(), standing(model_sha256="old", data_sha256="e"), "not_comparable"),
        (standing(), standing(model_sha256="old", data_sha256=None), "not_comparable"),
        (standing(), standing(model_sha256="old", scores={}), "not_comparable"),
        (standing(), standing(model_sha256="old", machine={"device": "x"}), "not_comparable"),
        (standing(), standing(model_sha256="old", cost=None), "not_comparable"),
    ],
)
def test_the_incumbent_is_replaced_for_a_reason_only(winner, record, expected):
    assert verdict(winner, record) == expected


def test_errors_that_rose_keep_the_incumbent_whatever_bleu_says():
    errors = {"low": 0.02, "high": 0.03, "signature": "e"}
    worse = standing(70, 72)
    worse["scores"]["slot_error_rate"] = errors
    record = standing(model_sha256="old")
    record["scores"]["slot_error_rate"] = errors | {"low": 0.005, "high": 0.01}
    assert verdict(worse, record) == "keep"


def test_scores_of_other_signatures_are_not_compared():
    record = standing(model_sha256="old")
    record["scores"]["bleu"] = record["scores"]["bleu"] | {"signature": "other"}
    assert verdict(standing(50, 51), record) == "not_comparable"
