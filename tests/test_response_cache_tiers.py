"""Tiers: bounds, ages, faults that are misses, and what is found below and kept above."""

import asyncio
import logging

import pytest
from response_cache_cases import KEY, Dict, Events, key, until

from serving._responses.cache import ResponseCache
from serving._responses.guarded import Guarded
from serving._responses.opening import open_tiers
from serving._responses.tiered import Tiers
from serving._responses.tiers import ENTRY_BYTES, MemoryTier
from serving._responses.values import pack
from serving.errors import StillhouseError


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def test_memory_forgets_what_was_unused_for_longest():
    async def main():
        tier = MemoryTier(2, 100_000)
        for name in ("a", "b"):
            await tier.put(name, b"value", 60)
        await tier.get("a")
        await tier.put("c", b"value", 60)
        assert [await tier.get(name) for name in "abc"] == [b"value", None, b"value"]

    asyncio.run(main())


def test_memory_never_holds_more_bytes_than_it_may():
    async def main():
        tier = MemoryTier(1000, 10_000)
        for number in range(100):
            await tier.put(key(number), b"x" * (number * 9), 60)
            assert tier.bytes_held <= 10_000
        held = [number for number in range(100) if await tier.get(key(number)) is not None]
        sizes = [64 + number * 9 + ENTRY_BYTES for number in held]
        assert sum(sizes) == tier.bytes_held and len(held) == len(tier) > 5
        await tier.put(key(99), b"x" * 10_000, 60)
        assert await tier.get(key(99)) is None

    asyncio.run(main())


def test_memory_forgets_what_is_too_old():
    async def main():
        clock = Clock()
        tier = MemoryTier(10, 10_000, clock)
        await tier.put(KEY, b"value", 60)
        clock.now += 59.9
        assert await tier.get(KEY) == b"value"
        clock.now += 0.1
        assert await tier.get(KEY) is None and tier.bytes_held == 0

    asyncio.run(main())


def test_a_value_found_below_is_kept_above_for_the_rest_of_its_time():
    async def main():
        events, clock, below = Events(), Clock(), Dict("object")
        above, memory = Dict("redis"), MemoryTier(10, 100_000, clock)
        below.values[KEY] = pack(KEY, b"payload", clock.now - 50, 60.0)
        tiers = Tiers([memory, above, below], events, 60.0, clock=clock)
        assert await tiers.get(KEY) == (b"payload", clock.now - 50, "object")
        assert (await tiers.get(KEY)).tier == "memory"
        await tiers.settle()
        assert above.values == below.values
        clock.now += 10
        assert await memory.get(KEY) is None and await tiers.get(KEY) is None
        assert events["object", "hit"] == events["redis", "put"] == 1

    asyncio.run(main())


@pytest.mark.parametrize("created", [1000.0 - 60, 1000.0 + 600])
def test_a_value_that_is_too_old_or_from_the_future_is_a_miss_and_deleted(created):
    async def main():
        events, tier = Events(), Dict()
        tier.values[KEY] = pack(KEY, b"payload", created, 3600.0)  # kept when more was allowed
        tiers = Tiers([tier], events, 60.0, clock=Clock())
        assert await tiers.get(KEY) is None
        await tiers.settle()
        assert tier.values == {} and events == {("redis", "miss"): 1}

    asyncio.run(main())


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x80\x04K\x01.",
        pack(KEY, b'{"a":1}', 1000.0, 60.0)[:-1],
        pack(key(2), b'{"a":1}', 1000.0, 60.0),
        pack(KEY, b"x" * 20_000, 1000.0, 60.0),
    ],
    ids=["empty", "pickle", "truncated", "another key's", "too long"],
)
def test_a_value_that_is_not_ours_is_a_miss_and_deleted(value):
    async def main():
        events, tier = Events(), Dict()
        tier.values[KEY] = value
        tiers = Tiers([tier], events, 60.0, clock=Clock())
        assert await tiers.get(KEY) is None
        await tiers.settle()
        assert tier.values == {} and events == {("redis", "corrupt"): 1}

    asyncio.run(main())


@pytest.mark.parametrize("payload", [b"[1]", b"{", b"\xff", b"[" * 9_000])
def test_a_whole_value_that_is_no_answer_is_computed_anew(payload):
    async def main():
        tier = Dict()
        tier.values[KEY] = pack(KEY, payload, 1000.0, 60.0)
        cache = ResponseCache(Tiers([tier], Events(), 60.0, clock=Clock()), Events())

        async def make():
            return {"text": "new"}

        assert await cache.fetch(KEY, make) == ({"text": "new"}, "miss")

    asyncio.run(main())


def test_after_faults_in_a_row_a_tier_rests_until_one_probe_works(caplog):
    async def main():
        events, clock, tier = Events(), Clock(), Dict()
        guarded = Guarded(tier, events, most_faults=3, pause_s=5.0, clock=clock)
        tier.fault = OSError("secret")
        for _ in range(5):
            assert await guarded.get(KEY) is None
        assert tier.calls == 3 and events == {("redis", "fault"): 3, ("redis", "skipped"): 2}
        clock.now += 5
        await guarded.get(KEY)  # a probe that fails
        await guarded.get(KEY)
        assert tier.calls == 4
        clock.now, tier.fault = clock.now + 5, None
        tier.gate.clear()
        probes = [asyncio.create_task(guarded.get(KEY)) for _ in range(3)]
        await until(lambda: events["redis", "skipped"] == 5)
        tier.gate.set()
        await asyncio.gather(*probes)
        assert tier.calls == 5 and not guarded.resting

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    assert len(caplog.records) == 2 and "secret" not in caplog.text


def test_a_probe_that_is_cancelled_makes_room_for_the_next():
    async def main():
        clock, tier = Clock(), Dict()
        guarded = Guarded(tier, Events(), most_faults=1, pause_s=0.0, clock=clock)
        tier.fault = OSError()
        await guarded.get(KEY)
        tier.fault = None
        tier.gate.clear()
        probe = asyncio.create_task(guarded.get(KEY))
        await until(lambda: tier.calls == 2)
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        assert guarded.resting
        tier.gate.set()
        await guarded.get(KEY)
        assert not guarded.resting

    asyncio.run(main())


def test_slow_tiers_are_written_in_the_background_and_within_bounds():
    async def main():
        events, tier = Events(), Dict()
        tiers = Tiers([tier], events, 60.0, most_waiting=8, most_waiting_bytes=2_000)
        tier.gate.clear()
        for number in range(10):
            await tiers.put(key(number), b"small")
        assert events == {("redis", "dropped"): 2}
        tier.gate.set()
        await tiers.settle()
        assert len(tier.values) == events["redis", "put"] == 8
        tier.gate.clear()
        for number in range(3):
            await tiers.put(key(number), b"x" * 800)  # for the bytes, two at a time
        await tiers.put(key(3), b"x" * 10_000)  # for the tier, none
        assert events["redis", "dropped"] == 4
        await tiers.close(drain_s=0.001)

    asyncio.run(main())


def test_a_name_that_is_no_key_is_refused():
    async def main():
        for name in ("../../etc/passwd", "", "a" * 129, "A" * 64, "prompt text"):
            with pytest.raises(ValueError, match="digest"):
                await Tiers([], Events(), 60.0).get(name)

    asyncio.run(main())


@pytest.mark.parametrize(
    "settings",
    [
        {"redis_url": "http://127.0.0.1"},
        {"redis_url": "redis://:secret@127.0.0.1:port"},
        {"redis_url": "rediss://127.0.0.1?ssl_cert_reqs=none"},
        {"redis_url": "redis://127.0.0.1", "redis_ca": "ca.pem"},
        {"object_url": "ftp://host/folder"},
        {"object_url": "file://secret"},
        {"object_url": "s3://"},
        {"object_url": "s3://key:secret@bucket"},
        {"object_url": "file:///a::s3://b"},
    ],
)
def test_an_address_that_does_not_fit_stops_the_start_and_is_not_shown(settings):
    with pytest.raises(StillhouseError) as error:
        open_tiers(Events(), **settings)
    assert "secret" not in str(error.value)
