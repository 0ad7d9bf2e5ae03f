"""What to do about the newest window: the files in data/windows, read for the pure rules."""

import shutil
from datetime import datetime
from pathlib import Path

from serving.errors import StillhouseError
from stages import _io
from stages._params.watch import Watch
from stages._retraining.labels import count_labels
from stages._retraining.records import read_attempts, read_history
from stages._retraining.verdicts import window_name
from stages._watching import History, Labels, Outcome, decide, in_order

WINDOWS = Path("data/windows")
PREPARED = Path("data/prepared")
PLANTED = "planted"
NO_LABELS = Labels(prompts=0, gold=0)


def advise(root: Path, rules: Watch, seed: int, now: datetime) -> Outcome:
    """What to do now, by all that was watched and tried.

    Raises:
        StillhouseError: a record cannot be understood, or the newest window is not there.
    """
    windows = root / WINDOWS
    watched = read_history(windows)
    newest = in_order(watched)[-1] if watched else None
    labels = NO_LABELS
    if newest is not None and newest.verdict == "drift":
        folder = find_window(windows, newest.window)
        labels = count_labels(folder, newest.window, root / PREPARED, seed)
    return decide(History(watched, read_attempts(windows), labels), now, rules)


def find_window(windows: Path, name: str) -> Path:
    """The folder of a window; that of the planted one, if it still is the one of this name.

    Raises:
        StillhouseError: it is not there.
    """
    from stages._windows.reading import read_window  # pyarrow

    planted = windows / PLANTED
    if (windows / name).is_dir():
        return windows / name
    if not planted.is_dir() or window_name(read_window(planted).info) != name:
        raise StillhouseError(
            f"{windows / name} is not there. Restore it, or freeze a newer window: make window"
        )
    return planted


def own_folder(windows: Path, name: str) -> Path:
    """The folder of a window under its own name: the planted one is copied, since the pipeline
    makes it again for every winner."""
    found = find_window(windows, name)
    if found.name == name:
        return found
    with _io.writing_folder(windows / name) as folder:
        shutil.copytree(found, folder, dirs_exist_ok=True)
        info = _io.read_json(folder / "window.json")
        _io.write_json(folder / "window.json", info | {"id": name})
    return windows / name
