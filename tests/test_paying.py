"""Money of requests to the student alone: the most is kept first, what it took is charged after."""

import asyncio
from contextlib import suppress

import pytest

from serving._entry_items import Prepared
from serving._items import Answer, Item, ServiceError
from serving._paying import Paying
from serving._spending.budgets import open_budgets
from serving._spending.periods import Budget

HOURLY_USD = 3600.0  # a dollar per second


def made(seconds=2.0, rows=2):
    return Answer(id="a", compute_s=seconds, batch_rows=rows)


def prepared(*times):
    items = tuple(Item(id=str(n), prompt="fish", timeout_s=one) for n, one in enumerate(times))
    return Prepared(items, 0, 0)


async def left(budgets, usd):
    """Whether so much is left; it is given back."""
    with suppress(ServiceError):
        await budgets.settle(await budgets.reserve("anonymous", usd), 0.0)
        return True
    return False


def paying(usd):
    budgets = open_budgets(lambda _: Budget(usd))
    return budgets, Paying(budgets, HOURLY_USD, 30.0)


@pytest.mark.parametrize(("times", "most"), [((9.0,), 9.0), ((None,), 30.0), ((9.0, 9.0), 18.0)])
def test_all_the_time_of_all_items_is_reserved(times, most):
    async def work():
        budgets, pays = paying(100.0)
        async with pays.paid(prepared(*times), []):
            assert await left(budgets, 100.0 - most) and not await left(budgets, 100.01 - most)

    asyncio.run(work())


def test_a_request_that_may_cost_more_than_is_left_is_refused():
    async def work():
        _, pays = paying(8.9)
        with pytest.raises(ServiceError) as caught:
            async with pays.paid(prepared(9.0), []):
                raise AssertionError("it was let in")
        assert caught.value.refusal == "budget_exceeded"

    asyncio.run(work())


def test_shares_of_micro_batches_are_charged():
    async def work():
        budgets, pays = paying(10.0)
        async with pays.paid(prepared(9.0), [made(), made(3.0, 1)]) as bill:
            bill.known = True
        assert await left(budgets, 6.0) and not await left(budgets, 6.01)

    asyncio.run(work())


@pytest.mark.parametrize("ending", [asyncio.CancelledError, ValueError])
def test_where_nobody_knows_what_was_used_all_of_it_is_spent(ending):
    async def work():
        budgets, pays = paying(10.0)
        with suppress(ending):
            async with pays.paid(prepared(9.0), [made()]):
                raise ending
        assert await left(budgets, 1.0) and not await left(budgets, 1.01)

    asyncio.run(work())


def test_usage_says_what_is_charged():
    _, pays = paying(1.0)
    used = pays.used([made(), made(3.0, 1)])
    assert used == {"cost_usd": 4.0, "compute_s": 4.0, "cost_by_rung": {"student": 4.0}}
    assert pays.used([])["cost_usd"] == 0.0
