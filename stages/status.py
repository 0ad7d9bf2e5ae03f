"""Status: what serves, what stands against it, what drift said last, and what is out of date.

Reads   releases/, reports/drift/drift.json, reports/watch/outcome.json, data/windows/history.jsonl,
        reports/canary/canary.json; asks DVC what is stale. Writes nothing.
Run     python -m stages.status [--no-dvc]

Registry and service are not asked: this is what the records say. Exit code 0 whatever it finds; 1:
a record cannot be read.

No DVC stage: what it tells is about now.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages import _io
from stages._challenges import Challenge, read_challenge
from stages._releases import Record, in_force, read_chain
from stages._retraining.records import HISTORY, read_lines
from stages._roles import describe_winners, list_images
from stages._stage import print_line

RELEASES, WINDOWS = Path("releases"), Path("data/windows")
DRIFT, OUTCOME = Path("reports/drift/drift.json"), Path("reports/watch/outcome.json")
CANARY = Path("reports/canary/canary.json")
DVC = (sys.executable, "-m", "dvc", "status", "--json")
DVC_S = 120.0
SHOWN = 8
Report = Mapping[str, Any]
Stale = Mapping[str, Any] | None
"""What DVC says has changed, by stage; None where it cannot say."""


def describe_champion(chain: Sequence[Record]) -> list[str]:
    """What is in force."""
    serving = in_force(chain)
    if serving is None:
        return ["nothing was released yet. Next: make release"]
    how = "" if chain[-1]["kind"] == "release" else f", rolled back to by record {len(chain)}"
    lines = [f"release {serving['release']} of {serving['time']}{how}"]
    return [*lines, *describe_winners(serving), *list_images(serving)]


def describe_challenger(pending: Challenge | None, canary: Report | None) -> list[str]:
    """What stands against it, and what the last canary said."""
    if pending is None:
        return ["none stands against it"]
    verdict = "no canary has judged it. Next: make canary"
    if canary and _began_after(canary, pending):
        verdict = f"the canary says {canary['verdict']}: {canary['reason']}"
    return [*describe_winners(pending), f"challenges since {pending['time']}; {verdict}"]


def _began_after(canary: Report, pending: Challenge) -> bool:
    """Whether a canary can have judged this challenge; an older one judged something else."""
    times = (canary["started"], pending["time"])
    began, challenged = (datetime.fromisoformat(time) for time in times)
    return began >= challenged


def describe_drift(
    report: Mapping[str, Any] | None, watched: Mapping[str, Any] | None
) -> list[str]:
    """The verdict on the last window, and what watch said to do."""
    if report is None:
        return ["no window was compared yet. Next: dvc repro drift"]
    kinds = ", ".join(f"{kind} {said}" for kind, said in report["verdicts"].items())
    window = report["rests_on"]["window"]
    planted = ", planted to try the detectors" if window.get("planted") else ""
    lines = [f"{report['verdict']} in window {window['id']}{planted} ({kinds})"]
    if watched is None and planted:
        return [*lines, "no traffic was compared yet. Next: make window"]
    if watched is None:
        return [*lines, "watch was not asked yet. Next: make watch"]
    until = f", until {watched['until']}" if watched.get("until") else ""
    about = f" of {watched['window']}" if watched.get("window") else ""  # may be an older one
    return [*lines, f"watch says {watched['kind']}{about}: {watched['reason']}{until}"]


def describe_windows(lines: Sequence[Report]) -> list[str]:
    """The last verdicts that watch noted."""
    if not lines:
        return []
    last = [f"{line['window']} {line['verdict']}" for line in lines[-3:]]
    return [f"last windows of {len(lines)}: {', '.join(last)}"]


def describe_stale(stale: Stale) -> list[str]:
    """Stages that `dvc repro` would run, with what changed of the first ones."""
    if stale is None:
        return ["DVC cannot say; run: dvc status"]
    if not stale:
        return ["nothing: every result belongs to the present data, params and code"]
    names = list(stale)
    told = [f"{name}: {reason}" for name in names[:SHOWN] if (reason := _reason(stale[name]))]
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [f"{len(names)} stages. Next: make repro", *told, *more]


def _reason(changes: Any) -> str:
    """What DVC names as changed of one stage, in a few words."""
    found: list[str] = []
    for change in changes if isinstance(changes, list) else []:
        if isinstance(change, str):
            found.append(change)
            continue
        for kind, paths in change.items():
            names = _names(paths)
            more = f" and {len(names) - 2} more" if len(names) > 2 else ""
            found.append(f"{kind} {', '.join(names[:2])}{more}")
    return "; ".join(found)


def _names(paths: Any) -> list[str]:
    """Paths, and the keys of params files."""
    if not isinstance(paths, Mapping):
        return [str(paths)]
    names: list[str] = []
    for path, state in paths.items():
        names += [str(key) for key in state] if isinstance(state, Mapping) else [str(path)]
    return names


def find_stale(root: Path) -> Stale:
    """What `dvc status` says; it reads hashes and runs nothing."""
    try:
        done = subprocess.run(  # noqa: S603 - our own words
            DVC, cwd=root, capture_output=True, text=True, timeout=DVC_S, check=False
        )
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None


def gather(root: Path) -> dict[str, list[str]]:
    """All that records say, by heading.

    Raises:
        StillhouseError: a record cannot be read.
    """
    chain = read_chain(root / RELEASES)
    pending = read_challenge(root / RELEASES, chain)
    windows = read_lines(root / WINDOWS / HISTORY)
    drift = describe_drift(_report(root / DRIFT), _report(root / OUTCOME))
    return {
        "champion": describe_champion(chain),
        "challenger": describe_challenger(pending, _report(root / CANARY)),
        "drift": [*drift, *describe_windows(windows)],
    }


def _report(path: Path) -> Any:
    """A report where there is one."""
    return _io.read_json(path) if path.is_file() else None


def tell(heading: str, lines: Iterable[str]) -> None:
    """A heading beside its lines."""
    for number, line in enumerate(lines):
        print_line(f"{heading if number == 0 else '':<12}{line}")


def main() -> None:
    """Tell of the project's own records."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.status",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--no-dvc", action="store_true", help="do not ask DVC what is stale")
    arguments = parser.parse_args()
    root = Path.cwd()
    try:
        for heading, lines in gather(root).items():
            tell(heading, lines)
    except StillhouseError as error:
        sys.exit(f"error: status: {error}")
    if not arguments.no_dvc:
        tell("stale", describe_stale(find_stale(root)))


if __name__ == "__main__":
    main()
