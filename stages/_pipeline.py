"""`dvc repro` under one MLflow run: what ran is nested in it, what was still valid is linked to it.

DVC decides what runs; this only records. A stage that DVC skips or restores from its cache starts
no process and would be missing from the record, so each such stage gets a small run of its own
that names the run which made its result (tag `restored_from`) and repeats its parameters, data and
results from its run.json. A pipeline's run is therefore complete, and stays so if the database of
the old run is gone.

With `pipeline.lanes` above 1, stages that do not wait for one another run side by side
(stages/_lanes.py); with any argument it is one `dvc repro` with those arguments.

Run     python -m stages._pipeline [arguments of dvc repro]

Exit code: DVC's, or 128 + signal. Ctrl-C and SIGTERM interrupt DVC and its stage and end the run as
KILLED. Plain `dvc repro` works too; its stages are then runs on their own.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from serving.errors import StillhouseError
from stages import _lanes
from stages._params import read_yaml
from stages._pipeline_summary import Outcome, State, ending, summary
from stages._provenance import file_md5
from stages._recorder import Line, RecorderError, one_line
from stages._run import RECORDER, Run, now_ms, track_stage

DVC = (sys.executable, "-m", "dvc")
# What a run.json must hold to be of use here; another program's file of that name is passed over.
NEEDED = {
    "candidate",
    "dvc_stage",
    "experiment_id",
    "metrics",
    "parent_run_id",
    "run_id",
    "seconds",
    "stage",
    "started_at",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dvc repro` with `arguments`, record it, say what happened; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help", "--dry"} & set(arguments):  # nothing will run, so nothing to record
        return subprocess.call([*DVC, "repro", *arguments])  # noqa: S603 - the user's own words
    root = Path.cwd()
    if not (root / "dvc.yaml").is_file():
        raise StillhouseError(f"no dvc.yaml in {root}. Run this in the project's own folder.")
    started = time.perf_counter()
    settings = read_yaml(root / "params.yaml") if (root / "params.yaml").is_file() else {}
    with track_stage("pipeline", {"arguments": " ".join(arguments), **settings}, root) as run:
        names = _stage_names(root)  # while the recorder loads
        environment = run.environment()
        lanes = _lanes.count(settings)
        words = {**os.environ, **environment, "PATH": _path()}
        code = _repro(arguments, words, root, lanes, names)
        outcomes = _outcomes(root, names, run, whole=code == 0 and not _targets(arguments))
        _complete(run, outcomes, environment.get(RECORDER))
        run.ending = ending(code)
        seconds = time.perf_counter() - started
        sys.stdout.write("\n".join(summary(run, outcomes, code, seconds)) + "\n")
        sys.stdout.flush()
    return code


def _path() -> str:
    """PATH with this Python's own folder first: dvc.yaml says `python`, activated or not."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _targets(arguments: Sequence[str]) -> list[str]:
    """The stages named on the command line; no option of `dvc repro` takes a value."""
    return [argument for argument in arguments if not argument.startswith("-")]


def _repro(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    root: Path,
    lanes: int,
    names: Sequence[str],
) -> int:
    """Run `dvc repro` and wait for it, whatever signals arrive; returns its exit code.

    DVC has a process group of its own, so that a signal reaches it once, wherever it came from.
    SIGTERM too is passed on as an interrupt: DVC then waits for its stage and lets go of its locks.
    """
    interrupts = _lanes.Interrupts()

    def pass_on(number: int, _frame: FrameType | None) -> None:
        interrupts.received.append(number)
        for process in interrupts.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)

    # Begun inside: DVC would inherit that interrupts are ignored, as in a shell's background.
    with _handling(pass_on):
        plan = None
        if lanes > 1 and not arguments:
            stages = read_yaml(root / "dvc.yaml").get("stages") or {}
            plan = _lanes.plan(root, names, stages)
        if interrupts.received:
            code = signal.SIGINT + 128
        elif plan:
            code = _lanes.run(plan, lanes, environment, root, interrupts, _say)
        else:
            command = [*DVC, "repro", *arguments]
            process = subprocess.Popen(  # noqa: S603 - the user's own words
                command, cwd=root, env=environment, stdin=subprocess.DEVNULL, process_group=0
            )
            interrupts.processes.append(process)
            if interrupts.received:  # while it was started, so it has not heard of it
                os.killpg(process.pid, signal.SIGINT)
            code = process.wait()
    if interrupts.received:
        return 128 + interrupts.received[0]
    return code if code >= 0 else 128 - code


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def _handling(handler: Any) -> Iterator[None]:
    """Have `handler` called for Ctrl-C and SIGTERM within the block."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _dvc(root: Path, *arguments: str) -> str | None:
    """What a DVC command prints, or None if it fails; why is for `dvc repro` to tell."""
    command = [*DVC, *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)  # noqa: S603
    return done.stdout if done.returncode == 0 else None


def _stage_names(root: Path) -> list[str]:
    """All stages of dvc.yaml, unfolded. dvc.lock won't do: it keeps stages that are gone."""
    return (_dvc(root, "stage", "list", "--name-only") or "").split()


def _stale(root: Path, names: Sequence[str]) -> set[str]:
    """Stages whose result doesn't belong to what they would now be made from; all, if unknown."""
    status = _dvc(root, "status", "--json")
    return set(names) if status is None else set(json.loads(status))


def _outcomes(root: Path, names: Sequence[str], run: Run, whole: bool) -> list[Outcome]:
    """What became of each stage; after a `whole` run whatever did not run was still valid."""
    stale = set() if whole else _stale(root, names)
    records = {record["dvc_stage"]: (record, folder) for record, folder in _records(root)}
    outcomes = []
    for name in names:
        record, folder = records.get(name, ({}, ""))
        state: State = "unchanged"
        if not record:
            state = "unfinished" if name in stale else "no record"
        elif _made_by(run, record):
            state = "run"
        elif name in stale:
            state = "out of date"
        outcomes.append(Outcome(name, state, record, folder))
    return outcomes


def _made_by(run: Run, record: Mapping[str, Any]) -> bool:
    """Whether a stage of this pipeline wrote `record`; by the clock if nothing is tracked."""
    if run.run_id:
        return bool(record["parent_run_id"] == run.run_id)
    return bool(record["started_at"] >= run.started_at)


def _records(root: Path) -> Iterator[tuple[dict[str, Any], str]]:
    for path in sorted((root / "reports").glob("**/run.json")):
        with suppress(OSError, ValueError):
            record = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(record, dict) and record.keys() >= NEEDED:
                yield record, path.parent.relative_to(root).as_posix()


def _complete(run: Run, outcomes: Sequence[Outcome], recorder: str | None) -> None:
    """Link what did not have to run, and give the pipeline's run all results, lock and params."""
    try:
        for outcome in outcomes:
            if outcome.state == "unchanged" and recorder:
                _link(run, outcome, recorder)
    except (OSError, RecorderError) as error:
        sys.stderr.write(f"warning: unchanged stages are not linked: {one_line(error)}\n")
    for outcome in outcomes:
        if outcome.state in ("run", "unchanged"):
            candidate, metrics = outcome.record["candidate"], outcome.record["metrics"]
            run.log_metrics(
                {outcome.record["stage"]: {candidate: metrics} if candidate else metrics}
            )
    files = [Path(name) for name in ("dvc.lock", "params.yaml") if (run.root / name).is_file()]
    run.log_artifacts(files)
    if Path("dvc.lock") in files:
        run.log_tags({"dvc_lock_md5": file_md5(run.root / "dvc.lock")})


def _link(run: Run, outcome: Outcome, recorder: str) -> None:
    """Record a run that stands for an unchanged stage and points to the run that made it."""
    record = outcome.record
    made = f"on {record['started_at']} in {record['seconds']} s"
    by = "an untracked run"
    if record["run_id"]:
        place = f"#/experiments/{record['experiment_id']}/runs/{record['run_id']}"
        by = f"run [{record['run_id']}]({place})"
    tags = {
        "stage": record["stage"],
        "candidate": record["candidate"],
        "restored_from": record["run_id"] or "untracked",
        "mlflow.parentRunId": run.run_id,
        "mlflow.note.content": f"Unchanged: made by {by} {made}.",
        "mlflow.source.git.commit": record.get("git_commit"),
        "mlflow.source.name": f"stages.{record['stage']}",
        "mlflow.source.type": "LOCAL",
    }
    what = {key: record[key] for key in ("params", "metrics", "datasets") if key in record}
    line = Line(recorder)
    line.send(
        {
            "open": {
                "name": outcome.stage,
                "tags": {key: value for key, value in tags.items() if value},
                "time_ms": now_ms(),
            },
            "record": {**what, "time_ms": now_ms()},
            "close": {"status": "FINISHED"},
        }
    )
    line.wait()
    line.close()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except StillhouseError as problem:
        sys.exit(f"error: {problem}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
