"""What became of a pipeline, in lines for a person."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from stages._endings import INTERRUPTED, Status
from stages._run import Run
from stages._tracking import shown_uri

State = Literal["run", "unchanged", "out of date", "unfinished", "no record"]


class Outcome(NamedTuple):
    """What became of one stage, and its run.json with the folder that holds it."""

    stage: str
    state: State
    record: Mapping[str, Any]
    folder: str


def ending(code: int) -> Status:
    """How a run with this exit code of DVC ended."""
    return "FINISHED" if code == 0 else "KILLED" if code in INTERRUPTED else "FAILED"


def summary(run: Run, outcomes: Sequence[Outcome], code: int, seconds: float) -> list[str]:
    """What happened, where it is, what to do next: lines for a person."""
    counts = [
        f"{sum(outcome.state == state for outcome in outcomes)} {state}"
        for state in get_args(State)
        if any(outcome.state == state for outcome in outcomes)
    ]
    how = {"FINISHED": "done", "KILLED": "interrupted"}.get(ending(code), f"failed ({code})")
    lines = ["", f"pipeline {how} in {seconds:.1f} s: {', '.join(counts) or 'no stages'}"]
    for stage, state, record, folder in outcomes:
        took = f"{record['seconds']:8.1f} s  {folder}/" if record else ""
        lines.append(f"  {state:<11} {stage:<24} {took}".rstrip())
    return [*lines, *_places(run), *_next_steps(run, code)]


def _places(run: Run) -> list[str]:
    if run.run_id is None:
        return [f"Not tracked ({run.tracking}); reports/ holds all results."]
    return [f"Recorded as run {run.run_id} in {shown_uri(run.root)}"]


def _next_steps(run: Run, code: int) -> list[str]:
    if code in INTERRUPTED:
        return ["Next: `make repro` goes on from here; finished stages are kept."]
    if code != 0:
        return ["Next: mend what DVC says above, then `make repro`; finished stages are kept."]
    uri = shown_uri(run.root)
    web = uri.startswith(("http:", "https:"))
    place = f"#/experiments/{run.experiment_id}/runs/{run.run_id}"
    store = "" if uri == "mlflow.db" else f" --backend-store-uri {uri}"
    look = f"open {uri}/{place}" if web else f"mlflow ui{store}"
    page = [] if web else [f"      http://127.0.0.1:5000/{place}"]
    report = "reports/report/index.html"
    first = report if (run.root / report).is_file() else "dvc metrics show"
    return [f"Next: {first}", *([f"      {look}", *page] if run.run_id else [])]
