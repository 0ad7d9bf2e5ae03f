"""Figures of a load: rates, percentiles, statuses. Pure, on outcomes alone."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.serve_load.load import Outcome

SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
REFUSALS = (429, 503)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed (nearest rank): one that was
    measured, where an interpolated p99 of few requests would be one that nobody waited."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def spread_ms(seconds: Iterable[float]) -> dict[str, float] | None:
    """Percentiles and maximum [ms]; None of nothing."""
    values = [1e3 * value for value in seconds]
    if not values:
        return None
    return {name: percentile(values, share) for name, share in SHARES.items()} | {
        "max": max(values)
    }


def summarise(
    outcomes: Sequence[Outcome], start_s: float, end_s: float, deadline_s: float | None = None
) -> dict[str, Any]:
    """Figures of the time from `start_s` to `end_s` of a load.

    Rates count what was answered in that time, whenever it was sent; everything else counts the
    requests that were due in it, whenever they were answered, so that no slow one is lost.
    """
    good = [o for o in outcomes if o.result == 200]
    inside = [o for o in good if start_s < o.done_s <= end_s]
    due = [o for o in outcomes if start_s <= o.due_s < end_s]
    answered = [o for o in due if o.result == 200]
    refused = [o for o in due if o.result in REFUSALS]
    found = {
        "seconds": end_s - start_s,
        "requests": len(due),
        "results": dict(sorted(Counter(str(o.result) for o in due).items())),
        "tokens_per_s": sum(o.tokens for o in inside) / (end_s - start_s),
        "answers_per_s": len(inside) / (end_s - start_s),
        "tokens_per_answer": _mean([o.tokens for o in answered]),
        "latency_ms": spread_ms(o.latency_s for o in answered),
        "first_text_ms": spread_ms(
            o.first_text_s - o.due_s for o in answered if o.first_text_s is not None
        ),
        "refusal_ms": spread_ms(o.latency_s for o in refused),
        "retry_after": _retry_after(refused),
        "sent_late_ms": spread_ms(o.sent_s - o.due_s for o in due),
    }
    if deadline_s is not None:
        found["late_answers"] = sum(o.latency_s > deadline_s for o in answered)
        found["unanswered_in_time"] = sum(
            o.latency_s > deadline_s or o.result not in (200, *REFUSALS) for o in due
        )
    return found


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _retry_after(refused: Sequence[Outcome]) -> dict[str, float] | None:
    """Refusals that say when to come again, and the least and most that they ask for [s]."""
    asked = [o.retry_after_s for o in refused if o.retry_after_s is not None]
    if not refused:
        return None
    bounds = {"least_s": min(asked), "most_s": max(asked)} if asked else {}
    return {"share": len(asked) / len(refused), **bounds}


def middle(rounds: Sequence[Mapping[str, Any]], figure: str) -> float:
    """Median over rounds of one figure."""
    return float(np.median([found[figure] for found in rounds]))
