"""The tier in an object store: S3's protocol against moto's server, files, fsspec's memory."""

import asyncio

import pytest
from redis_servers import hang, listening, unused_port
from response_cache_cases import KEY, Events, key

from serving._responses.cache import ResponseCache
from serving._responses.object_tier import ObjectTier
from serving._responses.opening import open_tiers
from serving._responses.tiered import Tiers

LONG_S = 20.0  # a limit that a loaded machine keeps


@pytest.fixture(scope="module")
def s3():
    """Address of moto's server, with a bucket."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        set_account(patch, f"http://{host}:{port}")
        from s3fs import S3FileSystem

        S3FileSystem(skip_instance_cache=True).mkdir("answers")
        yield f"http://{host}:{port}"
    server.stop()


def set_account(patch, address):
    patch.setenv("AWS_ENDPOINT_URL", address)
    patch.setenv("AWS_ACCESS_KEY_ID", "name")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture(params=["s3", "file", "memory"])
def url(request, tmp_path):
    """An address of each kind, nothing in it."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        return f"s3://answers/{tmp_path.name}"
    return f"file://{tmp_path}/objects" if request.param == "file" else f"memory://{tmp_path.name}"


def test_what_is_kept_is_found_by_another_replica_and_replaced_and_deleted(url):
    async def main():
        one, other = (ObjectTier(url, timeout_s=LONG_S) for _ in range(2))
        assert await one.get(KEY) is None
        await one.put(KEY, b"\x00value\xff", 60)
        assert await other.get(KEY) == b"\x00value\xff"
        await one.put(KEY, b"new", 60)
        assert await other.get(KEY) == b"new"
        await other.delete(KEY)
        await other.delete(KEY)
        assert await one.get(KEY) is None
        await asyncio.gather(one.close(), other.close())

    asyncio.run(main())


def test_answers_outlive_memory_and_a_renamed_object_does_not_serve(url):
    async def main():
        events = Events()
        tiers = [open_tiers(events, object_url=url, object_timeout_s=LONG_S) for _ in range(2)]
        await tiers[0].put(KEY, b"payload")
        await tiers[0].settle()
        assert (await tiers[1].get(KEY)).tier == "object"
        assert (await tiers[1].get(KEY)).tier == "memory"
        tier = ObjectTier(url, timeout_s=LONG_S)
        await tier.put(key(2), await tier.get(KEY), 60)
        assert await tiers[1].get(key(2)) is None and events["object", "corrupt"] == 1
        await tiers[1].settle()
        assert await tier.get(key(2)) is None
        await asyncio.gather(*(it.close() for it in (*tiers, tier)))

    asyncio.run(main())


@pytest.mark.parametrize("value", [b"", b"x" * 5_000])
def test_an_empty_or_too_long_object_is_deleted(url, value):
    async def main():
        events, tier = Events(), ObjectTier(url, largest_bytes=1_000, timeout_s=LONG_S)
        await tier.put(KEY, value, 60)
        assert len(await tier.get(KEY)) <= 1_001
        tiers = Tiers([tier], events, 60.0)
        assert await tiers.get(KEY) is None
        await tiers.settle()
        assert events == {("object", "corrupt"): 1} and await tier.get(KEY) is None
        await tiers.close()

    asyncio.run(main())


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    async def main():
        tier = ObjectTier(f"file://{tmp_path}", timeout_s=LONG_S)
        await tier.put(KEY, b"old", 60)
        (tmp_path / KEY[:2]).chmod(0o700)
        found = {path.name for path in (tmp_path / KEY[:2]).iterdir()}
        assert found == {KEY}
        blocked = tmp_path / key(1 << 248)[:2]
        blocked.write_text("a file where a folder should be")
        with pytest.raises(OSError):
            await tier.put(key(1 << 248), b"value", 60)
        await tier.close()

    asyncio.run(main())


def test_an_s3_that_is_away_is_a_fault_and_a_miss(s3, monkeypatch):
    async def main():
        set_account(monkeypatch, f"http://127.0.0.1:{unused_port()}")
        events = Events()
        tiers = open_tiers(events, memory_entries=0, object_url="s3://answers", object_timeout_s=5)
        cache = ResponseCache(tiers, events)

        async def make():
            return {"text": "made"}

        assert await cache.fetch(KEY, make) == ({"text": "made"}, "miss")
        await tiers.settle()
        assert events == {("object", "fault"): 2}
        await cache.close()

    asyncio.run(main())


def test_a_store_that_hangs_costs_its_limit_and_no_request(s3, monkeypatch):
    async def main():
        port, events = unused_port(), Events()
        set_account(monkeypatch, f"http://127.0.0.1:{port}")
        async with listening(hang, port):
            tiers = open_tiers(
                events, memory_entries=0, object_url="s3://answers", object_timeout_s=0.2
            )
            assert await tiers.get(KEY) is None
            assert events == {("object", "fault"): 1}
            await tiers.close()

    asyncio.run(main())
