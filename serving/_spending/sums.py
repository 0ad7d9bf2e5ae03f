"""What was spent since the start, per tenant and rung: for /metrics and for the page.

Tenants whose names may stand in a label are bounded: those of the keyring, the first 50 that ask.
All others are summed as "other", so that no number of tenants makes series without end.
"""

import time
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from serving._spending.prices import Used, dollars, nano_usd

Spender = Literal["cache", "baseline", "student", "teacher"]
"""What answered, or was asked to: a rung, or the response cache before them."""
MOST_TENANTS = 50
OTHER = "other"


@dataclass
class Sum:
    """What one rung has done for one tenant."""

    requests: int = 0
    """That asked this rung, accepted or not."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    compute_s: float = 0.0
    """Shares of micro-batches [s]."""
    nano: int = 0
    """[nano-dollars]"""

    def told(self) -> dict[str, Any]:
        """As JSON has it, in dollars."""
        return {
            "requests": self.requests,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "compute_s": self.compute_s,
            "usd": dollars(self.nano),
        }

    def add(self, one: "Sum") -> None:
        """Count another sum in, all but its requests."""
        self.prompt_tokens += one.prompt_tokens
        self.completion_tokens += one.completion_tokens
        self.compute_s += one.compute_s
        self.nano += one.nano


@dataclass
class _Tenant:
    requests: int = 0
    rungs: dict[Spender, Sum] = field(default_factory=dict)


class Spendings:
    """Sums of this process."""

    def __init__(
        self, tenants: Callable[[], Container[str]], now_s: Callable[[], float] = time.time
    ) -> None:
        """Args:
        tenants: Names that the keyring knows now.
        now_s: Time of day [s since 1970].
        """
        self._known = tenants
        self._tenants: dict[str, _Tenant] = {}
        self._since = datetime.fromtimestamp(now_s(), UTC)

    def add(self, tenant: str, tried: Iterable[Used]) -> str:
        """Count a request and every rung that it tried; returns the tenant's label."""
        label = self.label(tenant)
        sums = self._tenants.setdefault(label, _Tenant())
        sums.requests += 1
        for one in tried:
            rung = sums.rungs.setdefault(one.rung, Sum())
            rung.requests += 1
            cost = nano_usd(one.cost_usd)
            rung.add(Sum(0, one.prompt_tokens, one.completion_tokens, one.compute_s, cost))
        return label

    def add_cached(self, tenant: str) -> str:
        """Count a request that a cache answered, for nothing; returns the tenant's label."""
        label = self.label(tenant)
        sums = self._tenants.setdefault(label, _Tenant())
        sums.requests += 1
        sums.rungs.setdefault("cache", Sum()).requests += 1
        return label

    def label(self, tenant: str) -> str:
        """A tenant's name in a label: once its own, always its own; at most 51 values."""
        if tenant in self._tenants:
            return tenant
        named = len(self._tenants.keys() - {OTHER})
        known = named < MOST_TENANTS and tenant in self._known()
        return tenant if known else OTHER

    def table(self) -> dict[str, Any]:
        """All sums as JSON has them: the dearest tenant first, `other` where it belongs."""
        tenants = [_told(name, one) for name, one in self._tenants.items()]
        tenants.sort(key=lambda one: (-one["usd"], one["tenant"]))
        return {"since": self._since.isoformat(), "tenants": tenants}


def _told(name: str, tenant: _Tenant) -> dict[str, Any]:
    whole = Sum(requests=tenant.requests)
    for one in tenant.rungs.values():
        whole.add(one)
    rungs = {rung: one.told() for rung, one in tenant.rungs.items()}
    return {"tenant": name, **whole.told(), "rungs": rungs}
