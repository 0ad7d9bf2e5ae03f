"""Did distilling win? Rungs with their seeds, a two-level bootstrap, fairness, verdict. Pure.

A rung is one recipe with all its seeds; its score is the mean over them. Intervals resample seeds
and prompts together (Multi-Bootstrap: Sellam et al. 2022, arXiv:2106.16163): the same prompts for
every rung, the seeds of each rung by themselves, since two recipes share a seed's number but
neither texts nor batches (the unpaired design there). Of n seeds n - 1 are drawn, which makes the
variance of their mean unbiased (Rao and Wu 1988, "Resampling Inference with Complex Survey Data").

Few seeds still give intervals that are too narrow. Simulated with three normal seeds on each side,
no true difference and 95 % intervals, in place of 2.5 % of them 7.2 % lie above zero where seeds
are the only noise (10.2 % if all three were drawn), 3.4 % where the prompts' noise equals a seed's.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from serving.errors import StillhouseError
from stages._params import DifferentialPrivacy, Recipe
from stages._scores import Rows, Score, Statistics

MIN_SEEDS = 3  # on each side, for a claim
MIN_RATES = 2  # learning rates tried by each side: with one there was no tuning

Report = Mapping[str, Any]
"""What training wrote about one model: distill.json or teacher.json."""
Verdict = Literal[
    "distilled", "won_unfairly", "won_without_seeds", "won_without_sweep", "inconclusive", "lost"
]
METHODS = ("sft", "seqkd", "logits", "on_policy")
ADDS = {
    "seqkd": "the teacher's texts",
    "logits": "the teacher's distributions",
    "on_policy": "the student's own texts, judged by the teacher",
}
OF_LOGITS = ("sources", "alpha", "divergence", "mix", "temperature")
SETTINGS = {"sft": (), "seqkd": ("sources",), "logits": OF_LOGITS, "on_policy": OF_LOGITS}
PRIVATE = ("steps", "batch_tokens", "learning_rate")  # set by a private recipe that names them
ALWAYS_PRIVATE = ("precision", "value_noise")  # set by every private recipe: float32, none made up
STARTS = {
    "prune": "starts from weights cut out of the teacher, not at random",
    "pretrained": "starts from pretrained weights, not at random",
}
FACTS: dict[str, Callable[[Report], Any]] = {
    "initialisation": lambda report: report["init"],
    "steps": lambda report: report["steps"],
    "parameters": lambda report: report["parameters"],
    "learning rates tried": lambda report: rates_tried(report),
    "tokens per batch": lambda report: report.get("batch_tokens"),
    "epsilon": lambda report: (report.get("privacy") or {}).get("epsilon"),
}
"""What a fair control shares with the student."""


@dataclass(frozen=True)
class Rung:
    """Recipes that differ in their seed alone, in the order of their seeds."""

    name: str
    recipes: tuple[str, ...]
    recipe: Recipe

    @property
    def level(self) -> int:
        """Place of its method, from references alone upwards."""
        return METHODS.index(self.recipe.method)


@dataclass(frozen=True)
class Sampled:
    """One metric of one rung: its scores [seeds], and their mean on every resample [resamples]."""

    scores: NDArray[np.float64]
    resampled: NDArray[np.float64]
    signature: str


@dataclass(frozen=True)
class Step:
    """Two rungs, and what the upper one has that the lower one has not."""

    lower: str
    upper: str
    what: str


def group_rungs(recipes: Mapping[str, Recipe]) -> dict[str, Rung]:
    """Put recipes that are equal but for `seed_offset` together, under their first one's name.

    The rungs of `student` and `control` bear these names wherever they stand.

    Raises:
        StillhouseError: student and control are one recipe, or two recipes are one run.
    """
    groups: dict[Recipe, list[str]] = {}
    for name, recipe in recipes.items():
        groups.setdefault(recipe.model_copy(update={"seed_offset": 0}), []).append(name)
    rungs = {}
    for recipe, names in groups.items():
        if {"student", "control"} <= set(names):
            raise StillhouseError(
                "distill.recipes.student and distill.recipes.control differ in no more than their "
                "seed, so there is nothing to compare. Give control the method sft."
            )
        offsets = {name: recipes[name].seed_offset for name in names}
        if len(set(offsets.values())) < len(names):
            raise StillhouseError(
                f"distill.recipes {', '.join(names)} have a seed_offset in common, so one run "
                f"would count twice. Give each its own seed_offset."
            )
        name = next((name for name in names if name in ("student", "control")), names[0])
        rungs[name] = Rung(name, tuple(sorted(names, key=lambda n: offsets[n])), recipe)
    return rungs


def seed_weights(recipes: Sequence[str], resamples: int, seed: int) -> Rows:
    """Share of each seed of one rung in each resample, shape [resamples, seeds].

    The draws depend on the rung's recipes, so those of two rungs are independent.
    """
    draws = max(len(recipes) - 1, 1)
    generator = np.random.default_rng([seed, zlib.crc32("\n".join(recipes).encode())])
    shares = np.full(len(recipes), 1.0 / len(recipes))
    return generator.multinomial(draws, shares, size=resamples).astype(np.float64) / draws


def sample(
    seeds: Sequence[Statistics], recipes: Sequence[str], weights: Rows, seed: int
) -> Sampled:
    """Score one rung on the whole test split and on every resample of seeds and prompts.

    Args:
        seeds: the statistics of each of the rung's `recipes`.
        weights: `bootstrap_weights` of the prompts, shape [resamples, prompts]; the same for all
            rungs, which makes their comparisons paired.
    """
    scores = np.asarray([float(s.combine(s.rows.sum(axis=0))) for s in seeds])
    resampled = np.stack([s.combine(weights @ s.rows) for s in seeds], axis=1)
    drawn = seed_weights(recipes, len(weights), seed)
    return Sampled(scores, (resampled * drawn).sum(axis=1), seeds[0].signature)


def interval(rung: Sampled, confidence: float) -> Score:
    """Mean score of a rung's seeds."""
    signature = f"{rung.signature}|seeds:{len(rung.scores)}"
    return _score(float(rung.scores.mean()), rung.resampled, confidence, signature)


def difference(ours: Sampled, theirs: Sampled, confidence: float) -> Score:
    """Our mean score minus theirs, on the same prompts."""
    point = float(ours.scores.mean() - theirs.scores.mean())
    signature = f"paired difference|{_both(ours, theirs)}"
    return _score(point, ours.resampled - theirs.resampled, confidence, signature)


def ratio(ours: Sampled, theirs: Sampled, confidence: float) -> Score | None:
    """Our mean score over theirs, on the same prompts; None where theirs can be zero."""
    if theirs.scores.mean() == 0 or (theirs.resampled == 0).any():
        return None
    point = float(ours.scores.mean() / theirs.scores.mean())
    signature = f"paired ratio|{_both(ours, theirs)}"
    return _score(point, ours.resampled / theirs.resampled, confidence, signature)


def _both(ours: Sampled, theirs: Sampled) -> str:
    return f"{ours.signature}|seeds:{len(ours.scores)} and {len(theirs.scores)}"


def _score(
    point: float, resampled: NDArray[np.float64], confidence: float, signature: str
) -> Score:
    tail = 100.0 * (1.0 - confidence) / 2.0
    low, high = np.percentile(resampled, [tail, 100.0 - tail])
    return Score(point, float(low), float(high), f"{signature}|bootstrap:seeds x prompts")


def find_steps(rungs: Mapping[str, Rung]) -> list[Step]:
    """Every rung against the one before it by method, and by start and privacy against its twin.

    By method a rung is compared with the nearest simpler method from the same start; of several
    rungs of that method with student or control, else with the first by name; never with a private
    one. Pruned or pretrained against random and private against not are rungs that are equal in
    everything else.
    """
    ranked = sorted(rungs.values(), key=rank)
    open_ones = [rung for rung in ranked if rung.recipe.privacy is None]
    steps = []
    for upper in ranked:
        simpler = [
            r for r in open_ones if r.recipe.init == upper.recipe.init and r.level < upper.level
        ]
        lower = next((r for r in simpler if r.level == simpler[-1].level), None)
        if lower is not None:
            steps.append(Step(lower.name, upper.name, _what_is_added(lower.recipe, upper.recipe)))
    for upper in ranked:
        at_random = upper.recipe.model_copy(update={"init": "scratch"})
        lower = next((r for r in ranked if r.recipe == at_random and r is not upper), None)
        if lower is not None:
            steps.append(Step(lower.name, upper.name, STARTS[upper.recipe.init]))
    for upper in ranked:
        twin = upper.recipe.model_copy(update={"privacy": None})
        lower = next((r for r in open_ones if r.recipe == twin and r is not upper), None)
        if lower is not None and upper.recipe.privacy is not None:
            steps.append(Step(lower.name, upper.name, _what_is_private(upper.recipe.privacy)))
    return steps


def rank(rung: Rung) -> tuple[int, bool, str]:
    """Order of the ladder: by method, student and control before their like, then by name."""
    return rung.level, rung.name not in ("student", "control"), rung.name


def _what_is_added(lower: Recipe, upper: Recipe) -> str:
    first, last = METHODS.index(lower.method), METHODS.index(upper.method)
    added = " and ".join(ADDS[method] for method in METHODS[first + 1 : last + 1])
    names = SETTINGS[lower.method]
    changed = [name for name in names if getattr(lower, name) != getattr(upper, name)]
    return f"adds {added}" + (f"; also changes {', '.join(changed)}" if changed else "")


def _what_is_private(privacy: DifferentialPrivacy) -> str:
    """Its epsilon, and the settings of `distill.training` that it has its own values for."""
    names = [name for name in PRIVATE if getattr(privacy, name) is not None]
    own = ", ".join([*names, *ALWAYS_PRIVATE])
    return f"trains with differential privacy, epsilon {privacy.epsilon:g}; also sets {own}"


def find_violations(student: Sequence[Report], control: Sequence[Report]) -> list[str]:
    """In words, what all runs of student and control should share and do not; empty when fair."""
    violations = []
    for what, read in FACTS.items():
        ours, theirs = ({str(read(report)) for report in side} for side in (student, control))
        if len(ours | theirs) > 1:
            found = f"student {', '.join(sorted(ours))}, control {', '.join(sorted(theirs))}"
            violations.append(f"{what}: {found}")
    return violations


def rates_tried(report: Report) -> int:
    """Learning rates that a run chose from."""
    return max(len(report["sweep"]), 1)


def judge(low: float, high: float, seeds: int, rates: int, violations: Sequence[str]) -> Verdict:
    """What may be said of the student's gain over the control.

    Args:
        low, high: interval of student minus control [BLEU].
        seeds: of the side that has fewer.
        rates: learning rates tried, by the run that tried fewest.
    """
    if high < 0:
        return "lost"
    if low <= 0:
        return "inconclusive"
    if violations:
        return "won_unfairly"
    if seeds < MIN_SEEDS:
        return "won_without_seeds"
    return "distilled" if rates >= MIN_RATES else "won_without_sweep"


def explain(verdict: Verdict, violations: Sequence[str]) -> str:
    """What follows from the figures, as the end of a sentence."""
    match verdict:
        case "distilled":
            return "so distilling won"
        case "won_unfairly":
            return f"but the control is not comparable ({'; '.join(violations)})"
        case "won_without_seeds":
            return f"but a claim needs {MIN_SEEDS} seeds on each side"
        case "won_without_sweep":
            return "but a claim needs a control with a learning-rate sweep of its own"
        case "inconclusive":
            return "so neither is shown to be better"
        case "lost":
            return "so distilling lost"


def mean_numbers(reports: Sequence[Report | None]) -> dict[str, float] | None:
    """Mean over seeds of every number that all reports hold; None where one holds nothing."""
    found = [report for report in reports if report is not None]
    if len(found) < len(reports):
        return None
    means: dict[str, float] = {}
    for name in found[0]:
        values = [report.get(name) for report in found]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) == len(found):
            mean = fmean(numbers)
            means[name] = round(mean) if all(isinstance(n, int) for n in numbers) else mean
    return means
