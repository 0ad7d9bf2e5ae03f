"""Release: what select chose comes into force, in releases/ and in MLflow's registry.

Reads   models/winner.json, reports/select/decision.json, reports/evaluate/, reports/benchmark/, the
        model folders of all candidates, releases/
Writes  releases/<n>.json (the decision record) and releases/current.json; in MLflow a version per
        candidate with its lineage, and the aliases challenger, champion, previous
Run     python -m stages.release

No DVC stage: what is restored from a cache acts on nothing. The order is such that the command can
be run again after any interruption: versions, challenger, record, current.json, champion. With the
same winners it makes no second release and only mends what lags behind.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages import _io, _releases
from stages._deciding import check_fresh, objections, read_decision, read_winners
from stages._lineage import describe_candidates, read_evaluation
from stages._params import Params, load_params
from stages._provenance import git_state, person
from stages._registering import challenge, settle
from stages._releases import Decision, Device, Record, Winners, describe_winners
from stages._run import tracking_state
from stages._stage import print_line
from stages._tracking.registry import open_registry

RELEASES = Path("releases")
BENCHMARKS = Path("reports/benchmark")
PACKAGE = Path("reports/package/release.json")


def release(params: Params, root: Path, command: str, despite: str = "") -> Record:
    """Bring the winners into force, unless they are already; returns the record in force.

    Args:
        command: what the record says was run.
        despite: a person's reason to release in spite of objections.

    Raises:
        StillhouseError: no winner, failed gates, models or files other than those judged, an
            objection that nobody overruled, a registry that cannot be reached.
    """
    if tracking_state() == "off":
        raise StillhouseError(
            "STILLHOUSE_TRACKING is off, and a release registers models. Unset it."
        )
    folder = root / RELEASES
    with _releases.holding(folder):
        chain = _releases.read_chain(folder)
        if _releases.repair(folder, chain):
            print_line(f"releases/current.json lagged behind {chain[-1]['release']}.json: mended")
        winners = read_winners(root)
        if chain and _releases.same_winners(chain[-1]["winners"], winners):
            print_line(f"release {chain[-1]['serves']} has these winners already: no new release")
            with open_registry(root) as registry:
                settle(registry, chain, root)
            return chain[-1]
        decision = decide(params, root, chain, winners, command, despite)
        return _bring_into_force(root, chain, decision)


def decide(
    params: Params, root: Path, chain: list[Record], winners: Winners, command: str, despite: str
) -> Decision:
    """Everything the record will hold, after every check that can refuse the release."""
    check_fresh(root)
    decision = read_decision(root, winners, chain)
    against = objections(root, decision, winners, chain)
    if against and not despite:
        raise StillhouseError(
            f"{'; '.join(against)}. Mend that, or give a reason to release all the same: "
            f"make release ARGS=\"--despite '...'\""
        )
    candidates = describe_candidates(params, root)
    won = {device: winner for device, winner in winners.items() if winner}
    reports = {d: read_evaluation(root, winner["candidate"]) for d, winner in won.items()}
    git = git_state(root, apart_from="releases")
    return {
        "kind": "release",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": person(root),
        "command": command,
        "reason": f"{despite} (despite: {'; '.join(against)})" if against else decision["reason"],
        "git": {"commit": git.commit, "dirty": git.dirty},
        "winners": winners,
        "scores": {device: _scores(report) for device, report in reports.items()},
        "benchmark": {d: _benchmark(root, w["candidate"], d) for d, w in won.items()},
        "data": {**reports["cpu"]["data"], "examples": reports["cpu"]["examples"]},
        "candidates": candidates,
        "decision": decision,
        "bento": _bento(root, winners),
    }


def _scores(report: Mapping[str, Any]) -> dict[str, Any]:
    """The scores that have an interval, and what else stands beside them."""
    return {
        metric: dict(value)
        for metric, value in report.items()
        if isinstance(value, Mapping) and {"score", "low", "high"} <= value.keys()
    }


def _benchmark(root: Path, candidate: str, device: Device) -> dict[str, Any]:
    """The report for one device; one file may hold those of several."""
    path = root / BENCHMARKS / f"{candidate}.json"
    report: dict[str, Any] = _io.read_json(path) if path.is_file() else {}
    by_device = report.pop("by_device", {report.get("device"): {}})
    return {**report, **by_device[device]} if device in by_device else {}


def _bento(root: Path, winners: Winners) -> str | None:
    """Tags of the Bentos that were packaged from these winners, the CPU's first, if any was."""
    if not (root / PACKAGE).is_file():
        return None
    made = _io.read_json(root / PACKAGE).get("bentos", {})
    tags = [
        made[device]["bento_tag"]
        for device, winner in winners.items()
        if winner and made.get(device, {}).get("model_sha256") == winner["model_sha256"]
    ]
    return ", ".join(tags) or None


def _bring_into_force(root: Path, chain: list[Record], decision: Decision) -> Record:
    folder = root / RELEASES
    record = _releases.next_record(folder, chain, decision)
    number, after = record["release"], [*chain, record]
    with open_registry(root) as registry:
        challenge(registry, after, root)
        _releases.append(folder, record)
        for line in describe_winners(record):
            print_line(f"release {number}: {line}")
        settle(registry, after, root)
    print_line(f"  releases/{number}.json, releases/current.json")
    print_line(f'Next: git add releases && git commit -m "Release {number}"')
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
    arguments = parser.parse_args()
    command = shlex.join(["python", "-m", "stages.release", *sys.argv[1:]])
    try:
        release(load_params(Path("params.yaml")), Path.cwd(), command, arguments.despite)
    except StillhouseError as error:
        sys.exit(f"error: release: {error}")


if __name__ == "__main__":
    main()
