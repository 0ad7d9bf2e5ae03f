"""Rollback: the release before comes into force again, in releases/ and in MLflow's registry.

Reads   releases/
Writes  releases/<n>.json (a decision record of kind rollback) and releases/current.json; in MLflow
        the aliases champion and previous
Run     python -m stages.rollback [--to N] [--reason TEXT]

It names the image and the Bento to redeploy (releases/current.json has them too: images.cpu.image)
and where the model is; it redeploys nothing and asks no canary. A standing challenge ends. Nothing
is taken out of releases/: what was rolled back stays there, and `make release` does not bring it
into force again without a reason. Where the registry is down, STILLHOUSE_TRACKING=off goes back
without it.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from serving.errors import StillhouseError
from stages import _releases
from stages._provenance import git_state, person
from stages._registering import settle
from stages._releases import Record, images_of
from stages._restoring import describe_place
from stages._roles import describe_winners, list_images
from stages._run import tracking_state
from stages._stage import print_line
from stages._tracking.registry import open_registry

RELEASES = Path("releases")


def rollback(root: Path, command: str, to: int | None = None, reason: str = "") -> Record:
    """Bring an earlier release into force again; returns the last record.

    An interrupted rollback is finished first and nothing else is done. With `to` naming what is in
    force already, only the registry is mended.

    Args:
        to: number of the release; None: the one before.

    Raises:
        StillhouseError: there is no such release, or the registry cannot be reached.
    """
    folder = root / RELEASES
    with _releases.holding(folder):
        chain = _releases.read_chain(folder)
        mended = _releases.repair(folder, chain)
        serving = _releases.in_force(chain)
        if serving is None:
            raise StillhouseError('Nothing was released yet. Run "make release" first.')
        finished = mended and to is None and chain[-1]["kind"] == "rollback"
        target = serving if finished else _target(chain, to)
        if target["release"] != serving["release"]:
            record = _record(root, chain, target, command, reason)
            _move_aliases(root, [*chain, record])
            _releases.append(folder, record)
            chain.append(record)
            print_line(f"rollback: release {target['release']} took over from {serving['release']}")
        else:
            _move_aliases(root, chain)
            how = (
                "is in force, an interrupted rollback is finished" if finished else "serves already"
            )
            print_line(f"rollback: release {target['release']} {how}")
        _tell(root, target, chain[-1])
        return chain[-1]


def _target(chain: Sequence[Record], to: int | None) -> Record:
    """The release to go to.

    Raises:
        StillhouseError: there is none, or `to` is no release.
    """
    releases = {record["release"]: record for record in chain if record["kind"] == "release"}
    if to is not None:
        if to not in releases:
            known = ", ".join(map(str, releases))
            raise StillhouseError(f"There is no release {to}. Name one of these: {known}.")
        return releases[to]
    target = _releases.before(chain)
    if target is None:
        raise StillhouseError(
            f"Release {chain[-1]['serves']} took over from none, so there is nothing to go back "
            f"to. Name another release with --to, or repair and release anew."
        )
    return target


def _record(root: Path, chain: Sequence[Record], to: Record, command: str, reason: str) -> Record:
    """What the target says, under a new number; time, person and reason are of now."""
    git = git_state(root, apart_from="releases")
    decision: _releases.Decision = {
        "kind": "rollback",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": person(root),
        "command": command,
        "reason": reason,
        "git": {"commit": git.commit, "dirty": git.dirty},
        "winners": to["winners"],
        "scores": to["scores"],
        "benchmark": to["benchmark"],
        "data": to["data"],
        "candidates": to["candidates"],
        "decision": to["decision"],
        "bento": to["bento"],
        "images": images_of(to),
        "canary": {"verdict": "not_asked", "reason": "a rollback"},
    }
    return _releases.next_record(root / RELEASES, chain, decision, serves=to["release"])


def _move_aliases(root: Path, chain: Sequence[Record]) -> None:
    if tracking_state() == "off":
        print_line("  aliases stay where they are (tracking is off); to move them later:")
        print_line(f"  python -m stages.rollback --to {chain[-1]['serves']}")
        return
    try:
        with open_registry(root) as registry:
            settle(registry, chain, root)
    except StillhouseError as error:
        raise StillhouseError(
            f"{error} To go back without it: STILLHOUSE_TRACKING=off make rollback"
        ) from None


def _tell(root: Path, target: Record, last: Record) -> None:
    """What happened, what to redeploy, what to do next."""
    for line in describe_winners(target):
        print_line(f"  {line}")
    bento = [f"Bento {target['bento']}"] if target["bento"] else []
    for line in (*list_images(target), *bento):
        print_line(f"Redeploy: {line}")
    print_line("Models:")
    names = [winner["candidate"] for winner in target["winners"].values() if winner]
    for name in dict.fromkeys(names):
        for line in describe_place(root, target["candidates"][name], target["git"]):
            print_line(f"  {line}")
    number = last["release"]
    print_line(f'Next: git add releases && git commit -m "Record {number}: {last["kind"]}"')


def main() -> None:
    """Roll the project's own releases back."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.rollback",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--to", type=int, metavar="N", help="release to go to (the one before)")
    parser.add_argument("--reason", default="", help="why; the record holds it")
    arguments = parser.parse_args()
    command = shlex.join(["python", "-m", "stages.rollback", *sys.argv[1:]])
    try:
        rollback(Path.cwd(), command, arguments.to, arguments.reason)
    except StillhouseError as error:
        sys.exit(f"error: rollback: {error}")


if __name__ == "__main__":
    main()
