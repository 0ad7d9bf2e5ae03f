"""The tier in a real Redis: shared, expiring, over TLS; away, silent or killed, it is a miss."""

import asyncio
import ssl
from functools import partial

import pytest
from redis_servers import forward, hang, listening, unused_port, write_certificate
from response_cache_cases import (
    KEY,
    Events,
    key,
    redis_prefix,  # noqa: F401
    redis_process,  # noqa: F401
    until,
)

from serving._responses.cache import ResponseCache
from serving._responses.opening import open_tiers
from serving._responses.redis_tier import RedisTier

REDIS = "redis://127.0.0.1:6379"
LONG_S = 10.0  # a limit that a loaded machine keeps


@pytest.fixture(name="prefix")
def _prefix(request):
    return request.getfixturevalue("redis_prefix")


def run(work):
    asyncio.run(work())


async def answer(number):
    return {"text": f"answer {number}"}


def test_a_replica_finds_what_another_kept_until_it_is_deleted(prefix):
    async def main():
        tiers = [RedisTier(REDIS, prefix=prefix, timeout_s=LONG_S) for _ in range(2)]
        await tiers[0].put(KEY, b"\x00value\xff", 60)
        found = await asyncio.gather(*(tiers[1].get(k) for k in (KEY, key(2), KEY)))
        assert found == [b"\x00value\xff", None, b"\x00value\xff"]
        await tiers[1].delete(KEY)
        assert await tiers[0].get(KEY) is None
        await asyncio.gather(*(tier.close() for tier in tiers))

    run(main)


def test_redis_forgets_by_itself(prefix):
    async def main():
        tier = RedisTier(REDIS, prefix=prefix, timeout_s=LONG_S)
        await tier.put(KEY, b"value", 0.05)
        async with asyncio.timeout(10):
            while await tier.get(KEY):
                await asyncio.sleep(0.005)
        await tier.close()

    run(main)


def test_many_reads_at_once_get_each_its_own_value(prefix):
    async def main():
        tier = RedisTier(REDIS, prefix=prefix, timeout_s=LONG_S)
        await asyncio.gather(*(tier.put(key(n), b"%d" % n, 60) for n in range(0, 150, 2)))
        reads = [asyncio.create_task(tier.get(key(n))) for n in range(150)]
        await asyncio.sleep(0)
        reads[0].cancel()
        found = await asyncio.gather(*reads, return_exceptions=True)
        assert found[1:] == [None if n % 2 else b"%d" % n for n in range(1, 150)]
        await tier.close()

    run(main)


@pytest.mark.parametrize("trusted", [True, False])
def test_over_tls_a_server_is_checked(prefix, tmp_path, trusted):
    async def main():
        write_certificate(tmp_path / "server.pem")
        write_certificate(tmp_path / "other.pem")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(tmp_path / "server.pem")
        authorities = tmp_path / ("server.pem" if trusted else "other.pem")
        port, events = unused_port(), Events()
        async with listening(forward, port, tls):
            tiers = open_tiers(
                events,
                memory_entries=0,
                redis_url=f"rediss://127.0.0.1:{port}",
                redis_ca=authorities,
                redis_timeout_s=LONG_S,
                prefix=prefix,
            )
            await tiers.put(KEY, b"payload")
            await tiers.settle()
            assert bool(await tiers.get(KEY)) == trusted
            assert events["redis", "fault"] == (0 if trusted else 2)
            await tiers.close()

    run(main)


@pytest.mark.parametrize("server", ["away", "silent"])
def test_a_redis_that_does_not_answer_costs_its_limit_and_no_request(server):
    async def main():
        port, events = unused_port(), Events()
        tiers = open_tiers(
            events, redis_url=f"redis://127.0.0.1:{port}", redis_timeout_s=0.02, memory_entries=0
        )
        cache = ResponseCache(tiers, events)
        async with listening(hang, port if server == "silent" else unused_port()):
            for number in range(20):
                found = await cache.fetch(key(number), partial(answer, number))
                assert found == ({"text": f"answer {number}"}, "miss")
            await tiers.settle()
            await cache.close()
        assert events["redis", "fault"] >= 5 and events["redis", "skipped"] > 20

    run(main)


def test_redis_killed_under_load_fails_no_request_and_hits_come_back(redis_process):  # noqa: F811
    async def main():
        events = Events()
        tiers = open_tiers(
            events,
            memory_entries=0,
            redis_url=redis_process.url,
            redis_timeout_s=1.0,
            pause_s=0.05,
        )
        cache, done, stop = ResponseCache(tiers, events), Events(), asyncio.Event()

        async def caller(first):
            number = first
            while not stop.is_set():
                number = (number + 7) % 50
                body, outcome = await cache.fetch(key(number), partial(answer, number))
                assert body == {"text": f"answer {number}"}
                done["cache", outcome] += 1
                await asyncio.sleep(0)

        callers = [asyncio.create_task(caller(first)) for first in range(32)]
        await until(lambda: done["cache", "redis"] > 200)
        await asyncio.to_thread(redis_process.kill)
        await until(lambda: events["redis", "fault"] >= 5 and events["redis", "skipped"] > 100)
        hits, misses = done["cache", "redis"], done["cache", "miss"]
        await until(lambda: done["cache", "miss"] > misses + 100)
        assert done["cache", "redis"] == hits  # none while it is away
        await asyncio.to_thread(redis_process.start)
        await until(lambda: done["cache", "redis"] > hits + 200)
        stop.set()
        await asyncio.gather(*callers)  # every answer was right
        await cache.close()

    run(main)
