"""Shares with their exact interval."""

from typing import Any

from scipy.stats import beta


def share(hits: int, count: int) -> dict[str, Any]:
    """A share with its exact 95 % interval (Clopper and Pearson 1934)."""
    low = float(beta.ppf(0.025, hits, count - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, count - hits)) if hits < count else 1.0
    return {"n": count, "hits": hits, "share": hits / count, "low": low, "high": high}
