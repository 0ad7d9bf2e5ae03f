"""The learning-rate sweep: every rate gets the same steps, the lowest validation loss wins."""

import sys
from collections.abc import Callable
from pathlib import Path

from serving.errors import StillhouseError
from stages import _checkpoint
from stages._params import Training

Curve = list[dict[str, float]]
TrainAt = Callable[[float, int, int, Path, str], Curve]
"""Takes learning rate, steps, validations, scratch folder and label; returns the curve."""


class DivergedError(StillhouseError):
    """A loss became infinite or no number."""


def try_rates(
    train_at: TrainAt, settings: Training, scratch: Path, label: str
) -> dict[float, float]:
    """Validation loss by learning rate; a rate that diverges is left out, with a line on stderr.

    Of a rate that was tried the loss stays in scratch, so a killed sweep goes on with the next.

    Raises:
        StillhouseError: all of them diverged.
    """
    steps = max(1, round(settings.steps * settings.sweep_share))
    losses: dict[float, float] = {}
    for rate in settings.learning_rates:
        name, folder = f"tried-{rate}", scratch / f"sweep-{rate}"
        facts = _checkpoint.read_facts(scratch, name)
        if facts is None:
            facts = _try(train_at, rate, steps, folder, f"{label} lr {rate:g}")
            _checkpoint.save(scratch, name, {}, facts)
            _checkpoint.remove(folder)
        if "loss_nats" in facts:
            losses[rate] = facts["loss_nats"]
    if not losses:
        raise StillhouseError(
            f"{label}: every learning rate of the sweep diverged. Lower learning_rates."
        )
    return losses


def _try(train_at: TrainAt, rate: float, steps: int, folder: Path, label: str) -> dict[str, float]:
    """The loss after a short training, nothing where it diverged."""
    try:
        return {"loss_nats": train_at(rate, steps, 1, folder, label)[-1]["loss_nats"]}
    except DivergedError as error:
        if _checkpoint.is_main():
            sys.stderr.write(f"{error}\n")
        return {}
