"""Budgets: exactly what there is is let through, in memory and in a real Redis."""

import asyncio
import os
from datetime import UTC, datetime

import pytest

from serving._items import ServiceError
from serving._spending.budgets import open_budgets
from serving._spending.ledger import Account, Hold, MemoryLedger
from serving._spending.periods import Budget, period_at
from serving._spending.redis_ledger import RedisLedger

REDIS = "redis://127.0.0.1:6379"
ONE = Budget(1.0)


@pytest.fixture
def prefix():
    """Keys of our own in the local Redis, deleted afterwards; skips where there is none."""
    redis = pytest.importorskip("redis")
    client = redis.Redis.from_url(REDIS, socket_connect_timeout=3)
    try:
        client.ping()
    except redis.ConnectionError:
        pytest.skip("no Redis listens at 127.0.0.1:6379")
    name = f"stillhouse_budgets_{os.getpid()}"
    yield name
    if keys := list(client.scan_iter(f"{name}:*")):
        client.delete(*keys)
    client.close()


@pytest.fixture(params=["memory", "redis"])
def store(request):
    """Settings of a store, each kind in turn."""
    if request.param == "memory":
        return {"url": "memory://"}
    return {"url": REDIS, "prefix": request.getfixturevalue("prefix")}


def run(work, budget_of=lambda _: ONE, **settings):
    """Do `work` with budgets in a store, which has much time, and let go of it."""

    async def main():
        budgets = open_budgets(budget_of, **{"timeout_s": 20, **settings})
        try:
            return await work(budgets)
        finally:
            await budgets.close()

    return asyncio.run(main())


async def outcomes(*calls):
    """Of calls at once: what passed, and the refusals."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    refusals = [result for result in results if isinstance(result, BaseException)]
    assert all(isinstance(refusal, ServiceError) for refusal in refusals), refusals
    return [result for result in results if result not in refusals], refusals


def test_of_many_requests_at_once_exactly_one_passes_a_budget_for_one(store):
    async def work(budgets):
        return await outcomes(*(budgets.reserve("acme", 0.6) for _ in range(50)))

    passed, refusals = run(work, **store)
    assert len(passed) == 1
    assert {refusal.refusal for refusal in refusals} == {"budget_exceeded"}
    assert all(refusal.retry_after_s == 1.0 for refusal in refusals), "it may be given back soon"


def test_what_was_not_used_can_be_spent_by_others(store):
    async def work(budgets):
        first = await budgets.reserve("acme", 1.0)
        await budgets.settle(first, 0.4)
        await budgets.settle(first, 0.9)  # once
        too_much = await outcomes(budgets.reserve("acme", 0.600000001))
        return too_much, await outcomes(budgets.reserve("acme", 0.6))

    (_, (refused,)), (passed, _) = run(work, **store)
    assert "has spent 0.4" in refused.message and refused.retry_after_s > 1.0
    assert len(passed) == 1


def test_many_small_sums_come_to_exactly_the_budget(store):
    async def work(budgets):
        for _ in range(200):
            await budgets.settle(await budgets.reserve("acme", 0.005), 0.005)
        passed, _ = await outcomes(budgets.reserve("acme", 0.0))
        return len(passed), await outcomes(budgets.reserve("acme", 1e-9))

    nothing, (_, refusals) = run(work, **store)
    assert (nothing, len(refusals)) == (1, 1)


def test_what_was_used_beyond_the_reserved_is_charged_too(store):
    async def work(budgets):
        await budgets.settle(await budgets.reserve("acme", 0.1), 1.5)
        return await outcomes(budgets.reserve("acme", 0.0))

    assert run(work, **store)[1][0].refusal == "budget_exceeded"


def test_of_a_use_that_nobody_knows_all_is_spent(store):
    async def work(budgets):
        await budgets.settle(await budgets.reserve("acme", 0.7), None)
        return await outcomes(budgets.reserve("acme", 0.4))

    assert "has spent 0.7" in run(work, **store)[1][0].message


def test_tenants_have_accounts_of_their_own_and_none_is_no_limit(store):
    async def work(budgets):
        await budgets.reserve("acme", 1.0)
        free = [await budgets.reserve("free", 10.0**6) for _ in range(3)]
        await budgets.settle(free[0], 1.0)
        passed, _ = await outcomes(budgets.reserve("blue", 1.0))
        return free, len(passed)

    assert run(work, lambda name: None if name == "free" else ONE, **store) == ([None] * 3, 1)


def test_a_request_that_never_fits_is_told_so_and_not_to_wait(store):
    async def work(budgets):
        return await outcomes(budgets.reserve("acme", 1.01))

    _, (refusal,) = run(work, **store)
    assert "never fits" in refusal.message and refusal.retry_after_s is None


def test_replicas_share_one_budget(prefix):
    async def work(first):
        second = open_budgets(lambda _: ONE, REDIS, prefix=prefix, timeout_s=20)
        calls = [one.reserve("acme", 0.3) for one in (first, second) for _ in range(25)]
        passed, _ = await outcomes(*calls)
        await second.close()
        return len(passed)

    assert run(work, url=REDIS, prefix=prefix) == 3


def test_a_changed_budget_holds_from_the_next_request_on(store):
    budgets_now = {"acme": Budget(1.0)}

    async def work(budgets):
        await budgets.settle(await budgets.reserve("acme", 1.0), 1.0)
        before, _ = await outcomes(budgets.reserve("acme", 0.5))
        budgets_now["acme"] = Budget(2.0)
        after, _ = await outcomes(budgets.reserve("acme", 0.5))
        return len(before), len(after)

    assert run(work, budgets_now.get, **store) == (0, 1)


@pytest.fixture(params=["memory", "redis"])
def open_ledger(request):
    """Makes a store whose holds last so long [s]."""
    if request.param == "memory":
        return MemoryLedger
    name = request.getfixturevalue("prefix")
    return lambda hold_s: RedisLedger(REDIS, ca_file=None, prefix=name, hold_s=hold_s, timeout_s=20)


ACCOUNT = Account("acme", "2026-11", datetime(2100, 1, 1, tzinfo=UTC).timestamp())


def test_holds_of_a_process_that_died_end_and_what_it_spent_stays(open_ledger):
    async def work():
        ledger = open_ledger(0.05)
        await ledger.take(Hold(ACCOUNT, "a", 30), 100)
        await ledger.settle(Hold(ACCOUNT, "a", 30), 30, True)
        assert await ledger.take(Hold(ACCOUNT, "b", 70), 100) == (True, 30, 70)
        while not (standing := await ledger.take(Hold(ACCOUNT, "c", 70), 100)).taken:
            assert standing == (False, 30, 70)
            await asyncio.sleep(0.01)
        await ledger.close()
        return standing

    assert asyncio.run(work()) == (True, 30, 70)


def test_a_call_that_is_made_twice_counts_once(open_ledger):
    async def work():
        ledger, hold = open_ledger(60.0), Hold(ACCOUNT, "a", 30)
        twice = [await ledger.take(hold, 30), await ledger.take(hold, 30)]
        for _ in range(2):
            await ledger.settle(hold, 20, False)
        rest = await ledger.take(Hold(ACCOUNT, "b", 81), 100)
        await ledger.close()
        return twice, rest

    assert asyncio.run(work()) == ([(True, 0, 30)] * 2, (False, 20, 0))


def test_a_settlement_after_the_holds_end_is_spent(open_ledger):
    async def work():
        ledger = open_ledger(60.0)
        await ledger.settle(Hold(ACCOUNT, "late", 30), 30, True)
        standing = await ledger.take(Hold(ACCOUNT, "b", 71), 100)
        await ledger.close()
        return standing

    assert asyncio.run(work()) == (False, 30, 0)


@pytest.mark.parametrize(
    ("kind", "at", "name", "ends"),
    [
        ("day", (2026, 2, 28, 23, 59), "2026-02-28", (2026, 3, 1)),
        ("month", (2026, 2, 1), "2026-02", (2026, 3, 1)),
        ("month", (2026, 12, 31, 23), "2026-12", (2027, 1, 1)),
        ("month", (2024, 1, 31), "2024-01", (2024, 2, 1)),
    ],
)
def test_days_and_months_begin_at_midnight_utc(kind, at, name, ends):
    period = period_at(datetime(*at, tzinfo=UTC).timestamp(), kind)
    assert (period.name, period.ends_s) == (name, datetime(*ends, tzinfo=UTC).timestamp())
