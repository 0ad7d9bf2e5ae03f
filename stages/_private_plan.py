"""What a private training run promises, the noise that takes, and what the promise leaves out.

The unit is a prompt with all its references: who knows every other prompt and the weights still
learns next to nothing about one. Accounting is opacus', by Rényi differential privacy (Mironov
2017, arXiv:1702.07476) of the sampled Gaussian mechanism (Mironov et al. 2019, arXiv:1908.10530).

Imports opacus (seconds); stages import it when they run.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from opacus.accountants import RDPAccountant
from opacus.accountants.utils import get_noise_multiplier

from serving.errors import StillhouseError
from stages._params import DifferentialPrivacy, Training
from stages._sequences import TrainingSequence

UNIT = "a training prompt with all its references"
ORDERS = [
    *(1.0 + tenth / 10 for tenth in range(1, 10)),
    *(2.0 + quarter / 4 for quarter in range(8)),
    *range(4, 33),
    *(40, 48, 64, 96, 128, 192, 256, 512, 1024),
]
"""Rényi orders that the accountant tries; opacus' own stop at 63, too low for an epsilon of 0.1."""
Unit = Sequence[int]
"""Indices of a prompt's sequences."""


@dataclass(frozen=True)
class PrivacyPlan:
    """What a run promises, and the noise that it takes."""

    settings: DifferentialPrivacy
    units: Sequence[Unit]
    steps: int
    sample_rate: float
    """Probability of each unit in each step."""
    delta: float
    noise_multiplier: float
    """Standard deviation of the noise over the clip norm."""

    @property
    def expected_units(self) -> float:
        """Units that a step draws on average; the sum is divided by it, not by the true number."""
        return self.sample_rate * len(self.units)

    @property
    def epsilon(self) -> float:
        """What all steps together give away, at `delta`; an upper bound."""
        accountant = RDPAccountant()
        accountant.history = [(self.noise_multiplier, self.sample_rate, self.steps)]
        return float(accountant.get_epsilon(self.delta, alphas=ORDERS))

    def describe(self, start: str, own_tokenizer: bool) -> dict[str, Any]:
        """The promise and its limits, for distill.json.

        Args:
            start: the recipe's init.
            own_tokenizer: whether the tokenizer was trained on the training prompts.
        """
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "unit": UNIT,
            "units": len(self.units),
            "neighbours": "data sets that differ by one unit, added or removed",
            "steps": self.steps,
            "sample_rate": self.sample_rate,
            "noise_multiplier": self.noise_multiplier,
            "clip_norm": self.settings.clip_norm,
            "accountant": f"RDP, Poisson sampling (opacus {metadata.version('opacus')})",
            "covers": "the weights of this model, at every step",
            "does_not_cover": gaps(self.settings, start, own_tokenizer),
        }


def plan_privacy(
    settings: DifferentialPrivacy, sequences: Sequence[TrainingSequence], training: Training
) -> PrivacyPlan:
    """Find the least noise that keeps to `settings.epsilon` over all steps of `training`.

    Raises:
        StillhouseError: delta is so large that a whole prompt may come out, or no noise will do.
    """
    units = group_units(sequences)
    delta = settings.delta or len(units) ** -1.1
    if delta * len(units) >= 1.0:
        raise StillhouseError(
            f"privacy.delta {delta:g} would let one of {len(units)} prompts come out whole. "
            f"Expected less than {1 / len(units):.2g}: lower it, or train on more prompts."
        )
    tokens = sum(len(sequence) for sequence in sequences)
    rate = min(1.0, training.batch_tokens / tokens)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Optimal order is")  # of rates that it tries
            noise = get_noise_multiplier(
                target_epsilon=settings.epsilon,
                target_delta=delta,
                sample_rate=rate,
                steps=training.steps,
                accountant="rdp",
                epsilon_tolerance=settings.epsilon / 100.0,
                alphas=ORDERS,
            )
    except ValueError as error:
        raise StillhouseError(
            f"no noise gives epsilon {settings.epsilon:g} at delta {delta:.2g} over "
            f"{training.steps} steps ({error}). Raise privacy.epsilon or take fewer steps."
        ) from None
    return PrivacyPlan(settings, units, training.steps, rate, delta, noise)


def group_units(sequences: Sequence[TrainingSequence]) -> list[Unit]:
    """Sequences of one prompt together, whatever example they came from."""
    units: dict[tuple[int, ...], list[int]] = {}
    for index, sequence in enumerate(sequences):
        units.setdefault(tuple(sequence.prompt), []).append(index)
    return list(units.values())


def gaps(settings: DifferentialPrivacy, start: str, own_tokenizer: bool) -> list[str]:
    """What of the training prompts may show elsewhere, in words."""
    found = [
        "other models made from the same prompts: teacher, baseline, recipes without privacy",
        "losses on training prompts (curve.csv, the tracker) and the number of prompts and tokens",
        "settings that were chosen after looking at results; validation prompts, which choose the "
        "best step, are not protected",
        "what the data's preparation decided from several prompts together",
        "what one person or event shows in several prompts: each is a unit of its own",
    ]
    if start == "pretrained":
        found.append("what the pretrained model had seen before")
    if own_tokenizer:
        found.append("the tokenizer, whose tokens were learned from the training text")
    if settings.noise_seed is not None:
        found.append("anyone who knows noise_seed, and so the noise: for tests only")
    return found
