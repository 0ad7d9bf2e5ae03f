"""Container images of a release: named by digest, bound to the Bento that is in them.

A tag can be moved to another image after it was judged, so a name without a digest is refused. That
an image holds the Bento is known by whoever built it; what is checked here is that there is a Bento
of just this winner that it can have been built from.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from serving.errors import StillhouseError
from stages import _io
from stages._releases import DEVICES, Device, Image, Images, Winners, digests

PACKAGE = Path("reports/package/release.json")
# The grammar of github.com/distribution/reference, without its rarer separators.
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
REFERENCE = re.compile(
    rf"(?:[A-Za-z0-9.-]+(?::\d+)?/)?{_PART}(?:/{_PART})*(?::[\w][\w.-]{{0,127}})?"
    r"@sha256:[0-9a-f]{64}"
)


def parse_images(values: Iterable[str]) -> dict[Device, str]:
    """What `--image DEVICE=NAME@sha256:…` says, by device.

    Raises:
        StillhouseError: everything that is wrong with them, in one line.
    """
    named: dict[Device, str] = {}
    problems = []
    for value in values:
        device, _, reference = value.partition("=")
        if device not in DEVICES:
            problems.append(f'"{value}" names no device (expected {" or ".join(DEVICES)})')
        elif device in named:
            problems.append(f"{device} has two images")
        elif not REFERENCE.fullmatch(reference):
            problems.append(
                f'"{reference}" is no image by digest (a tag can be moved to another image)'
            )
        named[cast(Device, device)] = reference
    if problems:
        raise StillhouseError(f"{'; '.join(problems)}. Write cpu=NAME@sha256:<64 hex digits>.")
    return named


def describe_images(root: Path, named: Mapping[Device, str], winners: Winners) -> Images:
    """The images with the Bentos that are in them.

    Raises:
        StillhouseError: an image for a device without a winner, or of a winner that no Bento has.
    """
    bentos, models = packaged(root, winners), digests(winners)
    problems = list(_problems(named, models, bentos))
    if problems:
        raise StillhouseError(f'{"; ".join(problems)}. Run "dvc repro package".')
    return {
        device: Image(
            image=reference,
            bento_tag=bentos[device]["bento_tag"],
            bento_sha256=bentos[device]["bento_sha256"],
        )
        for device, reference in named.items()
    }


def _problems(
    named: Mapping[Device, str],
    models: Mapping[Device, str],
    bentos: Mapping[Device, Mapping[str, Any]],
) -> Iterator[str]:
    for device in named:
        if device not in models:
            yield f"an image was named for {device}, which has no winner"
        elif device not in bentos:
            yield (
                f"an image was named for {device}, but {PACKAGE} has no Bento of its winner "
                f"{models[device][:12]} that it could hold"
            )


def packaged(root: Path, winners: Winners) -> dict[Device, dict[str, Any]]:
    """What the stage package made of these very winners, by device."""
    if not (root / PACKAGE).is_file():
        return {}
    made = _io.read_json(root / PACKAGE).get("bentos", {})
    return {
        device: made[device]
        for device, sha256 in digests(winners).items()
        if made.get(device, {}).get("model_sha256") == sha256
    }
