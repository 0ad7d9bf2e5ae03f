"""Before the first caller every batch size was run, so serial callers teach nothing wrong."""

import pytest
from scheduler_cases import ask, busy, item, running
from scripted_predictors import SECONDS, Script

from serving._scheduler_counts import CostModel, Fit, fit_costs
from serving._scheduler_limits import Limits
from serving._warm_up import warm_up
from serving.errors import StillhouseError

LIMITS = Limits(batch_tokens=10_000, max_rows=8, gather_s=0.0)
PER_BATCH_S, PER_TOKEN_S = 0.5, 0.001


def cost_s(prompts):
    """What every real batch costs: something once, something for every padded token."""
    longest = max(len(prompt) for prompt in prompts) + 20
    return PER_BATCH_S + PER_TOKEN_S * len(prompts) * longest


def test_sizes_double_up_to_the_largest_for_short_and_long_prompts():
    script = Script()
    with running(script, Limits(batch_tokens=10_000, max_rows=6, gather_s=0.0)) as scheduler:
        assert warm_up(scheduler) == [1, 2, 4, 6] * 2
    lengths = [len(batch[0].split()) for batch in script.batches]
    assert [len(batch) for batch in script.batches] == [1, 2, 4, 6] * 2
    assert lengths == [1] * 4 + [40] * 4, "the longest prompt that the contract allows"


def test_sizes_keep_to_the_budget():
    script = Script()
    with running(script, Limits(batch_tokens=170, max_rows=8, gather_s=0.0)) as scheduler:
        assert warm_up(scheduler) == [1, 2, 4, 8, 1, 2, 3]
    assert [len(batch) for batch in script.batches] == [1, 2, 4, 8, 1, 2, 3]


def test_beams_take_their_rows():
    script = Script()
    beams = {"method": "beam", "beams": 4}
    with running(script, LIMITS, decoding=beams) as scheduler:
        assert warm_up(scheduler) == [1, 2] * 2


def test_a_model_that_cannot_answer_does_not_get_ready():
    script = Script()

    def fail(prompts):
        raise RuntimeError("broken")

    script.cost_s = fail
    refused = pytest.raises(StillhouseError, match=r"expected to be answered .* internal")
    with running(script) as scheduler, refused:
        warm_up(scheduler)


def test_a_model_that_takes_too_long_does_not_get_ready():
    script = Script()
    script.hold()
    with running(script) as scheduler:
        with pytest.raises(StillhouseError, match=r"within 0 s"):
            warm_up(scheduler, patience_s=0.0)
        script.may_go_on.set()


def burst(scheduler, script, size=60):
    """Expected wait for one batch under way and a burst, and what they took."""
    with busy(script, scheduler):
        futures = scheduler.submit_many([item(f"1 {n}") for n in range(1, size + 1)])
        expected = scheduler.expected_wait_s()
        started = script.now  # it moves when the held batch goes on
    assert [future.result(SECONDS).refusal for future in futures] == [None] * size
    return expected, script.now - started


def test_after_warm_up_serial_callers_do_not_mislead_the_estimate():
    script = Script()
    script.cost_s = cost_s
    with running(script, LIMITS) as scheduler:
        warm_up(scheduler)
        for number in range(1, 101):
            ask(scheduler, f"1 {number}")
        expected, took = burst(scheduler, script)
    # the minimum-norm fit of serial batches tells 60 x 0.26 s = 16 s, and would refuse
    assert took == pytest.approx(0.521 + 60 * 0.022 + 8 * 0.5)
    assert expected == pytest.approx(took, rel=0.15)


def test_serial_callers_alone_never_make_the_wait_look_longer():
    script = Script()
    script.cost_s = cost_s
    with running(script, LIMITS) as scheduler:
        for number in range(1, 51):
            ask(scheduler, f"1 {number}")
        expected, took = burst(scheduler, script)
    assert 0.5 * took < expected <= took


def test_costs_are_fitted_from_mixed_sizes():
    fit = fit_costs([(x, 0.5 + 0.01 * x) for x in (10.0, 40.0, 200.0, 900.0)])
    assert fit == pytest.approx((0.5, 0.01))


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], (0.0, 0.0)),
        ([(40.0, 2.0)], (2.0, 0.0)),
        ([(40.0, 2.0), (40.0, 4.0)], (2.4, 0.0)),
        ([(10.0, 3.0), (20.0, 2.0)], None),
        ([(10.0, 1.0), (20.0, 4.0)], None),
    ],
    ids=["nothing", "one", "one size", "falling", "steep"],
)
def test_a_fit_never_tells_a_negative_cost(points, expected):
    fit = fit_costs(points)
    assert fit.per_batch_s >= 0 and fit.per_token_s >= 0
    if expected:
        assert fit == pytest.approx(expected)


def test_one_size_does_not_drive_another_out_and_one_slow_batch_counts_for_nothing():
    cost = CostModel(kept=5)
    for size in (100, 1000, 8000):
        cost.add(size, 0.1 + size / 1000)
    for number in range(1000):
        cost.add(100, 9.0 if number == 998 else 0.2)
    assert cost.fit == pytest.approx(Fit(0.1, 0.001))
    assert cost.seconds(2, 1000) == pytest.approx(1.2)
    assert cost.tokens_per_s(1000) == pytest.approx(1000 / 1.1)


def test_a_new_caller_waits_for_the_batch_under_way_too():
    script = Script()
    script.cost_s = cost_s
    with running(script, LIMITS) as scheduler:
        warm_up(scheduler)
        assert scheduler.expected_wait_s() == 0.0
        alone = scheduler.expected_wait_s(tokens=22)
        with busy(script, scheduler):
            assert scheduler.expected_wait_s() == pytest.approx(cost_s([[1]]), rel=0.1)
            assert scheduler.expected_wait_s(tokens=22) == pytest.approx(2 * alone, rel=0.1)
