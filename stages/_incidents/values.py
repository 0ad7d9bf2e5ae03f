"""Values as life brings them: measurements past their limit, times of day, durations, customers."""

from random import Random

from stages._incidents.choice import pick
from stages._incidents.numbers import format_number, format_seconds, in_seconds, rounded
from stages._incidents.numbers import split_quantity as split
from stages._incidents.world import Metric


def measured(rng: Random, metric: Metric, limit: str) -> str:
    """A measured value on the faulty side of `limit`, most often not far from it."""
    number, unit = split(limit)
    far = rng.random() ** 2 * (metric.spread - 1) + 1.05
    if unit == "%" and not metric.low and number >= 50:
        return f"{format_number(number + (100 - number) * (0.15 + 0.85 * rng.random()), 0)} %"
    if metric.family in ("latency", "lag"):
        if unit == "h" or unit == "µs":
            return f"{format_number(rounded(number * far, 2), 1)} {unit}"
        return format_seconds(in_seconds(limit) * far)
    amount = number / far if metric.low else number * far
    if unit == "%":
        return f"{format_number(min(amount, 97), 1 if amount < 10 or metric.low else 0)} %"
    if metric.family == "days":
        return f"{max(1, round(amount))} {'day' if round(amount) <= 1 else 'days'}"
    digits = rng.choice((2, 3, 3, 5))
    return f"{format_number(rounded(amount, digits), 1 if metric.family == 'bytes' else 0)} {unit}"


def clock(rng: Random) -> str:
    """A time of day, as in "09:42 UTC"."""
    return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d} UTC"


def duration(rng: Random, slow: bool = False) -> str:
    """Minutes mostly; long incidents in hours, short ones in seconds, some in days.

    `slow` incidents last hours at least.
    """
    shape = rng.random()
    shape = 0.84 + 0.16 * shape if slow else shape
    if shape < 0.07:
        return f"{rng.randint(15, 95)} s"
    if shape < 0.72:
        return f"{rng.randint(2, 59) if rng.random() < 0.7 else 5 * rng.randint(1, 11)} min"
    if shape < 0.84:
        return f"{5 * rng.randint(13, 35)} min"
    if shape < 0.97:
        return f"{format_number(rng.randint(2, 24) / 2, 1)} h"
    return f"{rng.randint(2, 6)} days"


def customers(rng: Random, severity: str) -> str:
    """A share or a number of customers, as in "3 %" or "1,240 customers"."""
    low, high = {"critical": (15.0, 100.0), "major": (3.0, 40.0), "minor": (0.1, 5.0)}[severity]
    share = low + (high - low) * rng.random() ** 2
    if rng.random() < 0.55:
        return f"{format_number(share, 1 if share < 4 else 0)} %"
    noun = pick(rng, ("customers", "users", "merchants", "tenants"), (5, 3, 1.5, 1.5))
    count = max(12.0, share * rng.choice((9, 23, 70, 310, 1100)))
    return f"{format_number(rounded(count, rng.choice((2, 2, 3, 4))))} {noun}"
