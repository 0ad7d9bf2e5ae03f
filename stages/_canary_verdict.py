"""Whether a canary has judged just what is to be released, and what a record keeps of its verdict.

`make canary` writes reports/canary/canary.json: champion and challenger on live traffic. A verdict
counts for the models and images that it names, and only if the canary began after the challenge: an
older one judged something else. Only the device that it names is covered.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from serving.errors import StillhouseError
from stages import _io
from stages._challenges import Challenge
from stages._releases import (
    Device,
    Images,
    Record,
    Winners,
    digests,
    images_of,
    in_force,
    references,
    same_winners,
)

REPORT = Path("reports/canary/canary.json")
SCHEMA_VERSION = 1
SHOWN = 12  # characters of a digest that tell it apart
SIDES = ("champion", "challenger")
KEPT = ("verdict", "reason", *SIDES, "tests", "started", "ended")
NEXT = (
    "Next: make challenge, make canary, make release; or give a reason to do without: "
    "make release ARGS=\"--without-canary '...'\""
)


def judge(
    root: Path,
    chain: Sequence[Record],
    pending: Challenge | None,
    winners: Winners,
    images: Mapping[Device, str],
    without: str = "",
) -> dict[str, Any]:
    """What the record says of the canary.

    Args:
        pending: the challenge that stands.
        images: names with digests that are to be released.
        without: a person's reason to ask for no canary.

    Raises:
        StillhouseError: there is no verdict that promotes just this; all that is wrong.
    """
    if not chain:
        return {"verdict": "not_asked", "reason": "the first release: nothing served before"}
    if without:
        return {"verdict": "waived", "reason": without}
    problems = list(_wrong_challenge(pending, winners, images))
    if pending and not problems:
        found = _read(root / REPORT)
        problems = list(_wrong_verdict(found, pending, chain))
        if not problems:
            kept = {key: found[key] for key in KEPT}
            return {"device": device_of(found), **kept, "sha256": _io.sha256_file(root / REPORT)}
    raise StillhouseError(f"{'; '.join(problems)}. {NEXT}")


def device_of(report: Mapping[str, Any]) -> Device:
    """The device whose models a canary compared."""
    return cast(Device, report.get("device", "cpu"))


def _wrong_challenge(
    pending: Challenge | None, winners: Winners, images: Mapping[Device, str]
) -> Iterator[str]:
    if pending is None:
        yield "a release wants a canary, and no challenge stands that one could have judged"
    elif not same_winners(pending["winners"], winners):
        yield (
            f"releases/challenger.json proposes {_shown(pending['winners'])}, "
            f"models/winner.json names {_shown(winners)}"
        )
    elif images != references(images_of(pending)):
        yield "the images are others than those of releases/challenger.json"


def _shown(winners: Winners) -> str:
    return ", ".join(f"{sha256[:SHOWN]} ({device})" for device, sha256 in digests(winners).items())


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise StillhouseError(f"{REPORT} is missing: no canary has judged the challenger. {NEXT}")
    try:
        found = _io.read_json(path)
        if found["schema_version"] != SCHEMA_VERSION or not found.keys() >= set(KEPT):
            raise ValueError
        for side in SIDES:
            found[side]["model_sha256"], found[side]["image"]
        if not _time(found["started"]) <= _time(found["ended"]):
            raise ValueError
    except (StillhouseError, AttributeError, KeyError, TypeError, ValueError):
        raise StillhouseError(
            f"{REPORT} is no canary report of schema version {SCHEMA_VERSION}. {NEXT}"
        ) from None
    return cast(dict[str, Any], found)


def _wrong_verdict(
    found: Mapping[str, Any], pending: Challenge, chain: Sequence[Record]
) -> Iterator[str]:
    serving = cast(Record, in_force(chain))
    if found["verdict"] != "promote":
        yield f"the canary's verdict is {found['verdict']}: {found['reason']}"
    if _time(found["started"]) < _time(pending["time"]):
        yield (f"the canary began at {found['started']}, before the challenge of {pending['time']}")
    for side, holder in zip(SIDES, (serving, pending), strict=True):
        yield from _wrong_side(found, side, digests(holder["winners"]), images_of(holder))
    yield from _uncovered(device_of(found), serving, pending)


def _wrong_side(
    found: Mapping[str, Any], side: str, models: Mapping[Device, str], images: Images
) -> Iterator[str]:
    device, judged = device_of(found), found[side]
    if judged["model_sha256"] != models.get(device):
        yield (
            f"the canary's {side} was {str(judged['model_sha256'])[:SHOWN]}, expected "
            f"{str(models.get(device))[:SHOWN]}"
        )
    expected = references(images).get(device)
    if expected and judged["image"] != expected:
        yield f"the canary's {side} ran in {judged['image'] or 'no image'}, expected {expected}"


def _uncovered(judged: Device, serving: Record, pending: Challenge) -> Iterator[str]:
    """Devices whose models change though no canary has compared them."""
    now, proposed = digests(serving["winners"]), digests(pending["winners"])
    for device, sha256 in proposed.items():
        if device != judged and now.get(device) != sha256:
            yield f"the canary judged {judged}, but the model for {device} changes too"


def _time(text: str) -> datetime:
    """A time with its zone; one without cannot be compared.

    Raises:
        ValueError: no time, or without a zone.
    """
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("no time zone")
    return found
