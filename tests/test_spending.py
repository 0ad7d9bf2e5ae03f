"""Prices worked out by hand, sums that are exact, labels that are bounded."""

from dataclasses import dataclass

import pytest

from serving._cascade.route import Price
from serving._spending.prices import dollars, most_usd, nano_usd, price_of, usage_of
from serving._spending.sums import MOST_TENANTS, Spendings

TEACHER = Price(usd_per_request=0.001, usd_per_million_prompt_tokens=2.0)
PRICES = {
    "student": Price(usd_per_hour=3.6, usd_per_million_completion_tokens=10.0),
    "teacher": TEACHER,
}


@dataclass(frozen=True)
class Try:
    rung: str
    cost_usd: float = 0.0
    compute_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


def test_a_price_is_time_requests_and_tokens():
    price = price_of(PRICES)
    assert price("student", 2.0, 999, 100) == pytest.approx(2 * 0.001 + 100 * 1e-5)
    assert price("teacher", 999.0, 500, 7) == pytest.approx(0.001 + 500 * 2e-6)
    assert price("baseline", 5.0, 10, 10) == 0.0


def test_the_most_is_all_rungs_tokens_and_the_dearest_ones_time():
    hourly = {"baseline": Price(usd_per_hour=1.8), **PRICES}
    most = most_usd(hourly, seconds=10.0, prompt_tokens=100, completion_tokens=50)
    assert most == pytest.approx(10 * 0.001 + 50 * 1e-5 + 0.001 + 100 * 2e-6)
    assert most_usd({}, seconds=10.0, prompt_tokens=1, completion_tokens=1) == 0.0


@pytest.mark.parametrize(
    ("usd", "nano"), [(0.0, 0), (1e-10, 1), (0.1, 10**8), (2e-9, 2), (2.1e-9, 3), (10**6, 10**15)]
)
def test_money_is_whole_nano_dollars_and_never_less_than_it_was(usd, nano):
    assert nano_usd(usd) == nano


@pytest.mark.parametrize("nano", [1, 3, 2778, 999_999_999, 123_456_789_012_345, 10**15])
def test_money_is_the_same_after_a_way_through_dollars(nano):
    assert nano_usd(dollars(nano)) == nano


@pytest.mark.parametrize("usd", [-1e-12, float("nan"), float("inf"), 1e6 + 1])
def test_what_is_no_sum_of_money_is_refused(usd):
    with pytest.raises(ValueError, match="sum of money"):
        nano_usd(usd)


def test_an_answers_usage_has_its_cost_by_rung():
    tried = [Try("baseline", 1e-10, 0.001), Try("student", 0.1, 0.2), Try("student", 0.2, 0.3)]
    assert usage_of(tried) == {
        "cost_usd": 0.300000001,
        "compute_s": pytest.approx(0.501),
        "cost_by_rung": {"baseline": 1e-09, "student": 0.3},
    }
    assert usage_of([]) == {"cost_usd": 0.0, "compute_s": 0.0, "cost_by_rung": {}}


def test_sums_are_per_tenant_and_rung_and_exact():
    spendings = Spendings(lambda: {"acme", "blue"}, now_s=lambda: 0.0)
    for _ in range(1000):
        spendings.add("acme", [Try("baseline"), Try("student", 0.1, 0.5, 20, 3)])
    spendings.add("blue", [Try("student", 0.1)])
    spendings.add_cached("blue")
    table = spendings.table()
    acme, blue = table["tenants"]
    assert table["since"] == "1970-01-01T00:00:00+00:00"
    assert (acme["tenant"], acme["requests"], acme["usd"]) == ("acme", 1000, 100.0)
    assert acme["rungs"]["student"] == {
        "requests": 1000,
        "prompt_tokens": 20_000,
        "completion_tokens": 3000,
        "compute_s": 500.0,
        "usd": 100.0,
    }
    assert acme["rungs"]["baseline"]["usd"] == 0.0
    assert (blue["requests"], blue["rungs"]["cache"]["requests"], blue["usd"]) == (2, 1, 0.1)


def test_tenants_that_the_keyring_does_not_know_are_one():
    known = {"acme"}
    spendings = Spendings(lambda: known)
    assert [spendings.add(name, []) for name in ("acme", "x", "y")] == ["acme", "other", "other"]
    known.clear()
    assert spendings.add("acme", []) == "acme", "a series that has begun goes on"
    assert [one["requests"] for one in spendings.table()["tenants"]] == [2, 2]


def test_labels_are_bounded_however_many_tenants_there_are():
    names = [f"tenant-{number}" for number in range(200)]
    spendings = Spendings(lambda: names)
    labels = [spendings.add(name, []) for name in names * 2]
    assert set(labels) == {*names[:MOST_TENANTS], "other"}
    assert labels[:200] == labels[200:]
