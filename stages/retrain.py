"""Retrain: learn from a window in drift, and let select decide against the model that serves.

Reads   data/windows/ (the window, history.jsonl, retrainings.jsonl), releases/current.json, the
        folder of the model in force, models/teacher/, data/prepared/, data/answers/
Writes  models/incumbent/, configs/retrained.yaml, params.yaml, two lines of
        data/windows/retrainings.jsonl, reports/retrain/<window>/; and all that the pipeline writes
Run     python -m stages.retrain

No DVC stage: it runs the pipeline. It goes on only where `make watch` would say retrain; a reason
(--despite) overrules drift, alarms in time and every brake but one: a window that was promoted or
refused is not taken again before it has more gold. A refused model leaves params.yaml as it was.
Releasing stays a command of its own. Exit code 0: promoted, or nothing to do; 4: refused; 1: failed
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages import _io
from stages._params import load_params
from stages._params.retrain import Retrain
from stages._params.watch import Watch
from stages._releases import holding
from stages._retraining.advice import WINDOWS, advise, find_window, own_folder
from stages._retraining.incumbent import place_incumbent
from stages._retraining.labels import gold_digest
from stages._retraining.overlay import keep, lay_over, load, overlay_of, read_before
from stages._retraining.records import RETRAININGS, append_line, read_attempts
from stages._retraining.teacher import Level, measure_teacher
from stages._retraining.tidying import clear_unfinished, take_back
from stages._retraining.verdicts import DECISION, Ended, read_ending, window_name
from stages._stage import print_line
from stages._watching import Kind

REPORTS = Path("reports/retrain")
REFUSED = 4
NEXT = {
    "promoted": "git add params.yaml configs/retrained.yaml dvc.lock && git commit, make challenge",
    "refused": "make repro (brings back what belongs to params.yaml, from DVC's cache)",
    "failed": "mend what is said above, then make retrain; or take it back: "
    "make retrain ARGS=--undo",
}


@dataclass(frozen=True)
class Settings:
    """The sections that retraining reads, and the seed."""

    retrain: Retrain
    watch: Watch
    seed: int


@dataclass(frozen=True)
class Asked:
    """What a person asked for."""

    window: str | None = None
    """None: the newest one that was watched."""
    despite: str = ""
    """A reason to retrain in spite of rules and brakes."""


def retrain(
    root: Path, settings: Settings, asked: Asked, pipeline: Callable[[], int], now: datetime
) -> Ended | Kind:
    """Retrain on a window where the rules allow it; returns how it ended, or why it did not begin.

    Args:
        pipeline: brings every stage up to date; returns the exit code.
        now: with its zone.

    Raises:
        StillhouseError: nothing was released or watched yet, or something needed is not there.
    """
    windows = root / WINDOWS
    with holding(windows):
        name, against = choose_window(root, settings, asked, now)
        if against is not None:
            return against
        load_params(root / "params.yaml")  # a mistake in it is told before anything is done
        folder = own_folder(windows, name)
        incumbent = place_incumbent(root)
        level = measure_teacher(root, folder, settings.retrain, settings.seed)
        print_line(f"teacher: {level.verdict}: {level.reason}")
        use = choose_use(settings.retrain, level, folder)
        clear_unfinished(root, root / REPORTS, read_attempts(windows))
        before, reports = read_before(root), root / REPORTS / name
        keep(before, reports)
        line = begin(windows, folder, asked, now)
        print_line(lay_over(root, overlay_of(name, use)) or "params.yaml has all of it already")
        before = replace(before, made=read_before(root).params)
        keep(before, reports)
        (root / DECISION).unlink(missing_ok=True)  # what is there afterwards is this run's
        ended = read_ending(root, pipeline())
        if ended.ending == "refused":
            take_back(root, before, name)
        append_line(windows / RETRAININGS, line | {"outcome": ended.ending})
        facts = {"incumbent_sha256": incumbent, "teacher": level.to_dict(), "use": use}
        _io.write_json(reports / "retrain.json", line | ended._asdict() | facts)
    return ended


def choose_window(
    root: Path, settings: Settings, asked: Asked, now: datetime
) -> tuple[str, Kind | None]:
    """The window to retrain on, and what speaks against it.

    Raises:
        StillhouseError: none was watched yet, or the one that was asked for is not there.
    """
    outcome = advise(root, settings.watch, settings.seed, now)
    name = full_name(root / WINDOWS, asked.window) if asked.window else outcome.window
    if name is None:
        raise StillhouseError(f"{outcome.reason}. Run: make watch, or name one (--window ID).")
    print_line(f"{outcome.window}: {outcome.kind}: {outcome.reason}")
    if outcome.kind == "retrain" and name == outcome.window:
        return name, None
    if not asked.despite:
        kind = outcome.kind if outcome.kind != "retrain" else "nothing"
        print_line("Nothing was done; to overrule this: make retrain ARGS=\"--despite '...'\"")
        return name, kind
    return name, "nothing" if is_done(root, name) else None


def full_name(windows: Path, asked: str) -> str:
    """The name under which records have a window: of the planted one, with its content's hash."""
    from stages._windows.reading import read_window  # pyarrow

    return window_name(read_window(find_window(windows, asked)).info)


def is_done(root: Path, name: str) -> bool:
    """Whether a window with its present gold was promoted or refused: that is never done twice."""
    gold = gold_digest(find_window(root / WINDOWS, name))
    for attempt in read_attempts(root / WINDOWS):
        same = (attempt.window, attempt.gold_sha256) == (name, gold)
        if same and attempt.ending in ("promoted", "refused"):
            print_line(f"{name} was {attempt.ending} with this gold; the same twice does nothing")
            return True
    return False


def choose_use(settings: Retrain, level: Level, folder: Path) -> dict[str, Any]:
    """What params.yaml says of the window: where its gold goes, and which window it is."""
    gold = settings.gold
    if gold == "auto":
        gold = "train" if level.verdict == "must_learn" else "held_out"
    if level.verdict == "must_learn":
        shown = ", ".join(level.wrong_gold[:5]) or "none is known by name"
        done = "learns it now" if gold == "train" else "should learn it (retrain.gold: train)"
        print_line(f"  the teacher {done}: {folder}/gold.jsonl, first of all {shown}")
    use = {"gold": gold, "prompts": settings.prompts}
    use["content_sha256"] = _io.read_json(folder / "window.json")["content_sha256"]
    digest = gold_digest(folder)
    return use | ({"gold_sha256": digest} if digest else {})


def begin(windows: Path, folder: Path, asked: Asked, now: datetime) -> dict[str, Any]:
    """Note that a retraining starts; returns its line. One that never ends counts as failed."""
    line = {
        "window": folder.name,
        "last": _io.read_json(folder / "window.json")["last"],
        "gold_sha256": gold_digest(folder),
        "started": now.isoformat(),
        "despite": asked.despite or None,
    }
    append_line(windows / RETRAININGS, line)
    return line


def undo(root: Path) -> None:
    """Put params.yaml and the profile back as they were before the last retraining.

    Edits that were made since stay. One that still runs is waited for.

    Raises:
        StillhouseError: there was none, or its report is gone.
    """
    with holding(root / WINDOWS):
        attempts = read_attempts(root / WINDOWS)
        if not attempts:
            raise StillhouseError("Nothing was retrained yet, so there is nothing to take back.")
        window = attempts[-1].window
        take_back(root, load(root / REPORTS / window), window)
    print_line(f"params.yaml is as it was before the retraining on {window}")
    print_line(f"Next: {NEXT['refused']}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m stages.retrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--window", metavar="ID", help="in data/windows (default: the newest)")
    parser.add_argument(
        "--despite",
        metavar="REASON",
        default="",
        help="retrain in spite of too few alarms, labels or time; the record holds the reason",
    )
    parser.add_argument("--undo", action="store_true", help="take the last one's params back")
    return parser.parse_args()


def main() -> None:
    """Retrain the project in the present folder."""
    arguments, root = _arguments(), Path.cwd()
    try:
        if arguments.undo:
            undo(root)
            return
        from stages._pipeline import main as run_pipeline

        params = load_params(root / "params.yaml")
        settings = Settings(params.retrain, params.watch, params.seed)
        asked = Asked(arguments.window, arguments.despite)
        ended = retrain(root, settings, asked, lambda: run_pipeline([]), datetime.now(UTC))
    except StillhouseError as error:
        sys.exit(f"error: retrain: {error}")
    if isinstance(ended, Ended):
        print_line(f"{ended.ending}: {ended.reason}")
        print_line(f"Next: {NEXT[ended.ending]}")
        sys.exit({"promoted": 0, "refused": REFUSED, "failed": 1}[ended.ending])


if __name__ == "__main__":
    main()
