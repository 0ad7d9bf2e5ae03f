"""Settings from the environment: each variable read by its own reader, all mistakes told."""

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from serving.errors import StillhouseError

PREFIX = "STILLHOUSE_"
Read = Callable[[str], Any]
"""The value of a text, None where it has none."""
Reader = tuple[str, Read]
"""What is expected, in words, and how it is read."""
Settings = TypeVar("Settings")
UNTOLD = "_key"
"""End of the names whose wrong values are not shown."""


def read_settings(
    kind: type[Settings], environment: Mapping[str, str], readers: Mapping[str, Reader]
) -> Settings:
    """Read a variable for each field of a dataclass; an empty one counts as not set.

    Raises:
        StillhouseError: some are wrong; all of them in one line.
    """
    found: dict[str, Any] = {}
    problems: list[str] = []
    for field in fields(kind):  # type: ignore[arg-type]
        name = PREFIX + field.name.upper()
        if not (text := environment.get(name, "").strip()):
            continue
        expected, read = readers[field.name]
        value = read(text)
        if value is None:
            shown = "" if field.name.endswith(UNTOLD) else f", not {text!r}"
            problems.append(f"{name} must be {expected}{shown}")
        found[field.name] = value
    if problems:
        raise StillhouseError(
            f"wrong settings: {'; '.join(problems)}. Correct them in the environment."
        )
    return kind(**found)


def whole(least: int) -> Reader:
    """A whole number."""

    def read(text: str) -> int | None:
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else -1
        return number if number >= least else None

    return f"a whole number from {least}", read


def number(above: float, included: bool = False, most: float = math.inf) -> Reader:
    """A finite number."""

    def read(text: str) -> float | None:
        try:
            found = float(text)
        except ValueError:
            return None
        fits = math.isfinite(found) and (found > above or (included and found == above))
        return found if fits and found <= most else None

    bounds = f"{'from' if included else 'above'} {above:g}"
    return f"a number {bounds}{f', at most {most:g}' if math.isfinite(most) else ''}", read


def one_of(choices: tuple[str, ...]) -> Reader:
    """One of some words."""
    return f"one of {', '.join(choices)}", lambda text: text if text in choices else None


FOLDER: Reader = ("a folder", Path)
FILE: Reader = ("a file", Path)
ADDRESS: Reader = ("an address", str)
TEXT: Reader = ("a text", str)
SWITCH: Reader = ("1 or 0", lambda text: {"1": True, "0": False}.get(text))
