"""What a retrained model forgot: gates against the model that serves, slice by slice. Pure.

A student that learned a new window may have lost what the old one knew (catastrophic forgetting:
McCloskey and Cohen 1989; French 1999, "Catastrophic forgetting in connectionist networks", Trends
in Cognitive Sciences 3:128-135), and a mean over all prompts hides it. So both answer the same test
split, and the paired difference must keep its limit on the old prompts and on each window's. As
everywhere, the bound that speaks against the candidate decides, and inconclusive is no pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stages._gates import Gate, absent, at_most
from stages._params.select import Gates, Retrained
from stages._retention import Bootstrap, Measured, applies, rise
from stages._scores import Score, Statistics, bootstrap_weights, paired_difference

INCUMBENT = "incumbent"
"""Name of the candidate that is the model in force, beside a retrained one."""
OLD = "old"
Slices = Mapping[str, list[int]]
"""Places of the prompts, by the name of their slice."""


def slices_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """`old`, what was tested before any window, and `window_<id>` for each window."""
    found: dict[str, list[int]] = {OLD: []}
    for place, line in enumerate(lines):
        name = f"window_{line['window']}" if line.get("window") else OLD
        found.setdefault(name, []).append(place)
    return {name: places for name, places in found.items() if places}


def incumbent_gates(
    gates: Gates,
    limits: Retrained,
    incumbent: Measured,
    candidate: Measured,
    bootstrap: tuple[int, float, int],
) -> list[Gate]:
    """A gate per slice and metric that is on: slot errors where there are records, and BLEU.

    Args:
        bootstrap: resamples, confidence and seed.
    """
    resamples, confidence, seed = bootstrap
    outcomes: list[Gate] = []
    for name, places in slices_of(candidate.lines).items():
        weights = bootstrap_weights(len(places), resamples, seed)
        sides = (part_of(incumbent, places), part_of(candidate, places))
        least = gates.min_prompts if name == OLD else limits.window_prompts
        kind = OLD if name == OLD else "window"
        drawn = Bootstrap(weights, confidence)
        limit = getattr(limits, f"{kind}_slot_error_rate_rise")
        if limit is not None and applies("slot_error_rate", *sides):
            outcomes.append(_error_gate(name, limit, *sides, drawn, least))
        limit = getattr(limits, f"{kind}_bleu_fall")
        if limit is not None and applies("bleu", *sides):
            outcomes.append(_bleu_gate(name, limit, *sides, drawn, least))
    return outcomes


def part_of(measured: Measured, places: Sequence[int]) -> Measured:
    """A candidate's lines and statistics on some of the prompts."""
    chosen = list(places)
    statistics = {
        name: Statistics(value.rows[chosen], value.combine, value.signature)
        for name, value in measured.statistics.items()
    }
    return replace(
        measured, lines=[measured.lines[place] for place in chosen], statistics=statistics
    )


def _error_gate(
    name: str,
    limit: float,
    incumbent: Measured,
    candidate: Measured,
    bootstrap: Bootstrap,
    least: int,
) -> Gate:
    gate, what = f"{name}_slot_error_rate_rise", "the rise above the model that serves"
    score = rise("slot_error_rate", incumbent, candidate, bootstrap)
    if score is None:
        return absent(gate, limit, "slot errors were not measured of both")
    return at_most(gate, score, limit, len(candidate.lines), least, what)


def _bleu_gate(
    name: str,
    limit: float,
    incumbent: Measured,
    candidate: Measured,
    bootstrap: Bootstrap,
    least: int,
) -> Gate:
    gate, what = f"{name}_bleu_fall", "the fall below the model that serves"
    ours, theirs = (side.statistics.get("bleu") for side in (candidate, incumbent))
    if ours is None or theirs is None:
        return absent(gate, limit, "BLEU was not measured of both")
    gain = paired_difference(ours, theirs, bootstrap.weights, bootstrap.confidence)
    fall = Score(-gain.score, -gain.high, -gain.low, gain.signature)
    return at_most(gate, fall, limit, len(candidate.lines), least, what)


def compare_retrained(gates: Sequence[Gate]) -> dict[str, str]:
    """Whether a retrained winner should replace the model that serves: where it learned something.

    Args:
        gates: those of `incumbent_gates`; each is a loss, so below 0 with the whole interval is a
            gain that is shown.

    Returns:
        `verdict`: replace | keep, and `reason`.
    """
    gains = [
        f"{gate.gate} {gate.value:.4g} [{gate.low:.4g}, {gate.high:.4g}]"
        for gate in gates
        if gate.high is not None and gate.high < 0 and not gate.gate.startswith(OLD)
    ]
    if gains:
        return {"verdict": "replace", "reason": f"it learned the window: {', '.join(gains)}"}
    return {"verdict": "keep", "reason": "on no window is it shown to be better"}
