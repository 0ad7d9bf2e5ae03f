"""The judge alone on drawn counts: how often it errs where the truth is known."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from stages._canary.evidence import Counts
from stages._canary.verdict import Arms, Stretches, judge
from stages._params.canary import Canary, Metric

LOOKS, REQUESTS = 100, 100  # most looks of a run, and requests between two
USUAL: Mapping[Metric, float] = {
    "errors": 0.002,
    "refusals": 0.005,
    "slow": 0.25,
    "slot_errors": 0.2,
}
"""Shares of bad requests of a champion, as a warm-up would give the centres."""
Chances = Callable[[int], Mapping[Metric, float]]
"""Of either arm at each look."""


def usual(_: int) -> Mapping[Metric, float]:
    """The same at all looks."""
    return USUAL


def busy(look: int) -> Mapping[Metric, float]:
    """Every fifth look the machine is busy: three of four requests are slow, some fail."""
    return {**USUAL, "slow": 0.75, "errors": 0.05} if look % 5 == 0 else USUAL


def worse(by: Mapping[Metric, float], chances: Chances = usual) -> Chances:
    """So much more at all looks."""

    def found(look: int) -> Mapping[Metric, float]:
        now = chances(look)
        return {metric: min(now[metric] + by.get(metric, 0.0), 1.0) for metric in now}

    return found


def cases(rules: Canary) -> dict[str, tuple[Chances, Chances]]:
    """Champion's and challenger's chances; at a margin either verdict would be an error."""
    margins = rules.margins.chosen()
    at_margins = {f"at the margin of {name}": {name: margin} for name, margin in margins.items()}
    return {
        "unchanged": (usual, usual),
        "unchanged, bursts on both": (busy, busy),
        **{name: (usual, worse(by)) for name, by in at_margins.items()},
        "at the margin of slow, bursts on both": (busy, worse({"slow": margins["slow"]}, busy)),
        "slow twice the margin": (usual, worse({"slow": 2.0 * margins["slow"]})),
        "slot errors twice the margin": (
            usual,
            worse({"slot_errors": 2.0 * margins["slot_errors"]}),
        ),
    }


def simulate(rules: Canary, runs: int, seed: int) -> dict[str, Any]:
    """Verdicts of `runs` canaries per case, and the requests that the decided ones took."""
    told: dict[str, Any] = {}
    for case, (champion, challenger) in cases(rules).items():
        random = np.random.default_rng(seed)
        verdicts, requests = Counter[str](), []
        for _ in range(runs):
            kind, took = one_run(rules, champion, challenger, random)
            verdicts[kind] += 1
            if kind != "hold":
                requests.append(took)
        told[case] = {
            **{kind: verdicts[kind] / runs for kind in ("promote", "hold", "roll_back")},
            "median_requests": float(np.median(requests)) if requests else None,
        }
    return told


def one_run(
    rules: Canary, champion: Chances, challenger: Chances, random: np.random.Generator
) -> tuple[str, int]:
    """Verdict and requests of one canary."""
    counts = {metric: Arms(Counts(0, 0), Counts(0, 0)) for metric in rules.margins.chosen()}
    stretches = Stretches(rules.margins.slow or 0.0)
    for look in range(LOOKS):
        theirs = int(random.binomial(REQUESTS, rules.share))
        for metric, arms in counts.items():
            counts[metric] = Arms(
                arms.champion + _drawn(random, REQUESTS - theirs, champion(look)[metric]),
                arms.challenger + _drawn(random, theirs, challenger(look)[metric]),
            )
        stretches.add(counts["slow"])
        counts["slow"] = replace(counts["slow"], stretches=stretches.counts)
        verdict = judge(counts, USUAL, rules, over=look == LOOKS - 1)
        if verdict.kind != "open":
            break
    return verdict.kind, (look + 1) * REQUESTS


def _drawn(random: np.random.Generator, total: int, chance: float) -> Counts:
    return Counts(int(random.binomial(total, chance)), total)
