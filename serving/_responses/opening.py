"""The tiers of a process, from plain settings."""

from pathlib import Path

from serving._responses.object_tier import ObjectTier
from serving._responses.redis_tier import RedisTier
from serving._responses.tiered import Tiers
from serving._responses.tiers import MemoryTier, Observe, Tier


def open_tiers(
    observe: Observe,
    *,
    memory_entries: int = 10_000,
    memory_bytes: int = 67_108_864,
    redis_url: str | None = None,
    redis_ca: Path | None = None,
    object_url: str | None = None,
    ttl_s: float = 86_400.0,
    redis_timeout_s: float = 0.05,
    object_timeout_s: float = 1.0,
    pause_s: float = 5.0,
    prefix: str = "stillhouse:cache",
) -> Tiers:
    """Memory, then Redis, then objects, as far as they are named. Nothing connects yet.

    Args:
        observe: Told of what happens to each tier.
        memory_entries: Most values in this process [count]; 0 is no tier in memory.
        memory_bytes: Most that they take; one value takes an eighth of it at most.
        redis_url: redis:// or rediss://; None is no such tier.
        redis_ca: Authorities (PEM) that rediss:// is checked with; None: the system's.
        object_url: s3://, file:// or memory://; None is no such tier.
        ttl_s: How long a value may be served [s].
        redis_timeout_s: Longest that a call of Redis may take [s].
        object_timeout_s: Longest that a call of the object store may take [s].
        pause_s: How long a tier that fails is left alone [s].
        prefix: Of the keys in Redis.

    Raises:
        StillhouseError: addresses that do not fit.
    """
    tiers: list[Tier] = []
    if memory_entries:
        tiers.append(MemoryTier(memory_entries, memory_bytes))
    if redis_url:
        tiers.append(RedisTier(redis_url, redis_ca, prefix=prefix, timeout_s=redis_timeout_s))
    if object_url:
        tiers.append(ObjectTier(object_url, timeout_s=object_timeout_s))
    return Tiers(tiers, observe, ttl_s, pause_s=pause_s)
