"""`make retrain` as far as the demo's graph goes: to the package, without ladder and report.

    python -m benchmarks._drift_demo_retrain          # in the demo's project

The demo trains no control, which the ladder asks for; all else is stages/retrain.py as it is.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

from serving.errors import StillhouseError
from stages._params import load_params
from stages._pipeline import main as run_pipeline
from stages._retraining.verdicts import Ended
from stages.retrain import Asked, Settings, retrain

REFUSED, NOTHING = 4, 5


def main() -> None:
    """Retrain; the exit code is that of stages/retrain.py, and 5 where it did not begin."""
    root = Path.cwd()
    params = load_params(root / "params.yaml")
    settings = Settings(params.retrain, params.watch, params.seed)
    try:
        ended = retrain(
            root, settings, Asked(), lambda: run_pipeline(["package"]), datetime.now(UTC)
        )
    except StillhouseError as error:
        sys.exit(f"error: retrain: {error}")
    print(ended)
    if not isinstance(ended, Ended):
        sys.exit(NOTHING)
    sys.exit({"promoted": 0, "refused": REFUSED, "failed": 1}[ended.ending])


if __name__ == "__main__":
    main()
