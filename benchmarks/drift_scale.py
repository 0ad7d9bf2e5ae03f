"""What the drift stage takes, and a window of a million rows, each step in a fresh process.

    python -m benchmarks.drift_scale                       # about six minutes on two idle cores
    … --only stage                                         # stage | windows
    … --write                                              # benchmarks/drift_scale.json

stage    2,000 reference rows against 1,000 current ones, with the settings of params.yaml (drift):
         once from nothing, self-calibration included, and once again, when that is kept. Rows are
         incidents, 30 % of the current ones with new services, answered by their references.
windows  100,000 and 1,000,000 live records in Parquet files of 100,000, written one at a time:
         frozen into a window (stages/window.py), sampled as the drift stage does, and summarised.
         Were everything held in memory, the peak would grow tenfold. `held_whole_mb` is what the
         window takes as one table in memory.

Memory is the peak resident set of the process, Python and libraries included (benchmarks/
_drift_steps.py). Nothing is tracked in MLflow here. Files are in a temporary folder (--folder).
"""

import argparse
import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML

from benchmarks._drift_scale_files import WINDOW, write_live, write_project
from serving.errors import StillhouseError
from stages import _io
from stages._params import read_yaml

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/drift_scale.json"
SIZES = (100_000, 1_000_000)
REFERENCE, CURRENT, SEED = 2_000, 1_000, 20


def step(name: str, folder: Path, threads: int) -> dict[str, Any]:
    """Run a step in a fresh process; returns what it tells at the end.

    Raises:
        StillhouseError: it failed; its output is above.
    """
    told = {
        "PYTHONPATH": str(ROOT),
        "STILLHOUSE_TRACKING": "off",
        "OMP_NUM_THREADS": str(threads),
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks._drift_steps", name, folder],
        cwd=ROOT,
        env=os.environ | told,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        print(done.stdout)
        raise StillhouseError(f"the step {name} ended with {done.returncode}; see above.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: {found['seconds']} s, {found['peak_mb']} MB", flush=True)
    return found


def measure_stage(folder: Path, params: dict[str, Any], threads: int) -> dict[str, Any]:
    """The stage from nothing, and again with what it keeps of the reference."""
    stream = StringIO()
    drift = {**(params.get("drift") or {}), "window": WINDOW, "answered_by": "winner"}
    YAML().dump({**params, "drift": drift}, stream)
    schema = read_yaml(ROOT / "configs/schemas/incidents.yaml")
    write_project(folder, stream.getvalue(), schema, REFERENCE, CURRENT, SEED)
    sizes = {"reference_rows": REFERENCE, "current_rows": CURRENT}
    return sizes | {name: step("stage", folder, threads) for name in ("first", "again")}


def measure_windows(folder: Path, rows: int, threads: int) -> dict[str, Any]:
    """Freeze, sample and summarise so many rows."""
    written = write_live(folder, rows, SEED)
    told: dict[str, Any] = {"live_mb": round(written / 1e6, 1)}
    told |= {name: step(name, folder, threads) for name in ("freeze", "sample", "summarise")}
    frozen = folder / "windows" / told["freeze"]["id"] / "rows.parquet"
    return told | {
        "window_mb": round(frozen.stat().st_size / 1e6, 1),
        "held_whole_mb": round(held_whole(frozen) / 1e6, 1),
    }


def held_whole(path: Path) -> int:
    """Bytes of a Parquet file's rows as Arrow holds them, counted a batch at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return sum(batch.nbytes for batch in file.iter_batches(10_000))


def measure(only: str | None, folder: Path, params: dict[str, Any]) -> dict[str, Any]:
    """The parts that were asked for."""
    cores = sorted(os.sched_getaffinity(0))
    results: dict[str, Any] = {"cores": len(cores)}
    if only in (None, "stage"):
        results["stage"] = measure_stage(folder / "project", params, len(cores))
    if only in (None, "windows"):
        results["windows"] = {
            str(rows): measure_windows(folder / str(rows), rows, len(cores)) for rows in SIZES
        }
    return results


def main() -> None:
    """Measure, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("stage", "windows"))
    parser.add_argument("--folder", type=Path, help="for the temporary folder; some 500 MB")
    parser.add_argument("--write", action="store_true", help="write benchmarks/drift_scale.json")
    arguments = parser.parse_args()
    try:
        with TemporaryDirectory(dir=arguments.folder) as folder:
            params = read_yaml(ROOT / "params.yaml")
            results = measure(arguments.only, Path(folder), params)
    except StillhouseError as error:
        sys.exit(f"error: {error}")
    print(json.dumps(results, indent=2))
    if arguments.write:
        known = _io.read_json(RESULTS) if RESULTS.is_file() else {}
        _io.write_json(RESULTS, known | results)


if __name__ == "__main__":
    main()
