"""Canary: compare champion and challenger on live traffic, and say promote, hold or roll back.

Reads   /metrics of both services, releases/current.json, releases/challenger.json (or
        models/winner.json), params.yaml (section canary)
Writes  reports/canary/canary.json
Run     python -m stages.canary --champion URL --challenger URL

A splitter in front of both sends a share of the requests to the challenger (canary.share); it is
no part of this program, which only looks. What is compared and promised: docs/canary.md.

No DVC stage: traffic cannot be repeated. Exit code 0: promote; 3: hold; 4: roll back; 1: a mistake,
such as a service that cannot be read or serves another model, and then there is no canary.json.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages import _io
from stages._canary.arms import KEY, Arm, Asking, check_urls, read_key
from stages._canary.expected import expected_challenger, expected_champion
from stages._canary.verdict import Kind, Tested, Verdict
from stages._canary.watching import Look, Watched, watch_arms
from stages._params import check_params, load_params
from stages._params.canary import Canary
from stages._stage import print_line

REPORT = Path("reports/canary/canary.json")
SCHEMA_VERSION = 1
EXIT: Mapping[Kind, int] = {"promote": 0, "hold": 3, "roll_back": 4}
NEXT: Mapping[Kind, str] = {
    "promote": "make release",
    "hold": "look again for longer (--minutes), or send the challenger's share back",
    "roll_back": "send all traffic to the champion",
}


def canary(
    champion: Arm,
    challenger: Arm,
    rules: Canary,
    report: Path,
    key: str | None = None,
    device: str = "cpu",
    clock: Callable[[], float] = time.monotonic,
) -> Verdict:
    """Watch both arms until there is a verdict, and write it to `report`.

    Args:
        key: of the services, None without one.
        device: whose models are compared; release reads it.
        clock: seconds from any beginning.

    Raises:
        StillhouseError: a service cannot be read at the start, or serves another model.
    """
    report.unlink(missing_ok=True)  # an older verdict must not stand for this one
    started = datetime.now(UTC)
    with closing(Asking((champion, challenger), key)) as asking:
        watched = watch_arms(champion, challenger, asking, rules, _tell, clock)
    ended = datetime.now(UTC)
    verdict = watched.verdict
    _io.write_json(
        report,
        {
            "schema_version": SCHEMA_VERSION,
            "verdict": verdict.kind,
            "reason": verdict.reason,
            "device": device,
            "champion": _side(champion),
            "challenger": _side(challenger),
            "started": started.isoformat(timespec="seconds"),
            "ended": ended.isoformat(timespec="seconds"),
            "share": rules.share,
            "alpha": rules.alpha,
            **_evidence(watched),
        },
    )
    return verdict


def _side(arm: Arm) -> dict[str, Any]:
    return asdict(arm.expected) | {"replicas": len(arm.urls), "restarts": arm.restarts}


def _evidence(watched: Watched) -> dict[str, Any]:
    """What was fixed before the tests, the tests as they ended, and every look."""
    basis = watched.basis
    return {
        "slow_limit_s": basis.limit_s if basis else None,
        "centres": dict(basis.centres) if basis else None,
        "tests": [_test(test) for test in watched.verdict.tests],
        "looks": [
            {
                "seconds": round(look.seconds, 1),
                "champion_requests": look.champion,
                "challenger_requests": look.challenger,
                "bounds": {test.name: [test.low, test.high] for test in look.verdict.tests},
            }
            for look in watched.looks
        ],
    }


def _test(test: Tested) -> dict[str, Any]:
    return {
        "name": test.name,
        "verdict": test.verdict,
        "margin": test.margin,
        "champion": asdict(test.arms.champion),
        "challenger": asdict(test.arms.challenger),
        "low": test.low,
        "high": test.high,
        "stretches": test.arms.stretches,
    }


def _tell(look: Look) -> None:
    """One line per look."""
    told = f"{look.seconds:6.0f} s  champion {look.champion}, challenger {look.challenger}"
    tests = "  ".join(map(_shown, look.verdict.tests))
    print_line(f"{told}  {tests or look.verdict.reason}")


def _shown(test: Tested) -> str:
    return f"{test.name} {test.verdict} {test.low:+.3f}..{test.high:+.3f} ({test.margin:g})"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.canary",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for side in ("champion", "challenger"):
        parser.add_argument(
            f"--{side}", nargs="+", metavar="URL", required=True, help="of each replica"
        )
        parser.add_argument(f"--{side}-model", metavar="SHA256", help="that it must serve")
        parser.add_argument(f"--{side}-image", metavar="IMAGE", help="for the report")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="whose models")
    parser.add_argument("--share", type=float, help="of the requests (canary.share)")
    parser.add_argument("--minutes", type=float, help="longest time (canary.minutes)")
    parser.add_argument("--key-file", type=Path, help=f"holds the services' key (or {KEY})")
    parser.add_argument("--insecure", action="store_true", help="the key may go over http")
    return parser.parse_args()


def _rules(arguments: argparse.Namespace) -> Canary:
    """The section of params.yaml, with what the command line says instead."""
    rules = load_params(Path("params.yaml")).canary
    said = {name: getattr(arguments, name) for name in ("share", "minutes")}
    given = {name: value for name, value in said.items() if value is not None}
    content = {"canary": rules.model_dump() | given}
    return check_params(content, Path("the command line")).canary


def main() -> None:
    """Judge the project's own challenger."""
    arguments = _parse()
    try:
        rules, key = _rules(arguments), read_key(arguments.key_file)
        urls = check_urls(
            [*arguments.champion, *arguments.challenger], key, insecure=arguments.insecure
        )
        cut, root, device = len(arguments.champion), Path.cwd(), arguments.device
        given = (arguments.champion_model, arguments.champion_image)
        champion = Arm("champion", urls[:cut], expected_champion(root, device, *given))
        given = (arguments.challenger_model, arguments.challenger_image)
        challenger = Arm("challenger", urls[cut:], expected_challenger(root, device, *given))
        verdict = canary(champion, challenger, rules, root / REPORT, key, device)
    except StillhouseError as error:
        sys.exit(f"error: canary: {error}")
    print_line(f"{verdict.kind}: {verdict.reason}")
    print_line(f"{REPORT}. Next: {NEXT[verdict.kind]}")
    sys.exit(EXIT[verdict.kind])


if __name__ == "__main__":
    main()
