"""The tier in Redis: shared by all replicas, fast, and forgetful by its own rules.

A server for answers evicts (maxmemory-policy allkeys-lru); the one that counts rates and budgets
must not (serving/_rates.py, serving/_spending), so they are two servers.

Keys that are asked for at the same moment are read by one MGET: with many requests at once most
of what a read costs is the client's own work per command. One server, or one address before
several; the slots of a Redis Cluster would not let one command read keys of several.
"""

import asyncio
from pathlib import Path

from serving._redis import open_redis
from serving._responses.tiers import TierName

CONNECTIONS = 16
KEYS_PER_READ = 64


class RedisTier:
    """Values under a prefix of a Redis server. Of one event loop."""

    name: TierName = "redis"

    def __init__(
        self,
        url: str,
        ca_file: Path | None = None,
        *,
        prefix: str = "stillhouse:cache",
        largest_bytes: int = 262_144,
        timeout_s: float = 0.05,
    ) -> None:
        """Nothing connects yet.

        Args:
            url: redis:// or, over TLS, rediss://.
            ca_file: Authorities that sign the server's certificate, where the system's do not.
            prefix: Of all keys.
            largest_bytes: Longest value.
            timeout_s: Longest that a read or write may take, and a connection to be made [s].

        Raises:
            StillhouseError: another kind of address, or TLS that checks nothing. The address is
                not shown: it may hold a password.
        """
        self.largest_bytes = largest_bytes
        self._prefix = prefix
        self._timeout_s = timeout_s
        self._client = open_redis(
            url,
            ca_file,
            of="the cache's Redis",
            connections=CONNECTIONS,
            timeout_s=timeout_s,
            step_s=timeout_s,
        )
        self._asked: dict[str, asyncio.Future[bytes | None]] = {}
        self._reads: set[asyncio.Task[None]] = set()

    async def get(self, key: str) -> bytes | None:
        """The value, read together with all that are asked for at this moment."""
        future = self._asked.get(key)
        if future is None:
            if not self._asked:
                asyncio.get_running_loop().call_soon(self._read_asked)
            future = self._asked[key] = asyncio.get_running_loop().create_future()
        return await asyncio.shield(future)  # others may wait for it, too

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value; Redis forgets it by itself."""
        async with asyncio.timeout(self._timeout_s):
            await self._client.set(self._name(key), value, px=max(int(ttl_s * 1000), 1))

    async def delete(self, key: str) -> None:
        """Forget a value, by whatever kind of command it was put."""
        async with asyncio.timeout(self._timeout_s):
            await self._client.delete(self._name(key))

    async def close(self) -> None:
        """Let the connections go."""
        for read in list(self._reads):
            read.cancel()
        await asyncio.gather(*self._reads, return_exceptions=True)
        await self._client.aclose()

    def _read_asked(self) -> None:
        """Begin to read what was asked for since the last time, in pieces."""
        asked, self._asked = list(self._asked.items()), {}
        for start in range(0, len(asked), KEYS_PER_READ):
            piece = dict(asked[start : start + KEYS_PER_READ])
            read = asyncio.create_task(self._read(piece))
            self._reads.add(read)
            read.add_done_callback(self._reads.discard)

    async def _read(self, piece: dict[str, asyncio.Future[bytes | None]]) -> None:
        """One MGET. Its fault is that of each who asked; where nobody waits any more, nobody's."""
        try:
            async with asyncio.timeout(self._timeout_s):
                values = await self._client.mget([self._name(key) for key in piece])
        except asyncio.CancelledError:
            for future in piece.values():
                future.cancel()
            raise
        except Exception as fault:
            for future in piece.values():
                future.set_exception(fault)
                future.exception()  # seen, even where all who asked have left
            return
        for future, value in zip(piece.values(), values, strict=True):
            future.set_result(value)

    def _name(self, key: str) -> str:
        return f"{self._prefix}:{key}"
