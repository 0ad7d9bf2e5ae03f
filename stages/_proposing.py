"""What a record will hold, after every check that can refuse it: for challenge and release."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from serving.errors import StillhouseError
from stages import _io
from stages._deciding import check_fresh, objections, read_decision
from stages._images import describe_images, packaged
from stages._lineage import describe_candidates, read_evaluation
from stages._params import Params
from stages._provenance import git_state, person
from stages._releases import Decision, Device, Record, Winners
from stages._run import tracking_state

BENCHMARKS = Path("reports/benchmark")


class Asked(NamedTuple):
    """What a person asks for on the command line."""

    command: str
    """What the record says was run."""
    despite: str = ""
    """Why, in spite of objections."""
    without_canary: str = ""
    """Why no canary is asked."""
    images: Mapping[Device, str] = {}
    """Images by digest."""


def require_registry() -> None:
    """Refuse where nothing is tracked.

    Raises:
        StillhouseError: tracking is off.
    """
    if tracking_state() == "off":
        raise StillhouseError(
            "STILLHOUSE_TRACKING is off, and a release registers models. Unset it."
        )


def propose(
    params: Params, root: Path, chain: list[Record], winners: Winners, asked: Asked
) -> Decision:
    """Everything the record will hold but the canary, after every check that can refuse it.

    Raises:
        StillhouseError: failed gates, models or files other than those judged, an objection that
            nobody overruled, an image that cannot hold the winner.
    """
    check_fresh(root)
    decision = read_decision(root, winners, chain)
    images = describe_images(root, asked.images, winners)
    against = objections(root, decision, winners, asked.images, chain)
    if against and not asked.despite:
        raise StillhouseError(
            f"{'; '.join(against)}. Mend that, or give a reason to do it all the same: "
            f"ARGS=\"--despite '...'\""
        )
    candidates = describe_candidates(params, root)
    won = {device: winner for device, winner in winners.items() if winner}
    reports = {d: read_evaluation(root, winner["candidate"]) for d, winner in won.items()}
    git, bentos = git_state(root, apart_from="releases"), packaged(root, winners)
    overruled = f"{asked.despite} (despite: {'; '.join(against)})"
    return {
        "kind": "release",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": person(root),
        "command": asked.command,
        "reason": overruled if against else decision["reason"],
        "git": {"commit": git.commit, "dirty": git.dirty},
        "winners": winners,
        "scores": {device: _scores(report) for device, report in reports.items()},
        "benchmark": {d: _benchmark(root, w["candidate"], d) for d, w in won.items()},
        "data": {**reports["cpu"]["data"], "examples": reports["cpu"]["examples"]},
        "candidates": candidates,
        "decision": decision,
        "bento": ", ".join(made["bento_tag"] for made in bentos.values()) or None,
        "images": images,
        "canary": {"verdict": "not_asked", "reason": "a challenge"},
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
