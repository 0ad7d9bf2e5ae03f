"""What every stage's `main()` does around its function: arguments, params, tracking, one clear end.

`run_stage(function, doc, inputs, outputs)` reads the command line, loads and checks params.yaml,
prints the plan, runs `function(params, inputs, outputs)` under a tracked run, and prints what
happened, where it is and how long it took. A stage with several candidates gives functions of the
candidate's name instead of paths; the name then comes from the command line. A person's mistake
(StillhouseError) ends in one line and exit 1; anything else keeps its traceback.
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from serving.errors import StillhouseError
from stages._params import Params, load_params
from stages._run import Context, track_stage

Paths = dict[str, Path]
InputsOf = Callable[[str, Params], Paths]
"""What a stage reads for one candidate."""
OutputsOf = Callable[[str], Paths]
SPLIT_CONTEXTS: dict[str, Context] = {
    "train": "training",
    "validation": "validation",
    "calibration": "calibration",
    "test": "evaluation",
}
# Turns of a loop that a thread of OpenMP waits in before it sleeps: about the time between two
# products of a small model, which sleeping and waking would double (docs/log.md).
SPINS = "1000"
# Wherever it is imported, bitsandbytes says that it fetched no faster kernel from a hub.
NO_NEWS = "bitsandbytes.backends.cpu.ops"
StageFunction = Callable[[Params, Paths, Paths], dict[str, Any]]


def run_stage(
    function: StageFunction,
    doc: str | None,
    inputs: Paths | InputsOf,
    outputs: Paths | OutputsOf,
    *,
    spin: bool = False,
) -> None:
    """Run one stage as a program; exits with 1 after a person's mistake.

    `spin`: most of its time nothing runs beside it, so its threads may wait awake for a moment.
    """
    stage = function.__name__
    arguments = _parse_arguments(stage, doc, with_candidate=callable(inputs))
    candidate: str | None = getattr(arguments, "candidate", None)
    try:
        params = load_params(arguments.params)
        set_environment(params)
        if spin and os.environ.get("WORLD_SIZE", "1") == "1":  # else the others run beside it
            os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
        read = inputs(candidate or "", params) if callable(inputs) else inputs
        written = outputs(candidate or "") if callable(outputs) else outputs
        _run(function, params, candidate, read, written)
    except StillhouseError as error:
        sys.exit(f"error: {stage}: {error}")
    except KeyboardInterrupt:
        sys.stderr.write(f"{stage}: interrupted\n")
        sys.exit(128 + signal.SIGINT)


def _parse_arguments(stage: str, doc: str | None, with_candidate: bool) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{stage}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if with_candidate:
        parser.add_argument("candidate", help="name of the candidate, as in dvc.yaml")
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="params file (params.yaml)"
    )
    return parser.parse_args()


def set_environment(params: Params) -> None:
    """Fix what libraries read from the environment; must run before torch and datasets load."""
    settings = Path(__file__).parent.parent / "settings.env"
    lines = settings.read_text(encoding="utf-8").splitlines() if settings.is_file() else []
    for line in lines:
        name, separator, value = line.partition("=")
        if separator and not name.startswith("#"):
            os.environ.setdefault(name, value)
    logging.getLogger(NO_NEWS).setLevel(logging.ERROR)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
        if params.run.offline:
            os.environ[name] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(params.run.threads))
    if os.environ.get("RANK", "0") != "0":  # the first of several processes records the run
        os.environ["STILLHOUSE_TRACKING"] = "off"


def _run(
    function: StageFunction, params: Params, candidate: str | None, inputs: Paths, outputs: Paths
) -> None:
    from threadpoolctl import threadpool_limits

    stage = function.__name__
    label = f"{stage} {candidate}" if candidate else stage
    print_line(f"{label}: {', '.join(str(path) for path in inputs.values())}")
    started = time.perf_counter()
    sections = {name: getattr(params, name).model_dump(mode="json") for name in ("run", stage)}
    settings = {"seed": params.seed, **sections["run"], **sections[stage]}
    with (
        track_stage(stage, candidate=candidate, params=settings, root=Path.cwd()) as run,
        threadpool_limits(params.run.threads),
    ):
        metrics = function(params, inputs, outputs)
        run.log_metrics(metrics)
        folder = Path("reports") / stage / (candidate or "")
        for path in prepared_splits([*inputs.values(), *outputs.values()]):
            run.log_dataset(path, SPLIT_CONTEXTS[path.stem])
        run.log_artifacts(small_reports(folder))
    if os.environ.get("RANK", "0") == "0":  # of several processes under `accelerate launch`
        run.write_record(folder / "run.json")
    seconds = time.perf_counter() - started
    print_line(f"{label}: done in {seconds:.1f} s")
    for line in _describe_metrics(metrics):
        print_line(f"  {line}")
    for path in outputs.values():
        print_line(f"  {path}{'/' if path.is_dir() else ''}  {_size(path)}")


def prepared_splits(paths: Iterable[Path]) -> list[Path]:
    """The prepared splits among a stage's files, whether it reads or writes them."""
    files = [file for path in paths for file in ([path] if path.is_file() else path.glob("*"))]
    return sorted(f for f in files if f.suffix == ".jsonl" and f.stem in SPLIT_CONTEXTS)


def small_reports(folder: Path) -> list[Path]:
    """Report files that belong into the tracker too: JSON and CSV up to 1 MB."""
    files = [*folder.glob("*.json"), *folder.glob("*.csv")]
    return sorted(f for f in files if f.name != "run.json" and f.stat().st_size < 1_000_000)


def print_line(text: str) -> None:
    """One line for the person who watches; standard output, flushed, so that logs keep order."""
    if os.environ.get("RANK", "0") != "0":
        return
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _describe_metrics(metrics: Mapping[str, Any]) -> list[str]:
    """Scores with their interval and plain numbers, a line each; nested detail stays in files."""
    lines = []
    for name, value in metrics.items():
        if isinstance(value, Mapping) and {"score", "low", "high"} <= value.keys():
            lines.append(f"{name} {value['score']:.4g} [{value['low']:.4g}, {value['high']:.4g}]")
        elif isinstance(value, Mapping) and all(isinstance(v, int | float) for v in value.values()):
            numbers = ", ".join(f"{key} {_number(number)}" for key, number in value.items())
            lines += [f"{name} {numbers}"] if numbers else []
        elif isinstance(value, int | float):
            lines.append(f"{name} {_number(value)}")
    return lines


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _size(path: Path) -> str:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    size = sum(file.stat().st_size for file in files if file.is_file())
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
