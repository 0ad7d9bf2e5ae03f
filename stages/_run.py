"""The run of a stage: what a stage tells the tracker while it works, and its run.json afterwards.

`with track_stage("evaluate", params=..., root=...) as run:` opens a run, nested in the pipeline's
when `STILLHOUSE_PARENT_RUN` names one, and ends it as FINISHED, FAILED (an error) or KILLED
(Ctrl-C, SIGTERM). MLflow is in another process (see `_recorder`): nothing here imports it, and a
change in stages/_tracking makes no stage stale.

Tracking is a record; a stage's result is worth more. When the tracker cannot be reached, at the
start or halfway, one line on stderr says so, the stage goes on, and its run.json holds
`"tracking": "unreachable"`. `STILLHOUSE_TRACKING=off` makes the same calls do nothing.

run.json lies beside a stage's reports as a cached output that nothing depends on: a stage restored
from DVC's cache brings along who made it, with which parameters, data and results.
"""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from serving.errors import StillhouseError
from stages import _io
from stages import _provenance as provenance
from stages._endings import Status, sigterm_as_exit, status_of
from stages._recorder import (
    Line,
    Message,
    Recorder,
    RecorderError,
    one_line,
    start_recorder,
    stop_recorder,
)

State = Literal["on", "off", "unreachable"]
Context = Literal["training", "validation", "calibration", "evaluation"]

# How a pipeline tells its stages about its run, its recorder, and a tracker that is off or gone.
PARENT, RECORDER, TRACKING = "STILLHOUSE_PARENT_RUN", "STILLHOUSE_RECORDER", "STILLHOUSE_TRACKING"


class Run:
    """One run of one stage: its facts, and the line to the recorder while there is one."""

    def __init__(
        self, stage: str, params: Mapping[str, Any], root: Path, candidate: str | None = None
    ) -> None:
        """Open the run. Raises StillhouseError if STILLHOUSE_TRACKING has no known value."""
        self.stage, self.candidate, self.root = stage, candidate, root
        self.params = provenance.flat_params(params)
        self.metrics: dict[str, float] = {}
        self.datasets: list[dict[str, str]] = []
        self.model_id: str | None = None
        self.parent_run_id = os.environ.get(PARENT) or None
        self.git = provenance.git_state(root)
        self.tracking: State = tracking_state()
        # How the run ends if its block ends without an error.
        self.ending: Status = "FINISHED"
        self.started_at = _iso(datetime.now(UTC).timestamp())
        self._clock = time.perf_counter()
        self._seconds: float | None = None
        self._line: Line | None = None
        self._recorder: Recorder | None = None
        self._answers: Message = {}
        if self.tracking == "on":
            self._open()

    @property
    def name(self) -> str:
        """As DVC names it: the stage, or stage@candidate."""
        return f"{self.stage}@{self.candidate}" if self.candidate else self.stage

    @property
    def run_id(self) -> str | None:
        """MLflow's id; waits for a recorder that is still loading; None if nothing is tracked."""
        return self._answer("run_id")

    @property
    def experiment_id(self) -> str | None:
        """Id of the MLflow experiment that the run belongs to; None if nothing is tracked."""
        return self._answer("experiment_id")

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record numbers, nested ones under dotted names; whatever is no number is left out."""
        numbers = provenance.flat_numbers(metrics)
        self.metrics |= numbers
        self._record(metrics=numbers, step=step, time_ms=now_ms())

    def log_points(self, metrics: Mapping[str, Any], step: int) -> None:
        """Record points of curves at `step`; run.json holds results alone and leaves them out."""
        numbers = provenance.flat_numbers(metrics)
        self._record(metrics=numbers, step=step, time_ms=now_ms())

    def log_dataset(self, path: Path, context: Context, name: str | None = None) -> None:
        """Record that the stage used the file or folder `path`, by the hash that DVC gives it."""
        source = provenance.relative_source(path, self.root)
        data = {
            "name": name or path.stem,
            "digest": provenance.dvc_md5(self.root / path),
            "source": source,
            "context": context,
        }
        self.datasets.append(data)
        self._record(datasets=[data])

    def log_artifacts(self, paths: Iterable[Path]) -> None:
        """Copy small report files into the run, each under its folder in the project."""
        for path in paths:
            folder = Path(provenance.relative_source(path, self.root)).parent.as_posix()
            file = str((self.root / path).resolve())
            self._record(artifacts=[(file, None if folder == "." else folder)])

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._record(tags=dict(tags))

    def environment(self) -> dict[str, str]:
        """What a child process needs in its environment for its runs to be nested in this one."""
        if self.run_id is None or self.tracking != "on":
            return {TRACKING: self.tracking}
        address = self._recorder.address if self._recorder else os.environ.get(RECORDER, "")
        return {PARENT: self.run_id, RECORDER: address}

    def write_record(self, path: Path) -> None:
        """Write run.json: who made this result, from what, with what, and how it went."""
        seconds = self._seconds or time.perf_counter() - self._clock
        facts = {
            "stage": self.stage,
            "candidate": self.candidate,
            "dvc_stage": os.environ.get("DVC_STAGE", self.name),
            "tracking": self.tracking,
            "run_id": self.run_id,
            "experiment_id": self.experiment_id,
            "parent_run_id": self.parent_run_id,
            "model_id": self.model_id,
            "git_commit": self.git.commit,
            "git_dirty": self.git.dirty,
            "started_at": self.started_at,
            "ended_at": _iso(datetime.fromisoformat(self.started_at).timestamp() + seconds),
            "seconds": round(seconds, 3),
            "peak_memory_mb": provenance.peak_memory_mb(),
            "versions": provenance.installed_versions(),
            "params": self.params,
            "datasets": self.datasets,
            "metrics": provenance.finite(self.metrics),
        }
        _io.write_json(path, facts)

    def close(self, status: Status) -> None:
        """End the run and wait until it is written down, or `ANSWER_SECONDS` have passed."""
        self._seconds = time.perf_counter() - self._clock
        if self.stage != "pipeline":  # whose own process only waits for DVC
            memory = {"peak_memory_mb": provenance.peak_memory_mb()}
            self._record(metrics=memory, time_ms=now_ms())
        if self._line:
            try:
                # Tried even after a failure: a server that is back should not show a run as going.
                self._line.send({"close": {"status": status, "time_ms": now_ms()}})
                self._answers = self._line.wait()
            except RecorderError as error:
                self._lose(error)
            self._line.close()
            self._line = None
        if self._recorder:
            stop_recorder(self._recorder)
            self._recorder = None

    def _open(self) -> None:
        try:
            self._line, self._recorder = _reach_recorder(self.root)
        except (OSError, AttributeError) as error:  # no such sockets, no room, no process
            self._lose(error)
        opening = {"name": self.name, "tags": self._tags(), "time_ms": now_ms(), "sample": True}
        self._send({"open": opening, "record": {"params": self.params}})

    def _tags(self) -> dict[str, str]:
        lock = self.root / "dvc.lock"
        tags = {
            "stage": self.stage,
            "candidate": self.candidate,
            "git_dirty": None if self.git.dirty is None else str(self.git.dirty).lower(),
            "dvc_lock_md5": provenance.file_md5(lock) if lock.is_file() else None,
            "mlflow.parentRunId": self.parent_run_id,
            "mlflow.source.git.commit": self.git.commit,
            "mlflow.source.name": f"stages.{self.stage}",
            "mlflow.source.type": "LOCAL",
        }
        return {key: value for key, value in tags.items() if value is not None}

    def _answer(self, key: str) -> str | None:
        if self._line and self.tracking == "on":
            try:
                self._answers = self._line.wait()
            except RecorderError as error:
                self._lose(error)
        return self._answers.get(key)

    def _record(self, **what: Any) -> None:
        self._send({"record": what})

    def _send(self, request: Message) -> None:
        if self._line and self.tracking == "on":
            try:
                self._line.send(request)
            except RecorderError as error:
                self._lose(error)

    def _lose(self, error: Exception) -> None:
        """Go on without tracking, saying so once."""
        if self.tracking == "on":
            if self._line:
                self._answers = self._line.answers
            sys.stderr.write(f"warning: {self.name} goes on untracked: {one_line(error)}\n")
        self.tracking = "unreachable"


def tracking_state() -> State:
    """What STILLHOUSE_TRACKING asks for; on if it is unset.

    Raises:
        StillhouseError: it has an unknown value.
    """
    value = (os.environ.get(TRACKING) or "on").lower()
    for state in get_args(State):
        if value == state:
            return state  # type: ignore[no-any-return]
    raise StillhouseError(f'{TRACKING} is "{value}". Expected: on or off. Set it, or unset it.')


_CURRENT: ContextVar[Run | None] = ContextVar("run of this process", default=None)


def log_step(metrics: Mapping[str, Any], step: int) -> None:
    """Record points of curves while a stage works; no effect where no run is tracked."""
    if run := _CURRENT.get():
        run.log_points(metrics, step)


@contextmanager
def track_stage(
    stage: str, params: Mapping[str, Any], root: Path, candidate: str | None = None
) -> Iterator[Run]:
    """Track what happens in the block as one run of `stage`, and end it by how the block ends."""
    run = Run(stage, params, root, candidate)
    token = _CURRENT.set(run)
    try:
        with sigterm_as_exit():
            yield run
    except BaseException as error:
        run.close(status_of(error))
        raise
    finally:
        _CURRENT.reset(token)
    run.close(run.ending)


def now_ms() -> int:
    """The time as MLflow wants it: milliseconds since 1970."""
    return int(time.time() * 1000)


def _iso(timestamp: float) -> str:
    """Universal time to the millisecond, in a form whose order as text is the order in time."""
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds")


def _reach_recorder(root: Path) -> tuple[Line, Recorder | None]:
    """The pipeline's recorder if it is there, else one of our own."""
    if address := os.environ.get(RECORDER):
        with suppress(OSError):  # a pipeline that has ended meanwhile
            return Line(address), None
    recorder = start_recorder(root)
    return Line(recorder.address), recorder
