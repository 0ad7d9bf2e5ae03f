"""A record as text: `service[checkout-api], value[1.8 s]`."""

import re
from collections.abc import Mapping

from serving.errors import StillhouseError

_SLOT_NAME = re.compile(r"\s*([^\W_](?:[\w ./-]{0,58}[\w./-])?)\[")
_BRACKET = re.compile(r"[\[\]]")
_NEXT = re.compile(r"\s*(?:,|$)")


def parse_record(prompt: str) -> dict[str, str]:
    """Read `slot[value], slot[value]`; values may hold commas and brackets in pairs.

    Raises:
        StillhouseError: the text is no record; the message says where it stops being one.
    """
    slots: dict[str, str] = {}
    position = 0
    while True:
        name = _SLOT_NAME.match(prompt, position)
        if not name:
            raise _no_record("expected slot[value]", prompt, position)
        slot = name[1]
        close = _closing(prompt, name.end())
        if close is None:
            raise _no_record(f"the [ of slot {slot!r} is never closed", prompt, name.end() - 1)
        if not prompt[name.end() : close].strip():
            raise _no_record(f"slot {slot!r} is empty; leave it out", prompt, close)
        if slot in slots:
            raise _no_record(f"slot {slot!r} comes twice", prompt, name.start(1))
        slots[slot] = prompt[name.end() : close]
        following = _NEXT.match(prompt, close + 1)
        if not following:
            raise _no_record("expected a comma or the end", prompt, close + 1)
        position = following.end()
        if position == len(prompt) and not following[0].endswith(","):
            return slots


def is_record(prompt: str) -> bool:
    """Whether `parse_record` reads the text."""
    try:
        parse_record(prompt)
    except StillhouseError:
        return False
    return True


def render_record(slots: Mapping[str, str]) -> str:
    """Write a record; `parse_record` reads it back.

    Raises:
        StillhouseError: a name or a value cannot be written, for example unpaired brackets.
    """
    written = ", ".join(f"{slot}[{value}]" for slot, value in slots.items())
    if not slots or not is_record(written) or parse_record(written) != dict(slots):
        raise StillhouseError(
            f"cannot write {written[:80]!r} as a record: names are words, values are not empty "
            "and their brackets come in pairs. Change the value."
        )
    return written


def _closing(prompt: str, position: int) -> int | None:
    """Index of the bracket that closes the one before `position`."""
    depth = 1
    for bracket in _BRACKET.finditer(prompt, position):
        depth += 1 if bracket[0] == "[" else -1
        if depth == 0:
            return bracket.start()
    return None


def _no_record(problem: str, prompt: str, position: int) -> StillhouseError:
    near = prompt[max(position - 20, 0) : position + 20]
    return StillhouseError(
        f"no record: {problem} at character {position + 1}, near {near!r}. "
        "Write it as slot[value], slot[value]."
    )
