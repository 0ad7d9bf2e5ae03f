"""One step in a process of its own, which says what it took as a JSON line at the end.

    python -m benchmarks._drift_steps stage|freeze|sample|summarise FOLDER

FOLDER is what _drift_scale_files.py makes: a project for `stage`, live records and windows for the
others. Memory is the process's peak resident set (VmHWM), Python and libraries included.
"""

import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

SAMPLED, SEED = 2000, 20


def stage(folder: Path) -> dict[str, Any]:
    """The drift stage as a program, in a project's folder."""
    os.chdir(folder)
    sys.argv = ["drift"]
    runpy.run_module("stages.drift", run_name="__main__")
    report = json.loads(Path("reports/drift/drift.json").read_text(encoding="utf-8"))
    return {"verdict": report["verdict"], "tests": len(report["detectors"])}


def freeze(folder: Path) -> dict[str, Any]:
    """All live records into a window."""
    from stages._windows.choosing import Asked
    from stages.window import window

    made = window(folder / "live", folder / "windows", Asked())
    return {"rows": made.info["rows"], "id": made.info["id"]}


def sample(folder: Path) -> dict[str, Any]:
    """As many rows as the drift stage compares."""
    from stages._windows.reading import sample_rows

    rows, told = sample_rows(_frozen(folder), SAMPLED, SEED)
    return told | {"prompt_chars": sum(len(row["prompt"]) for row in rows)}


def summarise(folder: Path) -> dict[str, Any]:
    """Counts, gaps and quantiles of all rows."""
    from stages._windows.reading import summarise as summary_of

    told = summary_of(_frozen(folder))
    return {"rows": told["rows"], "days": len(told["days"])}


def _frozen(folder: Path) -> Path:
    return next(path for path in (folder / "windows").iterdir() if (path / "window.json").is_file())


def peak_mb() -> float:
    """Largest resident set of this process so far [MB]."""
    told = Path("/proc/self/status").read_text(encoding="ascii")
    return int(told.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def main() -> None:
    """Do the step that is named, and tell."""
    name, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    steps = {"stage": stage, "freeze": freeze, "sample": sample, "summarise": summarise}
    started, used = time.perf_counter(), time.process_time()
    found = steps[name](folder)
    figures = {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_s": round(time.process_time() - used, 2),
        "peak_mb": round(peak_mb(), 1),
    }
    print(json.dumps(found | figures), flush=True)


if __name__ == "__main__":
    main()
