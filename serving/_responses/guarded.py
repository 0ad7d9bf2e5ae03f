"""A tier that never raises: a fault is a miss, and after some in a row it is left alone.

Then one call goes through as a probe each `pause_s`; if it works, all do again.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serving._breaker import Breaker, OpenError
from serving._responses.tiers import Observe, Tier, TierName

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Guarded:
    """One tier behind its breaker. Cancelling a call cancels what it waits for, and is no fault."""

    def __init__(
        self,
        tier: Tier,
        observe: Observe,
        *,
        most_faults: int = 5,
        pause_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        tier: The one that is asked.
        observe: Told of misses, puts, faults and what was skipped; hits are its caller's to tell.
        most_faults: After so many in a row the tier is left alone [count].
        pause_s: Until a call is let through to try [s].
        clock: Tells the time [s].
        """
        self.tier = tier
        self.name: TierName = tier.name
        self._observe = observe
        self._breaker = Breaker(most_faults, pause_s, clock)

    @property
    def resting(self) -> bool:
        """Whether the tier is left alone at the moment."""
        return not self._breaker.is_closed

    async def get(self, key: str) -> bytes | None:
        """The value; None where there is none, and where it cannot be had."""
        worked, value = await self._call(lambda: self.tier.get(key))
        if worked and value is None:
            self._observe(self.name, "miss")
        return value

    async def put(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keep a value [s], if that works."""
        worked, _ = await self._call(lambda: self.tier.put(key, value, ttl_s))
        if worked:
            self._observe(self.name, "put")

    async def delete(self, key: str) -> None:
        """Forget a value, if that works."""
        await self._call(lambda: self.tier.delete(key))

    async def close(self) -> None:
        """Let the tier go; what goes wrong there is of no use to anybody."""
        try:
            await self.tier.close()
        except Exception as error:
            _log.warning("the %s tier did not close: %s", self.name, type(error).__name__)

    async def _call(self, call: Callable[[], Awaitable[T]]) -> tuple[bool, T | None]:
        """Whether a call worked, and what it gave."""
        try:
            with self._breaker.attempt() as attempt:
                try:
                    value = await call()
                except Exception as error:
                    was_resting = self.resting
                    attempt.failed()
                    self._tell_fault(error, was_resting)
                    return False, None
                was_resting = self.resting
                attempt.worked()
        except OpenError:
            self._observe(self.name, "skipped")
            return False, None
        if was_resting and not self.resting:
            _log.info("the %s tier works again", self.name)
        return True, value

    def _tell_fault(self, error: Exception, was_resting: bool) -> None:
        """Count it, and tell once per outage."""
        self._observe(self.name, "fault")
        if self.resting and not was_resting:
            _log.error("the %s tier fails and is left alone: %s", self.name, type(error).__name__)
