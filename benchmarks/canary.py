"""The canary on real services: two processes under load behind a weighted split, again and again.

    python -m benchmarks.canary                # after `dvc repro`; about an hour on one busy core
    … --only runs --runs unchanged=2 wrong=1   # fewer
    … --write                                  # also benchmarks/canary.json

The champion is the winner of models/winner.json. The challenger is, in turn,

    unchanged   the same model in another process: it must be promoted
    slower      the same student, unconverted, in the engine transformers: rolled back
    wrong       the student with noise on its weights, in the champion's engine: rolled back, too

Each run has a splitter of its own (benchmarks/_canary_split.py) and a load of prompts of the
calibration split that come at random times, and `python -m stages.canary` judges it by nothing but
the services' series. What differs from params.yaml is RULES: half of the traffic goes to the
challenger and the margins of `slow` and `slot_errors` are wider, since a run has some hundred
requests and both services, the splitter and the load share the cores. Both services are started
anew every few runs, caches are off (the prompts repeat), and the route is the student alone. Each
run is a line of scratch/canary/runs.jsonl, so that another call goes on where the last one ended
(--fresh begins anew).

Apart from that, and told apart: the judge alone on drawn counts, thousands of runs that say how
often it errs where the truth is known (benchmarks/_canary_simulated.py).
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks._canary_models import Served, damage, with_route
from benchmarks._canary_runs import Traffic, both_served, run_canary
from benchmarks._canary_simulated import LOOKS, REQUESTS, USUAL, simulate
from benchmarks._canary_summary import summarise, table
from serving.errors import StillhouseError
from stages import _io
from stages._params.canary import Canary

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/canary.json"
FOLDER = ROOT / "scratch/canary"
KINDS = {"unchanged": 20, "slower": 10, "wrong": 10}
RULES = {
    "share": 0.5,
    "minutes": 4.0,
    "margins": {"errors": 0.02, "refusals": 0.02, "slow": 0.2, "slot_errors": 0.1},
}
PER_S = 18.0
NOISE, NOISE_SEED = 0.25, 11
TOGETHER = 5  # runs of the same two processes
SIMULATED, SIMULATED_SEED = 2000, 7  # runs per case
Found = dict[str, Any]


def make_models(project: Path, folder: Path) -> dict[str, Served]:
    """What serves in the champion's place, by the kind of run; `unchanged` is the champion."""
    winner = _io.read_json(project / "models/winner.json")["cpu"]
    champion, student = project / winner["folder"], project / "models/student"
    wrong = damage(student, champion, NOISE, NOISE_SEED, folder / "models/wrong")
    folders = {"unchanged": champion, "slower": student, "wrong": wrong}
    route = project / "models/route.json"
    return {
        kind: with_route(model, route, folder / f"models/{kind}.json")
        for kind, model in folders.items()
    }


def run_all(project: Path, folder: Path, wanted: Mapping[str, int]) -> list[Found]:
    """Runs of all kinds, those that are done passed over."""
    done, models = read_runs(folder), make_models(project, folder)
    examples = _io.read_jsonl(project / "data/prepared/calibration.jsonl")
    traffic = Traffic([example["prompt"] for example in examples], PER_S, RULES)
    for kind, runs in wanted.items():
        while (first := sum(row["kind"] == kind for row in done)) < runs:
            with both_served(project, models["unchanged"], models[kind], folder) as pair:
                for number in range(first, min(first + TOGETHER, runs)):
                    seed = 1000 * list(KINDS).index(kind) + number
                    row = {"kind": kind, "number": number, "seed": seed}
                    row |= run_canary(pair, traffic, folder / "judge", seed)
                    keep_run(folder, row)
                    done.append(row)
    return done


def read_runs(folder: Path) -> list[Found]:
    """Those that were kept."""
    path = folder / "runs.jsonl"
    return _io.read_jsonl(path) if path.is_file() else []


def keep_run(folder: Path, row: Found) -> None:
    """One more line, and a word of it."""
    with (folder / "runs.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    requests = sum(row["requests"].values())
    told = f"{row['kind']} {row['number']}: {row['verdict']} after {requests} requests"
    print(f"{told}, {row['seconds']:.0f} s; {row['reason']}", flush=True)


def measure(only: str | None, project: Path, folder: Path, wanted: Mapping[str, int]) -> Found:
    """The parts that were asked for."""
    results: Found = {}
    if only in (None, "runs"):
        runs = run_all(project, folder, wanted)
        results |= {
            "cores": len(os.sched_getaffinity(0)),
            "requests_per_s": PER_S,
            "noise": NOISE,
            "rules": Canary.model_validate(RULES).model_dump(),
            "summary": summarise(runs),
            "runs": runs,
        }
    if only in (None, "simulated"):
        both = {"rules of the runs": Canary.model_validate(RULES), "rules by default": Canary()}
        simulated = {
            name: simulate(rules, SIMULATED, SIMULATED_SEED) for name, rules in both.items()
        }
        results["simulated"] = {
            "runs": SIMULATED,
            "most_requests": LOOKS * REQUESTS,
            "champion": dict(USUAL),
            "rules": simulated,
        }
    return results


def _runs_wanted(words: list[str]) -> dict[str, int]:
    wanted = {}
    for word in words:
        kind, _, number = word.partition("=")
        if kind not in KINDS or not number.isdecimal():
            sys.exit(f"error: {word} is none of {', '.join(f'{kind}=N' for kind in KINDS)}")
        wanted[kind] = int(number)
    return wanted


def main() -> None:
    """Run, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", nargs="+", default=[], metavar="KIND=N", help="of each kind")
    parser.add_argument("--project", type=Path, default=ROOT, help="whose code and models serve")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for logs and runs")
    parser.add_argument("--only", choices=("runs", "simulated"))
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    parser.add_argument("--write", action="store_true", help="write benchmarks/canary.json")
    told = parser.parse_args()
    folder, wanted = told.folder.resolve(), _runs_wanted(told.runs) or KINDS
    if told.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    (folder / "models").mkdir(parents=True, exist_ok=True)
    try:
        results = measure(told.only, told.project.resolve(), folder, wanted)
    except StillhouseError as error:
        sys.exit(f"error: {error}")
    print("\n".join(table(results)))
    if told.write:
        known = _io.read_json(RESULTS) if RESULTS.is_file() else {}
        _io.write_json(RESULTS, known | results)


if __name__ == "__main__":
    main()
