"""Where spent money is kept, and what requests under way may still spend.

An account is a tenant's in one period. It has what was spent and holds: the most that a request
under way can cost. A hold that was neither settled nor given up ends by itself, so that a process
that died keeps nothing from its tenants.
"""

import time
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

GRACE_S = 86_400
"""An account outlives its period by so long: requests that began in it end after it [s]."""


class Standing(NamedTuple):
    """What an account said to a request."""

    taken: bool
    spent: int
    """[nano-dollars]"""
    held: int
    """By requests under way, this one included if it was taken [nano-dollars]."""


class Account(NamedTuple):
    """Whose money, and when."""

    tenant: str
    period: str
    ends_s: float
    """Of the period [s since 1970]."""


class Hold(NamedTuple):
    """Money that a request under way may spend."""

    account: Account
    id: str
    """Its own; the same hold taken or settled twice counts once."""
    nano: int
    """[nano-dollars]"""


class Ledger(Protocol):
    """A store of accounts; each call is atomic."""

    async def take(self, hold: Hold, budget: int) -> Standing:
        """Take the hold if spent + held + its own <= budget [nano-dollars]."""

    async def settle(self, hold: Hold, nano: int, may_have_ended: bool) -> None:
        """Spend `nano` and end the hold.

        One that is not there was settled already, and nothing is spent, unless it
        `may_have_ended` by itself.
        """

    async def close(self) -> None:
        """Let the connections go."""


@dataclass
class _Sums:
    spent: int = 0
    holds: dict[str, tuple[int, float]] = field(default_factory=dict)
    """By id: nano-dollars, and when it ends [s, monotonic]."""


class MemoryLedger:
    """Accounts of one process, which forgets what was spent when it ends."""

    def __init__(self, hold_s: float) -> None:
        """`hold_s`: a hold ends by itself after this."""
        self._hold_s = hold_s
        self._accounts: dict[Account, _Sums] = {}

    async def take(self, hold: Hold, budget: int) -> Standing:
        """See Ledger."""
        sums = self._current(hold.account)
        held = sum(one for one, _ in sums.holds.values())
        if hold.id in sums.holds:
            return Standing(True, sums.spent, held)
        if sums.spent + held + hold.nano > budget:
            return Standing(False, sums.spent, held)
        sums.holds[hold.id] = hold.nano, time.monotonic() + self._hold_s
        return Standing(True, sums.spent, held + hold.nano)

    async def settle(self, hold: Hold, nano: int, may_have_ended: bool) -> None:
        """See Ledger."""
        sums = self._current(hold.account)
        if sums.holds.pop(hold.id, None) is not None or may_have_ended:
            sums.spent += nano

    async def close(self) -> None:
        """Nothing to let go."""

    def _current(self, account: Account) -> _Sums:
        """An account without holds that have ended; those of old periods are dropped."""
        if account not in self._accounts:
            now = time.time()
            kept = {a: s for a, s in self._accounts.items() if a.ends_s + GRACE_S > now}
            self._accounts = {**kept, account: _Sums()}
        sums, now = self._accounts[account], time.monotonic()
        for one in [one for one, (_, ends) in sums.holds.items() if ends <= now]:
            del sums.holds[one]
        return sums
