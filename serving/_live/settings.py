"""Settings of live quality: variables that begin with STILLHOUSE_LIVE_, checked all together."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from serving._live.shadow import ShadowLimits
from serving._live.texts import Key, Policy, read_key
from serving.errors import StillhouseError

PREFIX = "STILLHOUSE_LIVE_"
HASH_KEY = f"{PREFIX}HASH_KEY"
SEAL_KEY = f"{PREFIX}SEAL_KEY"
MIB = 2**20


@dataclass(frozen=True)
class LiveSettings:
    """One field per variable: STILLHOUSE_LIVE_ and the field's name in capitals."""

    folder: Path | None = None
    """Where records go, such as data/live; None: none are kept."""
    texts: Policy = "off"
    """What is kept of prompts and answers: off, hashed or clear."""
    hash_key: Key | None = None
    """Of the policy hashed: 32 bytes in base64."""
    seal_key: Key | None = None
    """Seals the texts of the policy clear: 32 bytes in base64."""
    keep_days: int = 30
    """Files of earlier days are removed."""
    keep_mb: int = 10_240
    """Most that all files may take [MiB]; the oldest go first."""
    spool_mb: int = 1_024
    """Most that spools may take before they are turned into Parquet [MiB]; above it, dropped."""
    roll_mb: int = 16
    """A spool is closed when it is so long [MiB]."""
    roll_s: float = 600.0
    """... or so old [s]; closed spools are turned into Parquet then."""
    shadow_share: float = 0.0
    """Share of requests that other rungs answer, too; 0: none."""
    shadow_at_once: int = 2
    """Requests that are shadowed at the same time [count]."""
    shadow_waiting: int = 64
    """Requests that may wait for that [count]."""
    shadow_deadline_s: float = 30.0
    """For each rung of a shadow [s]."""
    shadow_usd_per_hour: float = 0.1
    """What shadows may cost in an hour; 0: none is asked."""
    shadow_salt: str = ""
    """Makes the choice of requests one that callers cannot foresee."""

    @property
    def shadow_limits(self) -> ShadowLimits:
        """The shadow's part."""
        return ShadowLimits(
            self.shadow_share,
            self.shadow_at_once,
            self.shadow_waiting,
            self.shadow_deadline_s,
            self.shadow_usd_per_hour,
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "LiveSettings":
        """Read all variables; an empty one counts as not set.

        Raises:
            StillhouseError: some are wrong; all of them in one line, keys never shown.
        """
        found: dict[str, Any] = {}
        problems: list[str] = []
        for one in fields(cls):
            name = PREFIX + one.name.upper()
            if not (text := environment.get(name, "").strip()):
                continue
            try:
                found[one.name] = _READERS[one.name](text, name)
            except StillhouseError as error:
                problems.append(str(error).rstrip("."))
        if problems:
            raise StillhouseError(
                f"wrong settings: {'; '.join(problems)}. Correct them in the environment."
            )
        return cls(**found)


Reader = Callable[[str, str], Any]


def _number(least: float, most: float = math.inf, whole: bool = False) -> Reader:
    kind = "a whole number" if whole else "a number"
    bounds = f"from {least:g}" + (f" to {most:g}" if math.isfinite(most) else "")

    def read(text: str, name: str) -> float:
        try:
            number = int(text) if whole else float(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and least <= number <= most):
            raise StillhouseError(f"{name} must be {kind} {bounds}, not {text[:40]!r}")
        return number

    return read


def _policy(text: str, name: str) -> str:
    if text not in get_args(Policy):
        choices = ", ".join(get_args(Policy))
        raise StillhouseError(f"{name} must be one of {choices}, not {text[:40]!r}")
    return text


_READERS: Mapping[str, Reader] = {
    "folder": lambda text, _: Path(text),
    "texts": _policy,
    "hash_key": read_key,
    "seal_key": read_key,
    "keep_days": _number(1, whole=True),
    "keep_mb": _number(1, whole=True),
    "spool_mb": _number(1, whole=True),
    "roll_mb": _number(1, whole=True),
    "roll_s": _number(1.0),
    "shadow_share": _number(0.0, 1.0),
    "shadow_at_once": _number(1, whole=True),
    "shadow_waiting": _number(0, whole=True),
    "shadow_deadline_s": _number(0.001),
    "shadow_usd_per_hour": _number(0.0),
    "shadow_salt": lambda text, _: text,
}
