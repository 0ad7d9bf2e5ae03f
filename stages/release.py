"""Release: what select chose comes into force, in releases/ and in MLflow's registry.

Reads   models/winner.json, reports/select/decision.json, reports/evaluate/, reports/benchmark/, the
        model folders of all candidates, releases/; after the first release releases/challenger.json
        and reports/canary/canary.json; reports/package/release.json
Writes  releases/<n>.json (the decision record) and releases/current.json; in MLflow a version per
        candidate with its lineage, and the aliases challenger, champion, previous
Run     python -m stages.release [--image cpu=NAME@sha256:…] [--without-canary REASON]

The first release asks nobody: nothing serves yet. A later one wants a canary's verdict on just
these models, in just these images: make challenge, make canary, make release. Images come from the
challenge, else from --image; releases/current.json names what to deploy (images.cpu.image).

No DVC stage: what is restored from a cache acts on nothing. The order is such that the command can
be run again after any interruption: versions, challenger, record, current.json, champion. With the
same winners it makes no second release and only mends what lags behind.
"""

import argparse
import shlex
import sys
from pathlib import Path

from serving.errors import StillhouseError
from stages import _releases
from stages._canary_verdict import judge
from stages._challenges import read_challenge
from stages._deciding import read_winners
from stages._images import parse_images
from stages._params import Params, load_params
from stages._proposing import Asked, propose, require_registry
from stages._registering import announce, settle
from stages._releases import Decision, Record, images_of, references, same_winners
from stages._roles import describe_winners, list_images
from stages._stage import print_line
from stages._tracking.registry import open_registry

RELEASES = Path("releases")


def release(params: Params, root: Path, asked: Asked) -> Record:
    """Bring the winners into force, unless they are already; returns the record in force.

    Raises:
        StillhouseError: no winner, failed gates, models or files other than those judged, an
            objection that nobody overruled, no canary's verdict, a registry out of reach.
    """
    require_registry()
    folder = root / RELEASES
    with _releases.holding(folder):
        chain = _releases.read_chain(folder)
        if _releases.repair(folder, chain):
            print_line(f"releases/current.json lagged behind {chain[-1]['release']}.json: mended")
        winners = read_winners(root)
        pending = read_challenge(folder, chain)
        if pending and not asked.images and same_winners(pending["winners"], winners):
            asked = asked._replace(images=references(images_of(pending)))
        if chain and _releases.has(chain[-1], winners, asked.images):
            print_line(f"release {chain[-1]['serves']} has these winners already: no new release")
            with open_registry(root) as registry:
                settle(registry, chain, root)
            return chain[-1]
        canary = judge(root, chain, pending, winners, asked.images, asked.without_canary)
        decision = propose(params, root, chain, winners, asked)
        return _bring_into_force(root, chain, {**decision, "canary": canary})


def _bring_into_force(root: Path, chain: list[Record], decision: Decision) -> Record:
    folder = root / RELEASES
    record = _releases.next_record(folder, chain, decision)
    number, after = record["release"], [*chain, record]
    with open_registry(root) as registry:
        announce(registry, after, root)
        _releases.append(folder, record)
        for line in (*describe_winners(record), *list_images(record)):
            print_line(f"release {number}: {line}")
        print_line(f"  canary: {record['canary']['verdict']}, {record['canary']['reason']}")
        settle(registry, after, root)
    print_line(f"  releases/{number}.json, releases/current.json")
    print_line(f'Next: git add releases && git commit -m "Release {number}"')
    print_line("      make repro (select now compares with this release), and commit dvc.lock")
    if number > 1:
        print_line("      to go back: make rollback")
    return record


def main() -> None:
    """Release what the project's own files say."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.release",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--despite",
        metavar="REASON",
        default="",
        help="release in spite of uncommitted files, a rollback of these models or a verdict "
        "that keeps what serves; the record holds the reason. Gates cannot be overruled",
    )
    parser.add_argument(
        "--without-canary",
        metavar="REASON",
        default="",
        help="release though no canary has judged these models; the record holds the reason",
    )
    parser.add_argument(
        "--image",
        metavar="DEVICE=NAME@sha256:HEX",
        action="append",
        default=[],
        help="the image to deploy, by digest; where a challenge stands, it has named it",
    )
    given = parser.parse_args()
    command = shlex.join(["python", "-m", "stages.release", *sys.argv[1:]])
    try:
        images = parse_images(given.image)
        asked = Asked(command, given.despite, given.without_canary, images)
        release(load_params(Path("params.yaml")), Path.cwd(), asked)
    except StillhouseError as error:
        sys.exit(f"error: release: {error}")


if __name__ == "__main__":
    main()
