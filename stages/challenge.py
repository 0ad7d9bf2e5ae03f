"""Challenge: what select chose stands against what serves, for a canary to compare.

Reads   what `make release` reads, and refuses what it would refuse
Writes  releases/challenger.json (the decision that a release would record, with the images); in
        MLflow a version per candidate and the alias challenger, no other
Run     python -m stages.challenge [--image cpu=NAME@sha256:…]

Nothing comes into force. The next challenge replaces this one, and a release or a rollback ends it.
The same challenge again keeps its time, so that a canary that began after it still counts.
"""

import argparse
import shlex
import sys
from pathlib import Path

from serving.errors import StillhouseError
from stages import _releases
from stages._challenges import (
    CHALLENGER,
    Challenge,
    next_challenge,
    read_challenge,
    write_challenge,
)
from stages._deciding import read_winners
from stages._images import parse_images
from stages._params import Params, load_params
from stages._proposing import Asked, propose, require_registry
from stages._registering import introduce
from stages._releases import Record, Winners, images_of, references, same_winners
from stages._roles import describe_winners, list_images
from stages._stage import print_line
from stages._tracking.registry import open_registry

RELEASES = Path("releases")


def challenge(params: Params, root: Path, asked: Asked) -> Challenge:
    """Propose the winners and their images; returns the challenge that stands.

    Raises:
        StillhouseError: nothing serves yet, or just this does; what a release would refuse.
    """
    require_registry()
    folder = root / RELEASES
    with _releases.holding(folder):
        chain = _releases.read_chain(folder)
        _releases.repair(folder, chain)
        if not chain:
            raise StillhouseError(
                'Nothing was released yet, so nothing serves to be challenged. Run "make release".'
            )
        winners = read_winners(root)
        if _releases.has(chain[-1], winners, asked.images):
            raise StillhouseError(
                f"release {chain[-1]['serves']} has these winners already, so there is nothing to "
                f"challenge it with. Train another model, or name another image with --image."
            )
        made = read_challenge(folder, chain)
        stands = made is not None and _is(made, winners, asked)
        if made is None or not stands:
            made = next_challenge(chain, propose(params, root, chain, winners, asked))
        with open_registry(root) as registry:
            introduce(registry, chain, made, root)
        if not stands:
            write_challenge(folder, made)
        _tell(made, chain, stands)
        return made


def _is(made: Challenge, winners: Winners, asked: Asked) -> bool:
    """Whether a challenge proposes just what is asked for."""
    images = references(images_of(made))
    return same_winners(made["winners"], winners) and images == asked.images


def _tell(made: Challenge, chain: list[Record], stands: bool) -> None:
    how = "stands already" if stands else "stands"
    print_line(f"challenge to release {chain[-1]['serves']} {how}")
    for line in (*describe_winners(made), *list_images(made)):
        print_line(f"  {line}")
    print_line(f"  releases/{CHALLENGER}")
    print_line("Next: serve both, make canary, and with its verdict make release")


def main() -> None:
    """Challenge what the project's own files say is in force."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.challenge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--despite",
        metavar="REASON",
        default="",
        help="in spite of uncommitted files, a rollback of these models or a verdict that keeps "
        "what serves; a release wants a reason too",
    )
    parser.add_argument(
        "--image",
        metavar="DEVICE=NAME@sha256:HEX",
        action="append",
        default=[],
        help="the image that the challenger runs in, by digest; the release takes it over",
    )
    given = parser.parse_args()
    command = shlex.join(["python", "-m", "stages.challenge", *sys.argv[1:]])
    try:
        asked = Asked(command, given.despite, images=parse_images(given.image))
        challenge(load_params(Path("params.yaml")), Path.cwd(), asked)
    except StillhouseError as error:
        sys.exit(f"error: challenge: {error}")


if __name__ == "__main__":
    main()
