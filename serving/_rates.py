"""How much a key may ask in a minute: requests, and tokens of prompt and answer together.

Counted where it is reserved, before any work, in one atomic step of the `limits` library: a Lua
script in Redis, one turn of the event loop in memory. So of any number of callers at once no more
pass than the limit says, whichever replica they reach; memory counts one process alone.

- Requests: a moving window, exact in any 60 s. It holds an entry per request.
- Tokens: a sliding window counter, because an entry per token would be a list as long as the
  limit. The minute before counts by the part of it that is still in the window, as if evenly
  spread, so that a caller who is not even may get up to twice the limit in some 60 s.
- Tokens are reserved as an upper bound before the text is even encoded, and corrected downwards
  when the true number is known, while the window that they were counted in still runs; later the
  bound stands. A bound above the whole limit is cut to it: true tokens alone prove a request too
  large.

Fails closed: what cannot be counted is refused, as 503, within `timeout_s`. Redis must not evict
keys (maxmemory-policy noeviction): an evicted count is a forgotten one. Moving windows go by the
clocks of the callers, so replicas need theirs in step.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter, SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError

from serving._items import ServiceError
from serving._redis import open_redis
from serving.errors import StillhouseError

MINUTE_S = 60
OUTAGE_RETRY_S = 5.0  # nobody knows how long a store is away
CONNECTIONS = 32
CLOCK_STEP_S = 0.005  # Redis tells a window's age in whole milliseconds, cut off at both ends

_log = logging.getLogger(__name__)
T = TypeVar("T")
Storage = MemoryStorage | RedisStorage
Close = Callable[[], Awaitable[None]]


@dataclass
class Reservation:
    """Tokens that are counted for a request that is under way."""

    key_id: str
    per_minute: int
    tokens: int
    """Counted now [tokens]."""
    made_at: float
    """[s, monotonic]"""


class Rates:
    """Limits per minute of all keys, in one store."""

    def __init__(
        self, storage: Storage, timeout_s: float = 1.0, close: Close | None = None
    ) -> None:
        """Args:
        storage: One of the `limits` library, asynchronous.
        timeout_s: Longest that a request waits for it.
        close: Lets its connections go.
        """
        self._storage = storage
        self._close = close
        self._timeout_s = timeout_s
        self._requests = MovingWindowRateLimiter(storage)
        self._tokens = SlidingWindowCounterRateLimiter(storage)
        self._away = False

    async def count_request(self, key_id: str, per_minute: int | None) -> None:
        """Count a request; None is no limit.

        Raises:
            ServiceError: rate_limited, with the time until one fits; unavailable.
        """
        if per_minute is None:
            return
        item = RateLimitItemPerMinute(per_minute, namespace="requests")
        if await self._ask(self._requests.hit(item, key_id)):
            return
        stats = await self._ask(self._requests.get_window_stats(item, key_id))
        raise ServiceError(
            "rate_limited",
            f"this key may send {per_minute} requests a minute. Send them more slowly.",
            retry_after_s=min(max(stats.reset_time - time.time(), 0), MINUTE_S),
        )

    async def reserve_tokens(
        self, key_id: str, per_minute: int | None, most: int
    ) -> Reservation | None:
        """Count `most` tokens, an upper bound, or the whole limit if that is less.

        Returns:
            What `correct_tokens` takes; None where there is no limit.

        Raises:
            ServiceError: rate_limited, with the time until they fit; unavailable.
        """
        if per_minute is None:
            return None
        item, tokens = _tokens_item(per_minute), min(most, per_minute)
        if await self._ask(self._tokens.hit(item, key_id, cost=tokens)):
            return Reservation(key_id, per_minute, tokens, time.monotonic())
        window = await self._ask(self._window(item, key_id))
        raise ServiceError(
            "rate_limited",
            f"this key may use {per_minute} tokens a minute, prompt and answer together, and this "
            f"request needs up to {most}. Send fewer, shorter or later ones.",
            retry_after_s=seconds_until(tokens, per_minute, *window),
        )

    async def correct_tokens(self, reservation: Reservation, tokens: int) -> None:
        """Give back what was reserved beyond `tokens`; a store that is away costs only that.

        Raises:
            ServiceError: prompt_too_long, if the true number is above the whole limit: to wait
                would not help.
        """
        if tokens > reservation.per_minute:
            raise ServiceError(
                "prompt_too_long",
                f"this key may use {reservation.per_minute} tokens a minute and this request alone "
                f"needs {tokens}: it never fits. Shorten it, or ask for a higher limit.",
            )
        unused = reservation.tokens - tokens
        if unused <= 0:
            return
        reservation.tokens = tokens
        try:
            await self._give_back(reservation, unused)
        except ServiceError:
            return  # the bound stays counted, which is on the safe side

    async def _give_back(self, reservation: Reservation, unused: int) -> None:
        """Take tokens out of the window that they were counted in, if it still runs.

        Out of a later one they would be taken whole, though they weigh less and less in it, and a
        caller could so get twice the limit.
        """
        item = _tokens_item(reservation.per_minute)
        age_s = time.monotonic() - reservation.made_at  # without what the next answer takes
        _, _, current, left_s = await self._ask(self._window(item, reservation.key_id))
        window_age_s = 2 * MINUTE_S - left_s  # a window is kept for the one after it, too
        if age_s <= window_age_s + CLOCK_STEP_S:
            cost = -min(unused, current)
            await self._ask(self._tokens.hit(item, reservation.key_id, cost=cost))

    async def close(self) -> None:
        """Let the connections go."""
        if self._close:
            await self._close()

    def _window(self, item: RateLimitItem, key_id: str) -> Awaitable[tuple[int, float, int, float]]:
        return self._storage.get_sliding_window(item.key_for(key_id), MINUTE_S)

    async def _ask(self, question: Awaitable[T]) -> T:
        """What the store says, in time; whatever else it does is no permission."""
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await question
        except Exception as error:
            if not self._away:  # told once per outage, not once per request
                _log.error("limits cannot be counted, requests are refused: %s", _name(error))
            self._away = True
            raise ServiceError(
                "unavailable",
                "the limits of this key cannot be counted at the moment. Try again later.",
                retry_after_s=OUTAGE_RETRY_S,
            ) from None
        if self._away:
            _log.info("limits are counted again")
            self._away = False
        return answer


def open_rates(
    url: str = "memory://",
    ca_file: Path | None = None,
    prefix: str = "stillhouse",
    timeout_s: float = 1.0,
) -> Rates:
    """Limits in the store at `url`: memory://, redis:// or, over TLS, rediss://.

    Nothing connects yet. `ca_file` holds the authorities that sign the server's certificate, where
    the system's do not.

    Raises:
        StillhouseError: another kind of address, or TLS that checks nothing. The address is not
            shown: it may hold a password.
    """
    scheme = urlsplit(url).scheme
    match scheme:
        case "memory":
            return Rates(MemoryStorage(wrap_exceptions=True), timeout_s)
        case "redis" | "rediss":
            try:
                return _open_redis(url, ca_file, prefix, timeout_s)
            except ConfigurationError:  # no port
                scheme = f"a malformed {scheme}"
    raise StillhouseError(
        f"limits are counted in memory://, redis://host:port or rediss://host:port, found "
        f"{scheme or 'nothing'}://. Change the store's address."
    )


def seconds_until(
    tokens: int, limit: int, before: int, before_left_s: float, current: int, current_left_s: float
) -> float:
    """Time until `tokens` fit into a sliding window if nothing else is counted meanwhile [s].

    Args:
        tokens: At most `limit`.
        limit: Of a minute.
        before: Tokens counted in the window before.
        before_left_s: Until those weigh nothing.
        current: Tokens counted in the running window.
        current_left_s: Until these weigh nothing: what is left of this window, and the next.
    """
    room = limit - tokens
    rest_s = max(current_left_s - MINUTE_S, 0.0)  # of the running window
    if current <= room:
        wait_s = before_left_s - MINUTE_S * (room - current) / before if before else 0.0
        return min(max(wait_s, 0.0), rest_s)
    return rest_s + MINUTE_S * (1 - room / current)


def _tokens_item(per_minute: int) -> RateLimitItem:
    return RateLimitItemPerMinute(per_minute, namespace="tokens")


def _open_redis(url: str, ca_file: Path | None, prefix: str, timeout_s: float) -> Rates:
    redis = open_redis(
        url,
        ca_file,
        of="the store of limits",
        connections=CONNECTIONS,
        timeout_s=timeout_s,
        step_s=timeout_s / 2,  # a stale connection is made anew
    )
    settings: dict[str, Any] = {"connection_pool": redis.connection_pool, "key_prefix": prefix}
    storage = RedisStorage(url, wrap_exceptions=True, implementation="redispy", **settings)
    return Rates(storage, timeout_s, redis.aclose)


def _name(error: Exception) -> str:
    """Kind of a fault and of its cause; not its words, which may quote the address."""
    cause = error.__cause__ or (error.args[0] if error.args else None)
    return f"{type(error).__name__} ({type(cause).__name__})" if cause else type(error).__name__
