"""releases/challenger.json: what stands against the champion until a canary has judged both.

A challenge holds what a release of these models would record. It says after how many records it
was made, and stands only as long as there are no more: a release or a rollback ends it, and with it
every verdict on it. The next challenge replaces the file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from serving.errors import StillhouseError
from stages import _io
from stages._releases import SCHEMA_VERSION, Decision, Record

CHALLENGER = "challenger.json"


class Challenge(Decision):
    """A decision that is proposed."""

    schema_version: int
    after: int
    """Number of the last record when it was made."""


FIELDS = frozenset(Challenge.__annotations__)


def read_challenge(folder: Path, chain: Sequence[Record]) -> Challenge | None:
    """The challenge that stands after `chain`; None: nobody challenged, or it is over.

    Raises:
        StillhouseError: the file is no challenge.
    """
    path = folder / CHALLENGER
    if not path.is_file():
        return None
    try:
        found = _io.read_json(path)
    except StillhouseError:  # whose advice is for what a stage can make again
        found = None
    if not isinstance(found, dict) or not found.keys() >= FIELDS:
        raise StillhouseError(f'{path} is no challenge. Delete it and run "make challenge".')
    if found["schema_version"] != SCHEMA_VERSION or found["after"] != len(chain):
        return None
    return cast(Challenge, found)


def next_challenge(chain: Sequence[Record], decision: Decision) -> Challenge:
    """`decision` as a challenge to what `chain` has in force."""
    return {"schema_version": SCHEMA_VERSION, "after": len(chain), **decision}


def write_challenge(folder: Path, challenge: Challenge) -> None:
    """Replace the challenge by this one."""
    _io.write_json(folder / CHALLENGER, challenge)
