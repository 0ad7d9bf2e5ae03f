"""Budgets of tenants: what a request can cost at most is reserved before there is any work.

A request that could go over its tenant's budget is refused, whatever it would have cost in the end;
`settle` then gives back what it did not use. All keys of a tenant draw on one account, in one
store: Redis counts what all replicas spend, memory one process alone, and forgets it at its end.

Fails closed: where the store does not answer in time, a request of a tenant with a budget is
refused as 503. A settlement that the store did not take is owed: it is made before the next
reservation, or that one is refused too. A process that dies with requests under way leaves holds
that end after `hold_s`; what it had settled stays spent. A work that costs more than was reserved
is charged all the same, and the next request pays for it.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

from serving._items import Refusal, ServiceError
from serving._spending.ledger import Account, Hold, Ledger, MemoryLedger, Standing
from serving._spending.periods import Budget, period_at
from serving._spending.prices import dollars, nano_usd
from serving._spending.redis_ledger import RedisLedger
from serving.errors import StillhouseError

EXCEEDED: Refusal = "budget_exceeded"
HOLD_S = 300.0  # longer than any request: BentoML itself ends one at 150 s
SURELY_THERE = 0.9  # of a hold's time; clocks differ by less than the rest
OUTAGE_RETRY_S = 5.0  # nobody knows how long a store is away
UNDER_WAY_RETRY_S = 1.0  # until a request ends and gives back
LONGEST_WAIT_S = 86_400.0  # a month's end is no time to wait for, a budget may be raised before

_log = logging.getLogger(__name__)
BudgetOf = Callable[[str], Budget | None]


@dataclass
class Reservation:
    """Money that is kept for a request that is under way."""

    hold: Hold
    made_at: float
    """[s, monotonic]"""
    settled: bool = False


@dataclass
class _Owed:
    """What the store does not know yet, by hold."""

    settlements: dict[Hold, tuple[int, float]] = field(default_factory=dict)
    """Nano-dollars, and when the hold was made [s, monotonic]."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Budgets:
    """What tenants may still spend, in one store."""

    def __init__(
        self,
        ledger: Ledger,
        budget_of: BudgetOf,
        *,
        hold_s: float = HOLD_S,
        timeout_s: float = 1.0,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """Args:
        ledger: The store.
        budget_of: A tenant's budget now; None: it may spend what it likes.
        hold_s: How long the store keeps a hold that nobody settles.
        timeout_s: Longest that a request waits for the store.
        now_s: Time of day [s since 1970].
        """
        self._ledger, self._budget_of = ledger, budget_of
        self._hold_s, self._timeout_s, self._now_s = hold_s, timeout_s, now_s
        self._owed = _Owed()
        self._away = False

    async def reserve(self, tenant: str, most_usd: float) -> Reservation | None:
        """Keep `most_usd` for a request, which nobody else can spend meanwhile.

        Returns:
            What `settle` takes; None where the tenant has no budget.

        Raises:
            ServiceError: budget_exceeded, with the time until there may be money; unavailable.
            ValueError: `most_usd` is no sum of money.
        """
        if (budget := self._budget_of(tenant)) is None:
            return None
        now_s = self._now_s()
        period = period_at(now_s, budget.period)
        nano, most = nano_usd(most_usd), nano_usd(budget.usd)
        hold = Hold(Account(tenant, period.name, period.ends_s), uuid4().hex, nano)
        reservation = Reservation(hold, time.monotonic())
        standing = await self._take(reservation, most)
        if not standing.taken:
            raise _refusal(budget, most, nano, standing, period.ends_s - now_s)
        return reservation

    async def settle(self, reservation: Reservation | None, usd: float | None) -> None:
        """Give back all but `usd`; once, whatever is said later, and in the period it began in.

        None: nobody knows what was used, such as of a caller who left, so all of it is spent. A
        store that is away is told later.

        Raises:
            ValueError: `usd` is no sum of money; then all of it stays reserved.
        """
        if reservation is None or reservation.settled:
            return
        hold = reservation.hold
        nano = hold.nano if usd is None else nano_usd(usd)
        reservation.settled = True
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._ledger.settle(hold, nano, self._may_have_ended(reservation.made_at))
        except BaseException as error:
            self._owed.settlements[hold] = nano, reservation.made_at
            if not isinstance(error, Exception):
                raise
            self._note_outage(error)

    async def close(self) -> None:
        """Say what is owed, if the store listens, and let its connections go."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._pay()
        except Exception as error:
            owed = sum(nano for nano, _ in self._owed.settlements.values())
            if owed:
                _log.error("%.9f USD were spent and not counted: %s", dollars(owed), _name(error))
        await self._ledger.close()

    async def _take(self, reservation: Reservation, budget: int) -> Standing:
        """What the account says, in time; whatever else the store does is no permission."""
        asked = False
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._pay()
                asked = True
                standing = await self._ledger.take(reservation.hold, budget)
        except BaseException as error:
            if asked:  # it may have been taken, and nobody will use it
                self._owed.settlements[reservation.hold] = 0, reservation.made_at
            if not isinstance(error, Exception):
                raise
            self._note_outage(error)
            raise ServiceError(
                "unavailable",
                "what this tenant may spend cannot be counted at the moment. Try again later.",
                retry_after_s=OUTAGE_RETRY_S,
            ) from None
        if self._away:
            _log.info("budgets are counted again")
            self._away = False
        return standing

    async def _pay(self) -> None:
        """Make the settlements that the store did not take when they were due."""
        owed = self._owed
        if not owed.settlements:
            return
        async with owed.turn:
            for hold, (nano, made_at) in list(owed.settlements.items()):
                await self._ledger.settle(hold, nano, self._may_have_ended(made_at))
                del owed.settlements[hold]

    def _may_have_ended(self, made_at: float) -> bool:
        return time.monotonic() - made_at > SURELY_THERE * self._hold_s

    def _note_outage(self, error: Exception) -> None:
        if not self._away:  # told once per outage, not once per request
            _log.error("budgets cannot be counted, requests are refused: %s", _name(error))
        self._away = True


def open_budgets(
    budget_of: BudgetOf,
    url: str = "memory://",
    ca_file: Path | None = None,
    prefix: str = "stillhouse",
    *,
    hold_s: float = HOLD_S,
    timeout_s: float = 1.0,
) -> Budgets:
    """Budgets in the store at `url`: memory://, redis:// or, over TLS, rediss://.

    Nothing connects yet. `ca_file` holds the authorities that sign the server's certificate, where
    the system's do not.

    Raises:
        StillhouseError: another kind of address, or TLS that checks nothing. The address is not
            shown: it may hold a password.
    """
    ledger: Ledger
    match scheme := urlsplit(url).scheme:
        case "memory":
            ledger = MemoryLedger(hold_s)
        case "redis" | "rediss":
            ledger = RedisLedger(
                url, ca_file=ca_file, prefix=prefix, hold_s=hold_s, timeout_s=timeout_s
            )
        case _:
            raise StillhouseError(
                f"budgets are counted in memory://, redis://host:port or rediss://host:port, found "
                f"{scheme or 'nothing'}://. Change the store's address."
            )
    return Budgets(ledger, budget_of, hold_s=hold_s, timeout_s=timeout_s)


def _refusal(
    budget: Budget, most: int, nano: int, standing: Standing, left_s: float
) -> ServiceError:
    """Why there is no money, and when there may be some."""
    told = f"this tenant may spend {budget.usd:g} USD a {budget.period}"
    if nano > most:
        return ServiceError(
            EXCEEDED,
            f"{told}, and this request alone can cost {dollars(nano):g} USD: it never fits. "
            f"Shorten it, or ask for a larger budget.",
        )
    if standing.spent + nano <= most:
        return ServiceError(
            EXCEEDED,
            f"{told}, and requests under way may use what is left of it. Wait for them to end.",
            retry_after_s=UNDER_WAY_RETRY_S,
        )
    return ServiceError(
        EXCEEDED,
        f"{told}, has spent {dollars(standing.spent):g}, and this request can cost "
        f"{dollars(nano):g} USD. Wait for the next {budget.period}, or ask for a larger budget.",
        retry_after_s=min(math.ceil(left_s), LONGEST_WAIT_S),
    )


def _name(error: Exception) -> str:
    """Kind of a fault, not its words, which may quote the store's address."""
    return type(error).__name__
