"""Numbers as people read them. Pure: the same value gives the same text everywhere."""

import math
from collections.abc import Mapping
from typing import Any

NOTHING = "–"
SECONDS_PER_MINUTE = 60.0
Score = Mapping[str, Any]
"""`score` with the bounds `low` and `high` of its interval, where it has one."""


def plain(value: float | None, digits: int = 1) -> str:
    """With so many digits after the point."""
    return NOTHING if value is None else _signed(f"{value:,.{digits}f}")


def whole(value: float | None) -> str:
    """A count."""
    return NOTHING if value is None else f"{round(value):,}"


def short(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return _signed(f"{value:,.{digits}f}")


def tick(value: float) -> str:
    """A label of an axis: as short as it can be."""
    text = short(value)
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(share: float | None, digits: int = 1) -> str:
    """A share as per cent."""
    return NOTHING if share is None else _signed(f"{100 * share:.{digits}f}") + " %"


def millions(count: float | None) -> str:
    """A large count with its unit: 369,696 as 370 k, 1,518,880 as 1.52 M."""
    if count is None:
        return NOTHING
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{short(count / size)} {unit}"
    return whole(count)


def seconds(value: float | None) -> str:
    """A time: seconds below two minutes, then minutes."""
    if value is None:
        return NOTHING
    if value < 2 * SECONDS_PER_MINUTE:
        return f"{short(value)} s"
    return f"{value / SECONDS_PER_MINUTE:.1f} min"


def usd(value: float | None) -> str:
    """A price."""
    return NOTHING if value is None else f"${short(value)}"


def interval(score: Score | None, scale: float = 1.0, digits: int = 1) -> str:
    """The bounds alone: [53.3, 55.9]."""
    if score is None or score.get("low") is None or score.get("high") is None:
        return ""
    low, high = (plain(scale * float(score[key]), digits) for key in ("low", "high"))
    return f"[{low}, {high}]"


def scored(score: Score | None, scale: float = 1.0, digits: int = 1, unit: str = "") -> str:
    """A score with its interval: 54.5 [53.3, 55.9]."""
    if score is None or score.get("score") is None:
        return NOTHING
    value = plain(scale * float(score["score"]), digits) + (f" {unit}" if unit else "")
    return f"{value} {interval(score, scale, digits)}".strip()


def _signed(text: str) -> str:
    """With a real minus sign; none before a zero."""
    if text.startswith("-") and not text.strip("-0.,"):
        return text[1:]
    return text.replace("-", "−")
