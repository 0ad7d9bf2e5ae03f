"""What a cascade saves against sending all to the teacher, and whether its error bound holds.

    python -m benchmarks.cascade                            # after `dvc repro select benchmark`
    python -m benchmarks.cascade --models RUN/models --prepared RUN/data/prepared \\
        --benchmark RUN/reports/benchmark --out benchmarks/cascade.json

Fresh incidents, drawn like the held-out splits with a seed of their own and none of them in
data/prepared, are answered by the baseline, the winner on the CPU and the teacher; answers are kept
in --answers, so that a run that was cut off goes on. The machine must be idle: what an answer takes
is measured here, at the batch size that reports/benchmark/ found fastest.

Three cascades: the student's score is `checked` or `min_logprob`, with errors as params.yaml counts
them (route.error); and `checked` where slot errors alone count, so that score and bound speak of
one and the same check. Of each: a random sample as large as the calibration split sets alpha and
thresholds as `python -m stages.route` does, and all other prompts say what that saves and how its
answers compare with the teacher's; and so many times (--resamples) how often what was accepted is
wrong on prompts outside of the sample.

Savings are of a replayed trace over prompts outside of the first sample, Zipf with s = 1.0, with an
exact cache and without. `measured` prices seconds at the machine's hourly price, the slot check
of `checked` included; `api` prices the teacher as an API at the prices per token that params.yaml
assumes (select.prices), which is what its users would pay.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._cascade_models import Places, fresh_prompts, read_models
from benchmarks._replay import misses, zipf_trace
from serving._cascade.route import ErrorKind, Score
from stages import _io
from stages._cascade_quality import compare
from stages._params import Params, load_params
from stages._params.select import Prices
from stages._routing import Candidate, Tried, calibrate
from stages._wrong_answers import find_wrong

EXPONENT, ENTRIES, LIFETIME_S, REQUESTS_PER_S = 1.0, 1000, 3600.0, 10.0
Chosen = np.ndarray[Any, Any]


def part(one: Candidate, chosen: Chosen) -> Candidate:
    """A model's answers to some of the prompts."""
    return replace(
        one,
        answers=[one.answers[n] for n in chosen],
        wrong=one.wrong[chosen],
        slot_errors=one.slot_errors[chosen],
        suspect=one.suspect[chosen],
        likeness=None if one.likeness is None else one.likeness[chosen],
    )


def variant(
    models: Sequence[Candidate], score: Score, error: ErrorKind, floor: float, check_s: float
) -> list[Candidate]:
    """The models with that score of the student, which pays for its check, and those errors."""
    found = [replace(m, wrong=find_wrong(error, m.slot_errors, m.likeness, floor)) for m in models]
    student = found[1]
    seconds = (student.seconds or 0.0) + (check_s if score == "checked" else 0.0)
    found[1] = replace(student, score=score, seconds=seconds)
    return found


def calibrated(
    models: Sequence[Candidate], sample: Chosen, params: Params
) -> tuple[float, list[Tried]]:
    """Alpha and thresholds of a sample of the prompts, as the stage sets them."""
    settings = params.route
    teacher = float(models[-1].wrong[sample].mean())
    alpha = settings.alpha or min(teacher + settings.alpha_over_teacher, 1.0)
    return alpha, calibrate([part(one, sample) for one in models], alpha, settings.delta)


def apply(tried: Sequence[Tried], models: Sequence[Candidate]) -> list[Any]:
    """Who is asked and who accepted on other prompts, with thresholds that were set: masks."""
    left, found = np.ones(len(models[0].answers), dtype=bool), []
    for rung, one in zip(tried, models, strict=True):
        step = rung.choice.step if rung.choice else None
        used = rung.reason is None
        accepted = left & (one.scores(one.score) >= step.threshold) if step and one.score else left
        found.append((left if used else left & False, accepted if used else left & False))
        left = left & ~found[-1][1]
    return found


def hold(models: Sequence[Candidate], params: Params, size: int, options: Any) -> dict[str, Any]:
    """Of so many calibrations: how often the bound held on the other prompts, and means."""
    random, rows = np.random.default_rng(options.seed), []
    for _ in range(options.resamples):
        order = random.permutation(len(models[0].answers))
        sample, rest = order[:size], order[size:]
        alpha, tried = calibrated(models, sample, params)
        others = [part(one, rest) for one in models]
        masks = [accepted for _, accepted in apply(tried, others)]
        pairs = list(zip(masks, (one.wrong for one in others), strict=True))
        rates = [float(wrong[mask].mean()) if mask.any() else 0.0 for mask, wrong in pairs[:-1]]
        rows.append(
            {
                "alpha": alpha,
                "accepted_share": [float(mask.mean()) for mask in masks],
                "accepted_error_rate": rates,
                "cascade_error_rate": sum(float(wrong[m].sum()) for m, wrong in pairs) / len(rest),
                "teacher_error_rate": float(others[-1].wrong.mean()),
                "held": max(rates) <= alpha,
            }
        )
    used = np.array([row["accepted_share"] for row in rows]) > 0
    return {
        "resamples": len(rows),
        "held": sum(row["held"] for row in rows),
        "rung_in_use": used.sum(axis=0).tolist(),
        "mean": {key: np.mean([row[key] for row in rows], axis=0).tolist() for key in rows[0]},
    }


def price(models: Sequence[Candidate], prices: Prices | None) -> list[Any]:
    """USD of each answer of each model; with `prices` the teacher is an API, paid per token."""
    costs = [one.costs() for one in models]
    if prices is not None:
        per = prices.characters_per_token
        costs[-1] = np.array(
            [
                (prices.api_instruction_tokens + len(a["id"]) / per)
                * prices.api_input_usd_per_million_tokens
                / 1e6
                + len(a["text"]) / per * prices.api_output_usd_per_million_tokens / 1e6
                for a in models[-1].answers
            ]
        )
    return costs


def savings(costs: Sequence[Any], masks: Sequence[Any], requests: int, seed: int) -> dict[str, Any]:
    """USD per 1,000 requests of the trace: teacher alone and cascade, with a cache and without."""
    trace = zipf_trace(len(costs[-1]), requests, EXPONENT, seed)
    missed = misses(trace.tolist(), ENTRIES, LIFETIME_S, REQUESTS_PER_S)
    cascade = sum(np.where(asked, cost, 0.0) for (asked, _), cost in zip(masks, costs, strict=True))
    found = {
        "teacher": costs[-1][trace].mean(),
        "teacher_cached": (costs[-1][trace] * missed).mean(),
        "cascade": cascade[trace].mean(),
        "cascade_cached": (cascade[trace] * missed).mean(),
    }
    usd = {name: 1000.0 * float(value) for name, value in found.items()}
    return {
        "usd_per_1k_requests": usd,
        "saved_share": {name: 1.0 - value / usd["teacher"] for name, value in usd.items()},
        "cascade_saves_behind_a_cache": 1.0 - usd["cascade_cached"] / usd["teacher_cached"],
        "cache_hit_share": 1.0 - float(missed.mean()),
        "rungs_usd_per_1k_answers": [1000.0 * float(cost.mean()) for cost in costs],
        "asked_share_of_trace": [float(asked[trace].mean()) for asked, _ in masks],
        "answered_share_of_trace": [float(given[trace].mean()) for _, given in masks],
    }


def measure_one(
    models: Sequence[Candidate], examples: Any, params: Params, size: int, options: Any
) -> dict[str, Any]:
    """One cascade: what its first calibration comes to, and how often the bound held."""
    order = np.random.default_rng(options.seed).permutation(len(examples))
    sample, rest = order[:size], order[size:]
    alpha, tried = calibrated(models, sample, params)
    others = [part(one, rest) for one in models]
    masks = apply(tried, others)
    given = [(one, accepted) for one, (_, accepted) in zip(others, masks, strict=True)]
    asked = [examples[n] for n in rest]
    floor, tables = params.route.similarity_floor, {"measured": None, "api": params.select.prices}
    steps = {one.candidate.name: one.choice.step if one.choice else None for one in tried}
    return {
        "alpha": alpha,
        "thresholds": {name: step.threshold if step else None for name, step in steps.items()},
        "left_out": {one.candidate.name: one.reason for one in tried if one.reason},
        "error_rates": {one.name: float(one.wrong.mean()) for one in models},
        "seconds_per_answer": {one.name: one.seconds for one in models},
        "asked_share": {m.name: float(a.mean()) for m, (a, _) in zip(others, masks, strict=True)},
        "answered_share": {one.name: float(accepted.mean()) for one, accepted in given},
        "quality": compare(given, others[-1], asked, floor, options.seed),
        "savings": {
            name: savings(price(others, api), masks, options.requests, options.seed)
            for name, api in tables.items()
        },
        "bound": hold(models, params, size, options),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything above, as the report holds it."""
    params = load_params(options.params)
    places = Places(options.models, options.prepared, options.benchmark, options.answers)
    size = options.sample or len(_io.read_jsonl(options.prepared / "calibration.jsonl"))
    examples = fresh_prompts(options.seed, options.prompts + size, options.prepared)
    models, check_s = read_models(params, places, examples)
    error, floor = params.route.error, params.route.similarity_floor
    wanted: ErrorKind = "either" if error == "auto" else error
    cascades: dict[str, tuple[Score, ErrorKind]] = {
        "checked": ("checked", wanted),
        "min_logprob": ("min_logprob", wanted),
        "checked_slots_alone": ("checked", "slots"),
    }
    return {
        "prompts": len(examples) - size,
        "calibration_prompts": size,
        "requests": options.requests,
        "trace": f"Zipf, s = {EXPONENT:g}",
        "cache": {"entries": ENTRIES, "lifetime_s": LIFETIME_S, "requests_per_s": REQUESTS_PER_S},
        "models": {one.name: one.sha256 for one in models},
        "slot_check_s": check_s,
        "slot_error_rates": {one.name: float(one.slot_errors.mean()) for one in models},
        "below_similarity_floor": {
            one.name: float((one.likeness < floor).mean())
            for one in models
            if one.likeness is not None
        },
        "similarity_floor": floor,
        "api_prices_assumed": params.select.prices.model_dump(mode="json"),
        "cascades": {
            name: {"student_score": score, "error": kind}
            | measure_one(
                variant(models, score, kind, floor, check_s), examples, params, size, options
            )
            for name, (score, kind) in cascades.items()
        },
    }


def main() -> None:
    """Measure and print; with --out also write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--prepared", type=Path, default=Path("data/prepared"))
    parser.add_argument("--benchmark", type=Path, default=Path("reports/benchmark"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--answers", type=Path, default=Path("scratch/cascade"))
    parser.add_argument("--prompts", type=int, default=3500, help="distinct prompts of the trace")
    parser.add_argument("--sample", type=int, help="prompts of a calibration; as the split has")
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--resamples", type=int, default=100)
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report = measure(options)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    if options.out:
        _io.write_json(options.out, report)


if __name__ == "__main__":
    main()
