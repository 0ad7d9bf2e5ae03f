"""Watch: note what drift found in a window, and say what to do.

Reads   reports/drift/drift.json, the window's folder in data/windows/, data/prepared/ (to count
        what is new), data/windows/retrainings.jsonl
Writes  data/windows/history.jsonl (a line per window, never changed), reports/watch/outcome.json
Run     python -m stages.watch

No DVC stage: its history must outlive every run. Exit code 0: nothing to do, or not yet; 3: retrain
(make retrain); 1: a mistake. The same window twice is one line.
"""

import argparse
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from serving.errors import StillhouseError
from stages import _io
from stages._params import load_params
from stages._params.watch import Watch
from stages._releases import holding
from stages._retraining.advice import WINDOWS, advise
from stages._retraining.records import HISTORY, append_line, is_known, read_history
from stages._retraining.verdicts import read_verdict
from stages._stage import print_line
from stages._watching import Outcome

DRIFT = Path("reports/drift/drift.json")
OUTCOME = Path("reports/watch/outcome.json")
RETRAIN = 3
NEXT = {
    "retrain": "make retrain",
    "no_new_labels": "give references of some of its rows (gold.jsonl, docs/windows.md)",
    "cooling_down": "wait, or: make retrain ARGS=\"--despite '...'\"",
    "over_budget": "wait, or: make retrain ARGS=\"--despite '...'\"",
}


def watch(root: Path, window: str, rules: Watch, seed: int, now: datetime) -> Outcome:
    """Add the verdict on a window to the history, unless it is there; returns what to do.

    Args:
        window: its folder in data/windows.
        now: with its zone.

    Raises:
        StillhouseError: no such window, a drift report of another one, an unreadable history.
    """
    from stages._windows.reading import read_window, summarise  # pyarrow

    windows = root / WINDOWS
    with holding(windows):
        info = read_window(windows / window).info
        verdict = read_verdict(root / DRIFT, info, summarise(windows / window))
        line = verdict | {"time": now.isoformat(timespec="seconds")}
        known = is_known(read_history(windows), line["window"])
        if not known:
            append_line(windows / HISTORY, line)
        outcome = advise(root, rules, seed, now)
    noted = "noted before" if known else "noted"
    print_line(f"{line['window']}: {line['verdict']} ({noted})")
    return outcome


def tell(outcome: Outcome, root: Path) -> None:
    """Print what to do, and write it for other programs."""
    print_line(f"{outcome.kind}: {outcome.reason}")
    if outcome.kind in NEXT:
        print_line(f"Next: {NEXT[outcome.kind]}")
    until = outcome.until.isoformat() if outcome.until else None
    _io.write_json(root / OUTCOME, asdict(outcome) | {"until": until})


def main() -> None:
    """Watch the project's own window."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.watch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--window", metavar="ID", help="in data/windows (default: drift.window)")
    arguments = parser.parse_args()
    root = Path.cwd()
    try:
        params = load_params(Path("params.yaml"))
        window = arguments.window or params.drift.window
        outcome = watch(root, window, params.watch, params.seed, datetime.now(UTC))
        tell(outcome, root)
    except StillhouseError as error:
        sys.exit(f"error: watch: {error}")
    sys.exit(RETRAIN if outcome.kind == "retrain" else 0)


if __name__ == "__main__":
    main()
