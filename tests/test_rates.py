"""Limits per minute: atomic in memory and in a real Redis, closed when the store is away."""

import asyncio
import logging
import os
import ssl

import pytest
from limits.aio.storage import MemoryStorage
from redis_servers import forward, hang, listening, unused_port, write_certificate

from serving._items import ServiceError
from serving._rates import Rates, open_rates, seconds_until
from serving.errors import StillhouseError

REDIS = "redis://127.0.0.1:6379"


@pytest.fixture
def prefix():
    """Keys of our own in the local Redis, deleted afterwards; skips where there is none."""
    redis = pytest.importorskip("redis")
    client = redis.Redis.from_url(REDIS, socket_connect_timeout=3)
    try:
        client.ping()
    except redis.ConnectionError:
        pytest.skip("no Redis listens at 127.0.0.1:6379")
    name = f"stillhouse_test_{os.getpid()}"
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


def run(work, timeout_s=20, **settings):
    """Do `work` with limits in a store, which has much time, and let go of it."""

    async def main():
        rates = open_rates(**settings, timeout_s=timeout_s)
        try:
            return await work(rates)
        finally:
            await rates.close()

    return asyncio.run(main())


async def outcomes(*calls):
    """Of calls at once: how many passed, and the refusals."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    refusals = [result for result in results if isinstance(result, BaseException)]
    assert all(isinstance(refusal, ServiceError) for refusal in refusals), refusals
    return len(results) - len(refusals), refusals


def test_of_many_requests_at_once_exactly_one_passes_a_limit_of_one(store):
    async def work(rates):
        return await outcomes(*(rates.count_request("k1", 1) for _ in range(100)))

    passed, refusals = run(work, **store)
    assert passed == 1
    assert {(r.refusal, r.status) for r in refusals} == {("rate_limited", 429)}
    assert all(0 < r.retry_after_s <= 60 for r in refusals)


def test_of_many_reservations_at_once_as_many_pass_as_there_are_tokens_for(store):
    async def work(rates):
        return await outcomes(*(rates.reserve_tokens("k1", 1000, 300) for _ in range(60)))

    passed, refusals = run(work, **store)
    assert passed == 3
    assert {r.refusal for r in refusals} == {"rate_limited"}
    assert all(0 < r.retry_after_s <= 120 for r in refusals)


def test_two_replicas_share_one_limit(prefix):
    async def work(first):
        second = open_rates(REDIS, prefix=prefix, timeout_s=20)
        calls = [rates.count_request("k1", 5) for rates in (first, second) for _ in range(40)]
        passed, _ = await outcomes(*calls)
        await second.close()
        return passed

    assert run(work, url=REDIS, prefix=prefix) == 5


def test_keys_have_limits_of_their_own_and_none_is_no_limit(store):
    async def work(rates):
        await rates.count_request("k1", 1)
        await rates.count_request("k2", 1)
        assert await rates.reserve_tokens("k1", None, 10**9) is None
        return await outcomes(*(rates.count_request("k1", None) for _ in range(5)))

    assert run(work, **store) == (5, [])


def test_tokens_that_were_not_used_can_be_used_again(store):
    async def work(rates):
        reserved = await rates.reserve_tokens("k1", 1000, 1000)
        await rates.correct_tokens(reserved, 400)
        await rates.correct_tokens(reserved, 100)
        await rates.correct_tokens(reserved, 500)  # never upwards
        assert (await outcomes(rates.reserve_tokens("k1", 1000, 901)))[0] == 0
        return await outcomes(rates.reserve_tokens("k1", 1000, 900))

    assert run(work, **store) == (1, [])


def test_tokens_of_an_earlier_window_are_not_given_back_into_a_later_one(store):
    async def work(rates):
        reserved = await rates.reserve_tokens("k1", 1000, 1000)
        reserved.made_at -= 61
        await rates.correct_tokens(reserved, 0)
        return await outcomes(rates.reserve_tokens("k1", 1000, 900))

    assert run(work, **store)[0] == 0


def test_a_bound_above_the_limit_is_cut_to_it_and_true_tokens_decide(store):
    async def work(rates):
        reserved = await rates.reserve_tokens("k1", 1000, 4000)
        (error,) = (await outcomes(rates.correct_tokens(reserved, 1001)))[1]
        await rates.correct_tokens(reserved, 10)
        return error, await outcomes(rates.reserve_tokens("k1", 1000, 990))

    error, passed = run(work, **store)
    assert (error.refusal, error.retry_after_s) == ("prompt_too_long", None)
    assert passed == (1, [])


@pytest.mark.parametrize(
    ("tokens", "window", "seconds"),
    [
        # limit 100; (tokens before, until they weigh nothing, tokens now, until those do)
        (10, (0, 0.0, 95, 100.0), 40 + 60 * (1 - 90 / 95)),
        (100, (0, 0.0, 100, 120.0), 120.0),
        (10, (60, 30.0, 80, 90.0), 30 - 60 * 10 / 60),
        (10, (60, 30.0, 90, 90.0), 30.0),
        (10, (60, 30.0, 0, 90.0), 0.0),
        (10, (0, 0.0, 0, 0.0), 0.0),
    ],
)
def test_the_wait_is_until_the_window_has_room(tokens, window, seconds):
    assert seconds_until(tokens, 100, *window) == pytest.approx(seconds)


def test_a_store_that_is_away_refuses_everything_and_says_so_once(caplog):
    caplog.set_level(logging.DEBUG)

    async def work(rates):
        calls = [rates.count_request("k1", 10**6) for _ in range(5)]
        return await outcomes(*calls, *(rates.reserve_tokens("k1", 10**6, 1) for _ in range(5)))

    passed, refusals = run(work, url=f"redis://:SECRET@127.0.0.1:{unused_port()}")
    assert passed == 0
    assert {(r.refusal, r.status) for r in refusals} == {("unavailable", 503)}
    assert all(r.retry_after_s > 0 for r in refusals)
    told = [record for record in caplog.records if record.name.startswith("serving")]
    assert len(told) == 1 and told[0].levelname == "ERROR"
    assert "SECRET" not in caplog.text + refusals[0].message


def test_a_store_that_never_answers_refuses_in_time():
    port = unused_port()

    async def work(rates):
        async with listening(hang, port):
            passed, refusals = await outcomes(*(rates.count_request("k1", 9) for _ in range(50)))
        return passed, {refusal.refusal for refusal in refusals}

    assert run(work, url=f"redis://127.0.0.1:{port}", timeout_s=0.05) == (0, {"unavailable"})


def test_a_store_of_any_kind_is_waited_for_no_longer_than_allowed():
    async def never(*_, **__):
        await asyncio.Event().wait()

    storage = MemoryStorage()
    storage.acquire_entry = never
    calls = outcomes(Rates(storage, timeout_s=0.01).count_request("k1", 9))
    assert asyncio.run(calls)[1][0].refusal == "unavailable"


def test_limits_are_counted_again_when_the_store_is_back(prefix, caplog):
    caplog.set_level(logging.INFO)
    port = unused_port()

    async def work(rates):
        before = await outcomes(rates.reserve_tokens("k1", 10, 10))
        async with listening(forward, port):
            after = await outcomes(*(rates.count_request("k1", 1) for _ in range(3)))
        return before[0], after[0]

    assert run(work, url=f"redis://127.0.0.1:{port}", prefix=prefix) == (0, 1)
    assert "limits are counted again" in caplog.messages


def test_a_correction_that_cannot_be_made_costs_only_the_tokens(prefix):
    port = unused_port()

    async def work(rates):
        async with listening(forward, port):
            reserved = await rates.reserve_tokens("k1", 10, 10)
        await rates.correct_tokens(reserved, 1)

    run(work, url=f"redis://127.0.0.1:{port}", prefix=prefix)


def test_over_tls_a_store_is_trusted_by_its_certificate_alone(prefix, tmp_path):
    port, url = unused_port(), "rediss://127.0.0.1:{}"
    certificate = tmp_path / "redis.pem"
    write_certificate(certificate)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)

    async def work(known):
        stranger = open_rates(url.format(port), prefix=prefix, timeout_s=20)
        async with listening(forward, port, tls):
            passed = await outcomes(*(known.count_request("k1", 2) for _ in range(5)))
            not_trusted = await outcomes(stranger.count_request("k2", 2))
            await known.close()
        await stranger.close()
        return passed[0], not_trusted[0]

    assert run(work, url=url.format(port), ca_file=certificate, prefix=prefix) == (2, 0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "http://:SECRET@127.0.0.1"}, "http://"),
        ({"url": "SECRET"}, "memory://"),
        ({"url": "redis://:SECRET@127.0.0.1:port"}, "malformed"),
        ({"url": "redis://:SECRET@127.0.0.1"}, "host:port"),
        ({"url": "rediss://:SECRET@127.0.0.1?ssl_cert_reqs=none"}, "ssl_cert_reqs"),
        ({"url": "rediss://:SECRET@127.0.0.1?ssl_check_hostname=false"}, "ssl_check_hostname"),
        ({"url": "redis://:SECRET@127.0.0.1", "ca_file": "ca.pem"}, "rediss://"),
    ],
)
def test_another_store_or_tls_that_checks_nothing_is_refused(settings, said):
    with pytest.raises(StillhouseError, match=said) as caught:
        open_rates(**settings)
    assert "SECRET" not in str(caught.value)
