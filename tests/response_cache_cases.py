"""What the tests of the response cache share: counted events, one Redis of their own."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections import Counter

import pytest
from redis_servers import unused_port

from serving._responses.cache import ResponseCache
from serving._responses.tiered import Tiers
from serving._responses.tiers import MemoryTier

KEY = "0" * 63 + "1"


def key(number):
    """One of many keys."""
    return f"{number:064x}"


class Events(Counter):
    """Counts what it is told: events[tier, event]."""

    def __call__(self, tier, event):
        self[tier, event] += 1


class Dict:
    """A tier without bounds; raises `fault` while there is one, waits while `gate` is shut."""

    largest_bytes = 10_000

    def __init__(self, name="redis"):
        self.name = name
        self.values = {}
        self.fault = None
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def get(self, key):
        return await self._call(lambda: self.values.get(key))

    async def put(self, key, value, ttl_s):
        await self._call(lambda: self.values.__setitem__(key, value))

    async def delete(self, key):
        await self._call(lambda: self.values.pop(key, None))

    async def close(self):
        self.values = {}

    async def _call(self, act):
        self.calls += 1
        await self.gate.wait()
        if self.fault:
            raise self.fault
        return act()


def memory_cache(events=None, **settings):
    """A cache in memory alone."""
    events = events if events is not None else Events()
    return ResponseCache(Tiers([MemoryTier(100, 100_000)], events, 60.0, **settings), events)


async def until(condition):
    """Wait for what happens in the background."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


class RedisProcess:
    """A redis-server that can be killed and started again."""

    def __init__(self):
        self.port = unused_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._process = None

    def start(self):
        redis = pytest.importorskip("redis")
        if not (program := shutil.which("redis-server")):
            pytest.skip("redis-server is not installed")
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        client = redis.Redis(port=self.port, socket_connect_timeout=0.5)
        for _ in range(1000):
            with contextlib.suppress(redis.ConnectionError):
                if client.ping():
                    break
            if self._process.poll() is not None:
                raise RuntimeError("redis-server ended when it was started")
        client.close()

    def kill(self):
        """End it as a power cut would."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def redis_process():
    """A Redis of the test's own, started."""
    server = RedisProcess()
    server.start()
    yield server
    server.kill()


@pytest.fixture
def redis_prefix():
    """Keys of our own in the local Redis, deleted afterwards; skips where there is none."""
    redis = pytest.importorskip("redis")
    client = redis.Redis.from_url("redis://127.0.0.1:6379", socket_connect_timeout=3)
    try:
        client.ping()
    except redis.ConnectionError:
        pytest.skip("no Redis listens at 127.0.0.1:6379")
    name = f"stillhouse_test_cache_{os.getpid()}"
    yield name
    if keys := list(client.scan_iter(f"{name}:*")):
        client.delete(*keys)
    client.close()
