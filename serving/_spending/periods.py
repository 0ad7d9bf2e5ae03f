"""The budget of a tenant, and the days and months that it is for: all in UTC."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

PeriodName = Literal["day", "month"]


@dataclass(frozen=True)
class Budget:
    """What a tenant may spend, all of its keys together."""

    usd: float
    period: PeriodName = "month"


@dataclass(frozen=True)
class Period:
    """One day or month."""

    name: str
    """2026-11-22 or 2026-11."""
    ends_s: float
    """Begin of the next one [s since 1970]."""


def period_at(now_s: float, kind: PeriodName) -> Period:
    """The one that a time [s since 1970] falls into."""
    now = datetime.fromtimestamp(now_s, UTC)
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if kind == "day":
        return Period(f"{day:%Y-%m-%d}", (day + timedelta(days=1)).timestamp())
    after = (day.replace(day=1) + timedelta(days=31)).replace(day=1)
    return Period(f"{day:%Y-%m}", after.timestamp())
