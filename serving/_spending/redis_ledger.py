"""Accounts in Redis, shared by all replicas; each call is one script, so it is atomic.

Redis must keep what it is told: no eviction (maxmemory-policy noeviction), and its file of appends
(appendonly yes) where budgets are to survive its own end. Times are Redis's own, so that the clocks
of replicas need not agree on when a hold ends.
"""

from pathlib import Path

from serving._redis import open_redis
from serving._spending.ledger import GRACE_S, Account, Hold, Standing

CONNECTIONS = 32

# KEYS: the account (fields spent, held), its holds (member ID:NANO, score: when it ends).
END_OLD_HOLDS = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, one in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do
  redis.call('ZREM', KEYS[2], one)
  redis.call('HINCRBY', KEYS[1], 'held', '-' .. string.match(one, '%d+$'))
end
"""
# ARGV: the hold's id, its nano-dollars, the budget, how long it lasts [ms], the account's end [ms].
TAKE = (
    END_OLD_HOLDS
    + """
local spent = tonumber(redis.call('HGET', KEYS[1], 'spent') or 0)
local held = tonumber(redis.call('HGET', KEYS[1], 'held') or 0)
local hold = ARGV[1] .. ':' .. ARGV[2]
if redis.call('ZSCORE', KEYS[2], hold) then return {1, spent, held} end
if spent + held + ARGV[2] > tonumber(ARGV[3]) then return {0, spent, held} end
redis.call('HINCRBY', KEYS[1], 'held', ARGV[2])
redis.call('ZADD', KEYS[2], now + ARGV[4], hold)
redis.call('PEXPIREAT', KEYS[1], ARGV[5])
redis.call('PEXPIREAT', KEYS[2], ARGV[5])
return {1, spent, held + ARGV[2]}
"""
)
# ARGV: the hold's id, what it held, what was spent, 1 if it may have ended, the account's end [ms].
SETTLE = (
    END_OLD_HOLDS
    + """
local there = redis.call('ZREM', KEYS[2], ARGV[1] .. ':' .. ARGV[2])
if there == 1 then redis.call('HINCRBY', KEYS[1], 'held', '-' .. ARGV[2]) end
if there == 1 or ARGV[4] == '1' then
  redis.call('HINCRBY', KEYS[1], 'spent', ARGV[3])
  redis.call('PEXPIREAT', KEYS[1], ARGV[5])
end
"""
)


class RedisLedger:
    """See Ledger."""

    def __init__(
        self, url: str, *, ca_file: Path | None, prefix: str, hold_s: float, timeout_s: float
    ) -> None:
        """Nothing connects yet.

        Args:
            url: redis:// or, over TLS, rediss://.
            ca_file: Authorities (PEM) that sign the server's certificate, if not the system's.
            prefix: Begin of every key.
            hold_s: A hold ends by itself after this.
            timeout_s: Longest that a call may take.

        Raises:
            StillhouseError: the address is malformed, or its TLS checks nothing. It is not shown,
                because it may hold a password.
        """
        self._redis = open_redis(
            url,
            ca_file,
            of="the store of budgets",
            connections=CONNECTIONS,
            timeout_s=timeout_s,
            step_s=timeout_s / 2,  # a stale connection is made anew; see Hold.id
        )
        self._take = self._redis.register_script(TAKE)
        self._settle = self._redis.register_script(SETTLE)
        self._prefix, self._hold_ms = prefix, round(1000 * hold_s)

    async def take(self, hold: Hold, budget: int) -> Standing:
        """See Ledger."""
        arguments: list[str | int] = [hold.id, hold.nano, budget, self._hold_ms]
        arguments.append(_end_ms(hold.account))
        taken, spent, held = await self._take(self._names(hold.account), arguments)
        return Standing(taken == 1, int(spent), int(held))

    async def settle(self, hold: Hold, nano: int, may_have_ended: bool) -> None:
        """See Ledger."""
        arguments: list[str | int] = [hold.id, hold.nano, nano, int(may_have_ended)]
        arguments.append(_end_ms(hold.account))
        await self._settle(self._names(hold.account), arguments)

    async def close(self) -> None:
        """Let the connections go."""
        await self._redis.aclose()

    def _names(self, account: Account) -> list[str]:
        """Keys of an account; the braces keep them on one node of a cluster."""
        name = f"{self._prefix}:budget:{{{account.tenant}:{account.period}}}"
        return [name, f"{name}:holds"]


def _end_ms(account: Account) -> int:
    return round(1000 * (account.ends_s + GRACE_S))
