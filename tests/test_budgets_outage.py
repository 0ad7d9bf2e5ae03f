"""Budgets whose store is away, silent or slow: nobody spends what is not counted."""

import asyncio
import logging
import ssl

import pytest
from redis_servers import forward, hang, listening, unused_port, write_certificate
from test_budgets import ONE, REDIS, outcomes, prefix, run  # noqa: F401

from serving._spending.budgets import open_budgets
from serving.errors import StillhouseError


def test_a_store_that_is_away_refuses_everything_and_says_so_once(caplog):
    caplog.set_level(logging.DEBUG)

    async def work(budgets):
        return await outcomes(*(budgets.reserve("acme", 0.0) for _ in range(5)))

    passed, refusals = run(work, url=f"redis://:SECRET@127.0.0.1:{unused_port()}")
    assert passed == []
    assert {(r.refusal, r.status) for r in refusals} == {("unavailable", 503)}
    assert all(r.retry_after_s > 0 for r in refusals)
    told = [one.message for one in caplog.records if "budgets cannot" in one.message]
    assert len(told) == 1
    assert "SECRET" not in caplog.text + refusals[0].message


def test_a_tenant_without_a_budget_does_not_need_the_store():
    async def work(budgets):
        reservation = await budgets.reserve("free", 5.0)
        await budgets.settle(reservation, 5.0)
        return reservation

    assert run(work, lambda _: None, url=f"redis://127.0.0.1:{unused_port()}") is None


def test_a_store_that_never_answers_refuses_in_time():
    port = unused_port()

    async def work(budgets):
        async with listening(hang, port):
            return await outcomes(*(budgets.reserve("acme", 0.1) for _ in range(50)))

    passed, refusals = run(work, url=f"redis://127.0.0.1:{port}", timeout_s=0.05)
    assert passed == [] and {one.refusal for one in refusals} == {"unavailable"}


def test_what_was_spent_during_an_outage_counts_when_the_store_is_back(prefix, caplog):  # noqa: F811
    caplog.set_level(logging.INFO)
    port = unused_port()

    async def work(budgets):
        async with listening(forward, port):
            reserved = await budgets.reserve("acme", 0.9)
        await budgets.settle(reserved, 0.8)
        away = await outcomes(budgets.reserve("acme", 0.1))
        async with listening(forward, port):
            back = await outcomes(budgets.reserve("acme", 0.2), budgets.reserve("acme", 0.21))
        return away[0], back

    away, (passed, refusals) = run(work, url=f"redis://127.0.0.1:{port}", prefix=prefix)
    assert away == [] and len(passed) == 1
    assert [one.refusal for one in refusals] == ["budget_exceeded"]
    assert "budgets are counted again" in caplog.messages


def test_a_reservation_whose_caller_left_is_given_back():
    async def work(budgets):
        task = asyncio.ensure_future(budgets.reserve("acme", 1.0))
        entered, go_on = asyncio.Event(), asyncio.Event()
        take = budgets._ledger.take

        async def slow(hold, budget):
            standing = await take(hold, budget)
            entered.set()
            await go_on.wait()
            return standing

        budgets._ledger.take = slow
        await entered.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        budgets._ledger.take = take
        return await outcomes(budgets.reserve("acme", 1.0))

    passed, _ = run(work)
    assert len(passed) == 1


def test_money_that_could_not_be_counted_before_the_end_is_told(prefix, caplog):  # noqa: F811
    port = unused_port()

    async def work(budgets):
        async with listening(forward, port):
            reserved = await budgets.reserve("acme", 0.9)
        await budgets.settle(reserved, 0.25)

    run(work, url=f"redis://127.0.0.1:{port}", prefix=prefix)
    assert any("0.250000000 USD were spent and not" in one for one in caplog.messages)


def test_over_tls_a_store_is_trusted_by_its_certificate_alone(prefix, tmp_path):  # noqa: F811
    port, url = unused_port(), "rediss://127.0.0.1:{}"
    certificate = tmp_path / "redis.pem"
    write_certificate(certificate)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)

    async def work(known):
        stranger = open_budgets(lambda _: ONE, url.format(port), prefix=prefix, timeout_s=20)
        async with listening(forward, port, tls):
            passed, _ = await outcomes(*(known.reserve("acme", 0.5) for _ in range(5)))
            not_trusted, _ = await outcomes(stranger.reserve("blue", 0.5))
            await known.close()
        await stranger.close()
        return len(passed), not_trusted

    assert run(work, url=url.format(port), ca_file=certificate, prefix=prefix) == (2, [])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "http://:SECRET@127.0.0.1"}, "http://"),
        ({"url": "SECRET"}, "memory://"),
        ({"url": "redis://:SECRET@127.0.0.1:port"}, "malformed"),
        ({"url": "rediss://:SECRET@127.0.0.1?ssl_cert_reqs=none"}, "ssl_cert_reqs"),
        ({"url": f"{REDIS}?password=SECRET", "ca_file": "ca.pem"}, "rediss://"),
    ],
)
def test_another_store_or_tls_that_checks_nothing_is_refused(settings, said):
    with pytest.raises(StillhouseError, match=said) as caught:
        open_budgets(lambda _: ONE, **settings)
    assert "SECRET" not in str(caught.value)
