"""Take back what a retraining left in params.yaml and beside the pipeline's own outputs."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from stages._retraining.incumbent import INCUMBENT
from stages._retraining.overlay import Before, load, named_windows, restore
from stages._watching import Attempt

# Whole folders that other stages read: what stays in them would make those stages run again.
LEFT_OVER = (
    "data/answers/{name}.calibration.jsonl",
    "data/answers/{name}.test.jsonl",
    "data/answers/{name}.model.json",
    "reports/answer/{name}",
    "reports/benchmark/{name}.json",
    "reports/benchmark/{name}",
)


def clear_unfinished(root: Path, reports: Path, attempts: Sequence[Attempt]) -> None:
    """Put params.yaml back where the last attempt failed or was killed.

    Without it a second attempt would take what the first one left for what was there before.

    Raises:
        StillhouseError: what was there before is gone.
    """
    if not attempts or attempts[-1].ending not in ("failed", None):
        return
    window = attempts[-1].window
    if window in named_windows(root):
        restore(root, load(reports / window), window)


def take_back(root: Path, before: Before, window: str) -> None:
    """Put params.yaml and the profile back, and take the incumbent's results away unless it was a
    candidate before, too."""
    restore(root, before, window)
    if f"{INCUMBENT.name}: {INCUMBENT.as_posix()}" in before.params:
        return
    for pattern in LEFT_OVER:
        path = root / pattern.format(name=INCUMBENT.name)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
