"""Route: how sure baseline and student must be, so that what they answer is as right as promised.

Reads   data/prepared/calibration.jsonl and slots.json; of baseline, winner and teacher: answers to
        it (data/answers/), contract, speed and price (reports/benchmark/); models/winner.json
Writes  models/route.json (rungs with thresholds, bound to the models' digests, and prices),
        reports/route/calibration.json (bounds, shares, errors, expected cost),
        reports/route/curve.csv (every threshold that was looked at)
Run     python -m stages.route

An answer is wrong where it has a slot error or is like none of the references (of data without
records the latter only). With probability 1 - delta over calibration sets, at most a share alpha of
what a rung accepts is wrong; alpha is the teacher's own share and a little more. A rung that can
show this for no threshold is left out of the file, and the reason is told. What the cascade answers
is compared with the teacher's answers too, in what a slot check cannot see.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving._cascade.route import ErrorKind, Route, Rung, route_content
from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages import _io
from stages._calibrating import interval
from stages._cascade_quality import compare
from stages._params import Params, params_hash
from stages._routing import CONFIDENCE, Candidate, Tried, calibrate, describe_rung, expect
from stages._rungs import choose_error, read_candidates
from stages._stage import print_line, run_stage

INPUTS = {
    "calibration": Path("data/prepared/calibration.jsonl"),
    "slots": Path("data/prepared/slots.json"),
    "answers": Path("data/answers"),
    "winner": Path("models/winner.json"),
    "benchmark": Path("reports/benchmark"),
}
OUTPUTS = {"route": Path("models/route.json"), "reports": Path("reports/route")}
COLUMNS = "rung,threshold,accepted,accepted_share,errors,error_rate,bound"


def route(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    """Calibrate every rung; returns what share each answers, and the error and cost to expect.

    Raises:
        StillhouseError: what answered, was chosen or measured is not what a model folder holds, a
            score that answers do not have, or no rung is left.
    """
    outputs["route"].unlink(missing_ok=True)  # none stays from a run that ended otherwise
    settings = params.route
    examples = _io.read_jsonl(inputs["calibration"])
    schema_data = _io.read_json(inputs["slots"])
    schema = SlotSchema.from_dict(schema_data) if schema_data else None
    error = choose_error(params, examples, schema)
    candidates = read_candidates(params, inputs, examples, error, schema)
    teacher = candidates["teacher"]
    alpha = settings.alpha or min(teacher.wrong.mean() + settings.alpha_over_teacher, 1.0)
    wanted = [one for name, one in candidates.items() if getattr(settings.rungs, name)]
    tried = calibrate(wanted, float(alpha), settings.delta)
    rows, expected = [describe_rung(one) for one in tried], expect(tried, teacher)
    given = [(one.candidate, one.accepted) for one in tried if one.reason is None]
    report = {
        "error": error,
        "similarity_floor": settings.similarity_floor if error != "slots" else None,
        "alpha": float(alpha),
        "delta": settings.delta,
        "teacher_error_rate": describe_error_rate(teacher),
        "rungs": rows,
        "expected": expected,
        "quality": compare(given, teacher, examples, settings.similarity_floor, params.seed),
    }
    _io.write_json(outputs["reports"] / "calibration.json", report)
    _io.write_text(outputs["reports"] / "curve.csv", as_csv(tried))
    for row in rows:
        print_line(describe(row, float(alpha)))
    made = build_route(params, tried, float(alpha), error, inputs["calibration"])
    _io.write_json(outputs["route"], route_content(made))
    shares = {row["rung"]: row["accepted_share"] for row in rows}
    return {"alpha": float(alpha), "accepted_share": shares, **expected}


def build_route(
    params: Params, tried: Sequence[Tried], alpha: float, error: ErrorKind, calibration: Path
) -> Route:
    """The route of those rungs that accept anything.

    Raises:
        StillhouseError: there is none.
    """
    used = [one for one in tried if one.reason is None]
    unmet = {one.candidate.name: one.reason for one in tried if one.reason is not None}
    if not used:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unmet.items())
        raise StillhouseError(
            f"No model can answer anything ({reasons or 'route.rungs are all null'}). Let the "
            f"teacher answer (route.rungs.teacher), raise route.alpha, or give more calibration "
            f"prompts."
        )
    return Route(
        rungs=tuple(build_rung(one) for one in used),
        otherwise=params.route.otherwise,
        alpha=alpha,
        delta=params.route.delta,
        error=error,
        prices={one.candidate.name: one.candidate.price for one in used},
        sha256="",
        params_hash=params_hash(params, "route"),
        data_hash=_io.sha256_file(calibration),
        unmet=unmet,
    )


def build_rung(tried: Tried) -> Rung:
    """A rung with its threshold; the teacher has none, and its score is only for the record."""
    one, step = tried.candidate, tried.choice.step if tried.choice else None
    return Rung(
        name=one.name,
        place=one.place,
        threshold=step.threshold if step else None,
        score=one.score or "mean_logprob",
        model_sha256=one.sha256,
    )


def describe_error_rate(teacher: Candidate) -> dict[str, Any]:
    """Share of its answers that are wrong, with its interval."""
    errors, answers = int(teacher.wrong.sum()), len(teacher.wrong)
    low, high = interval(errors, answers, CONFIDENCE)
    return {"score": errors / answers, "low": low, "high": high, "errors": errors}


def describe(row: dict[str, Any], alpha: float) -> str:
    """A rung's outcome in one line."""
    if row["left_out"]:
        return f"{row['rung']}: left out: {row['left_out']}"
    if row["threshold"] is None:
        return f"{row['rung']}: answers the other {row['accepted_share']:.1%}"
    return (
        f"{row['rung']}: answers {row['accepted_share']:.1%}, where {row['score']} is "
        f"{row['threshold']:.4g} or more: {row['errors']} of {row['accepted']} wrong, at most "
        f"{row['bound']:.2%} (allowed {alpha:.2%})"
    )


def as_csv(tried: Sequence[Tried]) -> str:
    """Every threshold that was looked at, a line each, in the order of the rungs."""
    lines = [COLUMNS]
    for one in tried:
        for step in one.choice.steps if one.choice else ():
            shares = (step.accepted / int(one.asked.sum()), step.errors / step.accepted)
            values = (step.threshold, step.accepted, shares[0], step.errors, shares[1], step.bound)
            lines.append(",".join([one.candidate.name, *(f"{value:.6g}" for value in values)]))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the stage on the project's own files."""
    run_stage(route, __doc__, INPUTS, OUTPUTS)


if __name__ == "__main__":
    main()
