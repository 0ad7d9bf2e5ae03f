"""What models need and cost a month, against sums by hand."""

import pytest

from stages._comparison import (
    API,
    api_usd_per_month,
    api_usd_per_request,
    as_markdown,
    best_requests_per_s,
    break_even_requests_per_s,
    describe,
    describe_api,
    hosted_usd_per_month,
    replicas,
    with_costs,
)
from stages._params.select import Prices

PRICES = Prices()  # 0.15 and 0.60 USD per million tokens, 500 and 100 USD upkeep, 60 % utilisation
BENCHMARK = {
    "device": "cpu",
    "threads": 2,
    "latency_ms": {"p50": 8.0, "p95": 10.0},
    "requests_per_s": {"1": 20.0, "8": 50.0, "64": 40.0},
    "peak_memory_mb": 400.0,
    "disk_mb": 2.0,
    "hourly_price_usd": 0.1,
    "cost_per_1k_requests_usd": 0.002,
}
EVALUATION = {
    "model": {"engine": "transformers", "scheme": "int8", "parameters": 1000, "size_mb": 3.0},
    "bleu": {"score": 60.0},
    "slot_error_rate": {"score": 0.012},
}


def row(**changes):
    return with_costs(describe("int8", "student", EVALUATION, BENCHMARK | changes), PRICES, 1e-4)


@pytest.mark.parametrize(
    ("rate", "throughput", "expected"),
    [
        (1, 50, 1),  # at least one
        (30, 50, 1),  # 50 * 0.6 is just enough
        (31, 50, 2),
        (1000, 50, 34),  # 33.3
        (0.3, 0.1, 5),  # 0.3 / 0.06, which floats make 5.000000000000001
    ],
)
def test_replicas_carry_the_rate_at_their_utilisation(rate, throughput, expected):
    assert replicas(rate, throughput, 0.6) == expected


def test_a_month_of_machines_by_hand():
    assert hosted_usd_per_month(34, 0.1, 500.0) == pytest.approx(34 * 73.0 + 500.0)


def test_a_month_of_an_api_by_hand():
    # 400 tokens in at 0.15 and 50 out at 0.60 per million: 60 + 30 millionths of a dollar.
    price = api_usd_per_request(400, 50, PRICES)
    assert price == pytest.approx(90e-6)
    # 10 requests/s * 2,628,000 s.
    assert api_usd_per_month(10.0, price, 100.0) == pytest.approx(10 * 2_628_000 * 90e-6 + 100)


def test_the_fastest_batch_size_counts():
    assert best_requests_per_s(BENCHMARK) == 50.0
    assert best_requests_per_s({}) is None


def test_where_one_machine_breaks_even_both_bills_are_equal():
    rate = break_even_requests_per_s(50.0, 0.1, 1e-4, PRICES)
    hosted = hosted_usd_per_month(replicas(rate, 50.0, 0.6), 0.1, 500.0)
    assert hosted == pytest.approx(api_usd_per_month(rate, 1e-4, 100.0))
    assert rate == pytest.approx((73.0 + 400.0) / 262.8)


def test_where_several_machines_break_even_both_bills_are_equal():
    # A full machine serves 0.6/s for 73 USD, which the API does for 157.68; the difference of
    # 84.68 has to earn 400 USD of upkeep: five machines.
    rate = break_even_requests_per_s(1.0, 0.1, 1e-4, PRICES)
    count = replicas(rate, 1.0, 0.6)
    assert count == 5
    assert hosted_usd_per_month(count, 0.1, 500.0) == pytest.approx(
        api_usd_per_month(rate, 1e-4, 100.0)
    )


def test_a_slow_model_is_never_cheaper_than_the_api():
    assert break_even_requests_per_s(0.1, 0.1, 1e-4, PRICES) is None
    assert break_even_requests_per_s(50.0, 0.1, 0.0, PRICES) is None


def test_below_the_break_even_rate_the_api_is_cheaper():
    rate = break_even_requests_per_s(5.0, 0.1, 1e-4, PRICES)
    for lower in (0.3 * rate, 0.99 * rate):
        hosted = hosted_usd_per_month(replicas(lower, 5.0, 0.6), 0.1, 500.0)
        assert hosted > api_usd_per_month(lower, 1e-4, 100.0)


def test_a_row_has_the_costs_of_every_rate():
    months = row()["usd_per_month"]
    assert list(months) == ["1", "10", "100", "1000"]
    assert months["1000"]["replicas"] == 34
    assert months["1000"]["on_demand"] == pytest.approx(34 * 73.0 + 500)
    assert months["1000"]["spot"] == pytest.approx(34 * 73.0 * 0.4 + 500)
    assert row()["machine_s_per_1k_requests"] == 20.0


def test_what_was_not_measured_costs_nothing_that_one_could_state():
    bare = with_costs(describe("x", "other", None, {"device": "cpu"}), PRICES, 1e-4)
    assert bare["usd_per_month"] is None
    assert bare["bleu"] is None
    assert bare["requests_per_s"] is None


def test_an_api_is_paid_for_prompt_instructions_and_answer():
    api = describe_api(["x" * 400, "x" * 800], ["y" * 100, "y" * 300], "teacher", PRICES)
    assert (api["tokens_in"], api["tokens_out"]) == (600 / 4 + 300, 200 / 4)
    assert api["cost_per_1k_requests_usd"] == pytest.approx(1000 * (450 * 0.15 + 50 * 0.6) / 1e6)
    assert api["usd_per_month"]["1"] == pytest.approx(2_628_000 * 97.5e-6 + 100)


def test_the_table_shows_every_model_every_rate_and_what_is_assumed():
    api = describe_api(["x" * 400], ["y" * 200], "teacher", PRICES)
    bare = with_costs(describe("x", "other", None, {"device": "cuda"}), PRICES, 1e-4)
    text = as_markdown([row(), bare], api, PRICES)
    needs = "| int8 | student | cpu, 2 threads | 1,000 | 2.0 | 400.0 | 8 | 10 | 50 | 20 | 60.0 |"
    assert f"{needs} 1.20% |" in text
    assert "| x | cuda | – | – | – | – | – |" in text
    assert "2,982 / 1,493 (34)" in text
    assert f"| {API} |" in text
    assert "cpu 0.1 USD an hour, spot 40% of that" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {13, 8}
