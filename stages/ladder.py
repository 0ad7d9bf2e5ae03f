"""Ladder: did distilling win? Every student against the control, over seeds and prompts.

Reads   reports/evaluate/ (outputs and references of teacher and students),
        reports/distill/<recipe>/distill.json, reports/teacher/teacher.json (size and cost),
        data/labels/index.json (totals), data/prepared/slots.json
Writes  reports/ladder/ladder.json (every rung, the gain over the control, a verdict),
        reports/ladder/ladder.csv (a row per rung, for the plot)
Run     python -m stages.ladder

A rung is a recipe with all its seeds. "distilled" is said only when the student's BLEU exceeds the
control's with the whole interval, on at least three seeds each, at equal conditions and after a
learning-rate sweep of each; otherwise the verdict says what is missing.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from serving.slots import SlotSchema, check_answer, parse_record
from stages import _io
from stages._ladder import (
    Report,
    Rung,
    Sampled,
    difference,
    explain,
    find_steps,
    find_violations,
    group_rungs,
    interval,
    judge,
    mean_numbers,
    rank,
    rates_tried,
    ratio,
    sample,
)
from stages._params import Params, Recipe
from stages._scores import (
    Statistics,
    bleu_statistics,
    bootstrap_weights,
    slot_statistics,
)
from stages._stage import print_line, run_stage

SLOTS = "slot_error_rate"
TAKEN = {
    "teacher",
    "kd_gain",
    "kd_gain_slot_error_rate",
    "student_to_teacher",
    "steps",
    "not_shared",
}
TAKEN |= {"verdict", "reason", "labels"}  # keys of ladder.json beside the rungs
INPUTS = {
    "evaluate": Path("reports/evaluate"),
    "distill": Path("reports/distill"),
    "teacher": Path("reports/teacher/teacher.json"),
    "labels": Path("data/labels/index.json"),
    "slots": Path("data/prepared/slots.json"),
}
OUTPUTS = {"reports": Path("reports/ladder")}

Line = dict[str, Any]
Measured = dict[str, Sampled]
"""The metrics of one rung by name."""


def ladder(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Compare all rungs; returns the gain of the student over the control, and the scores."""
    confidence = params.ladder.confidence
    rungs = group_rungs(find_recipes(inputs["evaluate"], params.distill.recipes))
    members = {"teacher": ("teacher",)} | {name: rung.recipes for name, rung in rungs.items()}
    measured = _measure(params, inputs, members)
    trained = {"teacher": [_io.read_json(inputs["teacher"])]}
    for name, rung in rungs.items():
        folders = [inputs["distill"] / recipe for recipe in rung.recipes]
        trained[name] = [_io.read_json(folder / "distill.json") for folder in folders]

    order = [rung.name for rung in sorted(rungs.values(), key=rank)]
    report: dict[str, Any] = {
        name: _describe(measured[name], trained[name], rungs.get(name), confidence)
        for name in ("teacher", *order)
    }
    report |= _gains(measured, trained, confidence)
    report["steps"] = _steps(rungs, measured, confidence)
    report |= _verdict(report, trained)
    report["labels"] = _count_labels(inputs["labels"])
    _io.write_json(outputs["reports"] / "ladder.json", report)
    plotted = {name: report[name] for name in (*order, "teacher")}
    _io.write_text(outputs["reports"] / "ladder.csv", _as_csv(plotted))
    print_line(f"{report['verdict']}: {report['reason']}")
    return _headline(report)


def find_recipes(folder: Path, recipes: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """The recipes whose answers were evaluated.

    Raises:
        StillhouseError: teacher, student or control was not evaluated, or a recipe has a name that
            ladder.json uses for something else.
    """
    found = sorted(path.stem for path in folder.glob("*.jsonl"))
    if missing := [name for name in ("teacher", "student", "control") if name not in found]:
        raise StillhouseError(
            f"{folder} lacks {', '.join(f'{name}.jsonl' for name in missing)} (found: "
            f"{', '.join(found) or 'no candidate'}). Add {' and '.join(missing)} to "
            f'answer.candidates, then run "dvc repro evaluate".'
        )
    if taken := sorted(TAKEN & recipes.keys()):
        raise StillhouseError(
            f"distill.recipes.{taken[0]}: ladder.json uses this name. Give the recipe another one."
        )
    return {name: recipe for name, recipe in recipes.items() if name in found}


def _measure(
    params: Params, inputs: dict[str, Path], members: Mapping[str, Sequence[str]]
) -> dict[str, Measured]:
    """Score every rung, all on the same resampled prompts."""
    schema_data = _io.read_json(inputs["slots"])
    schema = SlotSchema.from_dict(schema_data) if schema_data else None
    folder = inputs["evaluate"]
    prompts = _io.read_jsonl(folder / "teacher.jsonl")
    weights = bootstrap_weights(len(prompts), params.ladder.resamples, params.seed)
    measured = {}
    for rung, recipes in members.items():
        seeds = [_statistics(_answers(folder / f"{r}.jsonl", prompts), schema) for r in recipes]
        measured[rung] = {
            metric: sample([seed[metric] for seed in seeds], recipes, weights, params.seed)
            for metric in seeds[0]
        }
    return measured


def _answers(path: Path, prompts: Sequence[Line]) -> list[Line]:
    """A candidate's lines; they must be about the same prompts as the teacher's."""
    lines: list[Line] = _io.read_jsonl(path)
    asked = [[(line["id"], line["references"]) for line in side] for side in (lines, prompts)]
    if asked[0] != asked[1]:
        raise StillhouseError(
            f"{path} ({len(lines)} prompts) is about other prompts than teacher.jsonl "
            f'({len(prompts)}). Run "dvc repro evaluate" to score all on the same test split.'
        )
    return lines


def _statistics(lines: Sequence[Line], schema: SlotSchema | None) -> dict[str, Statistics]:
    outputs = [line["output"] for line in lines]
    statistics = {"bleu": bleu_statistics(outputs, [line["references"] for line in lines])}
    if schema is not None:
        records = [line.get("slots") or parse_record(line["prompt"]) for line in lines]
        pairs = zip(outputs, records, strict=True)
        checks = [check_answer(output, record, schema) for output, record in pairs]
        statistics[SLOTS] = slot_statistics(checks)[SLOTS]
    return statistics


def _describe(
    measured: Measured, trained: Sequence[Report], rung: Rung | None, confidence: float
) -> dict[str, Any]:
    """One rung: scores, and the means over its seeds of what training wrote."""
    means = mean_numbers(trained) or {}
    scores = {metric: interval(value, confidence).to_dict() for metric, value in measured.items()}
    for metric, value in measured.items():
        scores[metric]["by_seed"] = value.scores.tolist()
    return {
        **scores,
        "fidelity": mean_numbers([report.get("fidelity") for report in trained]),
        "calibration": mean_numbers([report.get("calibration") for report in trained]),
        **{name: means.get(name) for name in ("parameters", "training_tokens", "seconds")},
        "seeds": len(trained),
        "recipes": list(rung.recipes) if rung else [],
        "recipe": rung.recipe.model_dump(mode="json", exclude={"seed_offset"}) if rung else None,
    }


def _differences(ours: Measured, theirs: Measured, confidence: float) -> dict[str, dict[str, Any]]:
    return {name: difference(ours[name], theirs[name], confidence).to_dict() for name in ours}


def _gains(
    measured: Mapping[str, Measured], trained: Mapping[str, Sequence[Report]], confidence: float
) -> dict[str, Any]:
    """What the student has over the control, and what it keeps of the teacher at what size."""
    student, teacher = measured["student"], measured["teacher"]
    gain = _differences(student, measured["control"], confidence)
    gains: dict[str, Any] = {
        "kd_gain" if metric == "bleu" else f"kd_gain_{metric}": score
        for metric, score in gain.items()
    }
    for score in gains.values():
        score["seeds"] = min(len(trained["student"]), len(trained["control"]))
    kept = ratio(student["bleu"], teacher["bleu"], confidence)
    size = trained["teacher"][0].get("parameters")  # unknown behind an endpoint
    distance: dict[str, Any] = {
        "bleu_ratio": kept.to_dict() if kept else None,
        "parameters_ratio": trained["student"][0]["parameters"] / size if size else None,
    }
    if SLOTS in student:
        delta = difference(student[SLOTS], teacher[SLOTS], confidence)
        distance[f"{SLOTS}_delta"] = delta.to_dict()
    return {**gains, "student_to_teacher": distance}


def _steps(
    rungs: Mapping[str, Rung], measured: Mapping[str, Measured], confidence: float
) -> list[dict[str, Any]]:
    return [
        {"from": step.lower, "to": step.upper, "what": step.what}
        | _differences(measured[step.upper], measured[step.lower], confidence)
        for step in find_steps(rungs)
    ]


def _verdict(report: Mapping[str, Any], trained: Mapping[str, Sequence[Report]]) -> dict[str, Any]:
    """Fairness, verdict and reason."""
    violations = find_violations(trained["student"], trained["control"])
    rates = min(rates_tried(run) for side in ("student", "control") for run in trained[side])
    gain, student, control = report["kd_gain"], report["student"], report["control"]
    verdict = judge(gain["low"], gain["high"], gain["seeds"], rates, violations)
    reason = (
        f"The student scores {student['bleu']['score']:.2f} BLEU (seeds: {student['seeds']}) and "
        f"the control {control['bleu']['score']:.2f} (seeds: {control['seeds']}), a difference of "
        f"{gain['score']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]"
    )
    if SLOTS in student:
        errors = f"{student[SLOTS]['score']:.3f} against {control[SLOTS]['score']:.3f}"
        reason += f" with {errors} errors per slot"
    ending = explain(verdict, violations)
    return {"not_shared": violations, "verdict": verdict, "reason": f"{reason}, {ending}."}


def _count_labels(path: Path) -> dict[str, Any]:
    """What the students had to learn from: the totals of the label store."""
    totals = _io.read_json(path)["totals"]
    return {
        "kept": totals["labels"],
        **{name: totals[name] for name in ("rejected", "rejected_by_reason")},
        **{name: totals[name] for name in ("tokens", "bytes_per_token")},
    }


def _as_csv(rungs: Mapping[str, dict[str, Any]]) -> str:
    """A row per rung from the foot to the teacher; no error rate where there are no slots."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["rung", "bleu", "low", "high", SLOTS])
    for name, rung in rungs.items():
        bleu = [f"{rung['bleu'][key]:.4f}" for key in ("score", "low", "high")]
        rows.writerow([name, *bleu, f"{rung[SLOTS]['score']:.4f}" if SLOTS in rung else ""])
    return text.getvalue()


def _headline(report: Mapping[str, Any]) -> dict[str, float]:
    gain = report["kd_gain"]
    metrics = {"kd_gain": gain["score"], "kd_gain_low": gain["low"], "kd_gain_high": gain["high"]}
    metrics |= {f"{n}_bleu": report[n]["bleu"]["score"] for n in ("teacher", "student", "control")}
    if f"kd_gain_{SLOTS}" in report:
        metrics[f"kd_gain_{SLOTS}"] = report[f"kd_gain_{SLOTS}"]["score"]
    return {**metrics, "seeds": gain["seeds"]}


def main() -> None:
    """Run the stage on the project's own files."""
    run_stage(ladder, __doc__, INPUTS, OUTPUTS)


if __name__ == "__main__":
    main()
