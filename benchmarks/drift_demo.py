"""From drift to another model and back into service, on the built-in data: `make drift-demo`.

    python -m benchmarks.drift_demo              # 39 minutes on one busy core
    … --fresh                                    # from the beginning; else it goes on where it was
    … --write                                    # also benchmarks/drift_demo.json

In a copy of the project below scratch/drift-demo, with the profile configs/drift_demo.yaml: the
pipeline trains, chooses and packs a small model; it is released and served. Traffic as usual goes
through the service, then traffic of which 60 % has a product line and units that training never
had. Each is frozen into a window and compared with the reference. For half of the second window's
rows the generator gives the references that people would give (gold.jsonl); whether the teacher
must learn them or they only measure is what `make retrain` finds out (retrain.gold: auto), and the
teacher answers the rest. Then: watch, retrain, select against the model in force on old and new
slices, release, serve. Before and after, the service is asked the same 300 fresh prompts of each
slice, which no window has.

What the figures show is told plainly, and so is what they do not; exit code 0 where all is as it
should be, 2 where it is not. Steps leave their results in scratch/drift-demo/marks, commands their
output in logs/. The copy has a Git, a DVC cache and an MLflow database of its own.
"""

import argparse
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from benchmarks._drift_demo_figures import conclude, find_planted, slot_errors, table
from benchmarks._drift_demo_project import Demo, copy_project
from benchmarks._drift_demo_service import (
    ask,
    count_records,
    draw_prompts,
    serving,
    wait_for_records,
)
from serving.errors import StillhouseError
from serving.slots import SlotSchema
from stages import _io
from stages._windows.gold import GOLD
from stages._windows.reading import read_window

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "scratch/drift-demo"
RESULTS = ROOT / "benchmarks/drift_demo.json"
PROFILE = "drift_demo"
QUIET_ROWS, DRIFTED_ROWS, SHARE, GOLD_SHARE = 300, 1000, 0.6, 0.5
ASKED_ROWS = 300
SEEDS = {"quiet": 501, "drifted": 502, "old": 503, "new": 504, "gold": 505}
ROUTES = {"cascade": "/cascade", "student": "/generate"}
RETRAIN = 3  # exit code of stages/watch.py
NO_CANARY = "a demonstration, which has no live traffic for two models"
Found = dict[str, Any]


def first_models(demo: Demo) -> Found:
    """The pipeline with the demo's profile, to the package."""
    demo.run("profile", "stages._profile", PROFILE)
    set_params(demo, {"run": {"threads": demo.cores}})
    demo.run("pipeline", "stages._pipeline", "package")
    demo.commit("The first models")
    return {"winner": _io.read_json(demo.project / "models/winner.json")["cpu"]}


def release(demo: Demo) -> Found:
    """Bring the winner into force."""
    demo.run("release", "stages.release", "--without-canary", NO_CANARY)
    demo.commit("A release")
    record = _io.read_json(demo.project / "releases/current.json")
    return {"release": record["release"], "model_sha256": record["winners"]["cpu"]["model_sha256"]}


def before(demo: Demo) -> Found:
    """Both kinds of traffic, frozen, and what the service says to the fresh prompts."""
    for folder in ("live", "windows"):
        shutil.rmtree(demo.project / "data" / folder, ignore_errors=True)
    quiet = draw_prompts(SEEDS["quiet"], QUIET_ROWS, 0.0)
    drifted = draw_prompts(SEEDS["drifted"], DRIFTED_ROWS, SHARE)
    with serving(demo, "serve-before") as url:
        told: Found = {"quiet": send_and_freeze(demo, url, quiet)}
        told["drifted"] = send_and_freeze(demo, url, drifted)
        told["answers"] = ask_fresh(url)
    told["gold"] = give_gold(demo, told["drifted"]["window"], drifted)
    return told


def send_and_freeze(demo: Demo, url: str, rows: list[Found]) -> Found:
    """Send prompts to the cascade, and freeze the records of just these."""
    known, there = windows_of(demo), count_records(demo)
    ask(url, "/cascade", rows)
    wait_for_records(demo, there + len(rows))
    demo.run("window", "stages.window", "--last-rows", str(len(rows)))
    new = windows_of(demo) - known
    if len(new) != 1:
        raise StillhouseError(
            f"found {sorted(new)} as new windows, expected one. See logs/window.log."
        )
    return {"window": new.pop(), "rows": len(rows)}


def windows_of(demo: Demo) -> set[str]:
    """Names of the windows there are."""
    return {path.parent.name for path in (demo.project / "data/windows").glob("*/window.json")}


def ask_fresh(url: str) -> Found:
    """Each route's answers to the fresh prompts of each slice, and who answered in the cascade."""
    told: Found = {}
    for slice_, rows in fresh_prompts().items():
        for route, path in ROUTES.items():
            given = ask(url, path, rows)
            told.setdefault(route, {})[slice_] = [one.get("text") or "" for one in given]
            if route == "cascade":
                rungs = [(one.get("routing") or {}).get("rung") for one in given]
                told.setdefault("rungs", {})[slice_] = {
                    str(rung): rungs.count(rung) for rung in sorted(set(rungs), key=str)
                }
    return told


def fresh_prompts() -> dict[str, list[Found]]:
    """Prompts of the old and the new slice that no window has."""
    sent = draw_prompts(SEEDS["quiet"], QUIET_ROWS, 0.0)
    sent += draw_prompts(SEEDS["drifted"], DRIFTED_ROWS, SHARE)
    known = {row["prompt"] for row in sent}
    drawn = {
        name: draw_prompts(SEEDS[name], ASKED_ROWS, float(name == "new")) for name in ("old", "new")
    }
    return {
        name: [row for row in rows if row["prompt"] not in known] for name, rows in drawn.items()
    }


def give_gold(demo: Demo, window: str, sent: list[Found]) -> Found:
    """References of a share of the rows, drawn at random, as people would add them."""
    references = {row["prompt"]: row["references"] for row in sent}
    folder = demo.project / "data/windows" / window
    rows = list(read_window(folder).rows(["id", "prompt"]))
    rng = np.random.default_rng(SEEDS["gold"])  # every n-th would fall in step with what is changed
    chosen = sorted(rng.permutation(len(rows))[: round(GOLD_SHARE * len(rows))].tolist())
    lines = [{"id": rows[at]["id"], "references": references[rows[at]["prompt"]]} for at in chosen]
    _io.write_jsonl(folder / GOLD, lines)
    return {"rows": len(lines), "share": GOLD_SHARE, "from": "the generator"}


def set_params(demo: Demo, values: Mapping[str, Mapping[str, Any]]) -> None:
    """Change params.yaml of the copy, by section; its comments stay."""
    path, yaml = demo.project / "params.yaml", YAML()
    yaml.width = 100
    params = yaml.load(path.read_text(encoding="utf-8"))
    for section, changed in values.items():
        params[section].update(changed)
    with _io.writing(path) as stream:
        yaml.dump(params, stream)


def compare(demo: Demo, window: str, log: str) -> Found:
    """The drift stage on a window, and what watch says of it."""
    set_params(demo, {"drift": {"window": window}})
    demo.run(f"drift-{log}", "stages._pipeline", "drift")
    code = demo.run(f"watch-{log}", "stages.watch", codes=(0, RETRAIN))
    report = _io.read_json(demo.project / "reports/drift/drift.json")
    evidence = _io.read_json(demo.project / "reports/drift/evidence.json")
    words = [one["term"] for one in evidence["words"]["current"]]
    return {
        "window": window,
        "verdict": report["verdict"],
        "verdicts": report["verdicts"],
        "calibration": {k: report["calibration"][k] for k in ("false_alarm_rate", "power", "n")},
        "planted": find_planted(report["top_features"], words),
        "words": words,
        "watch": _io.read_json(demo.project / "reports/watch/outcome.json"),
        "retrain": code == RETRAIN,
    }


def retrain(demo: Demo) -> Found:
    """Learn from the window, and let select decide."""
    demo.commit("A window in drift")
    demo.run("retrain", "benchmarks._drift_demo_retrain", codes=(0, 4, 5))
    reports = sorted((demo.project / "reports/retrain").glob("*/retrain.json"))
    if not reports:
        return {"ending": "not begun", "reason": "see logs/retrain.log"}
    told = _io.read_json(reports[-1])
    decision = _io.read_json(demo.project / "reports/select/decision.json")
    demo.commit("Retrained")
    return {
        **{name: told[name] for name in ("ending", "reason", "teacher", "use")},
        "winner": decision["winners"],
        "gates": decision.get("candidates"),
    }


def after(demo: Demo) -> Found:
    """The same prompts to the released service."""
    with serving(demo, "serve-after") as url:
        return {"answers": ask_fresh(url)}


def run(demo: Demo) -> Found:
    """All steps, those that are done passed over."""
    found = {
        "copy": demo.step("copy", copy_project),
        "pipeline": demo.step("pipeline", first_models),
        "release": demo.step("release", release),
        "before": demo.step("before", before),
    }
    for name in ("quiet", "drifted"):
        window = found["before"][name]["window"]
        found[name] = demo.step(f"drift-{name}", partial(compare, window=window, log=name))
    if found["drifted"]["retrain"]:
        found["retrain"] = demo.step("retrain", retrain)
        if found["retrain"]["ending"] == "promoted":
            found["release_again"] = demo.step("release-again", release)
            found["after"] = demo.step("after", after)
    return found


def tell(demo: Demo, found: Mapping[str, Found]) -> Found:
    """The figures, and what they come to."""
    schema = SlotSchema.from_dict(_io.read_json(demo.project / "data/prepared/slots.json"))
    prompts, errors = fresh_prompts(), dict[str, dict[str, Found]]()
    for route in ROUTES:
        for slice_, rows in prompts.items():
            answers = {
                side: found[side]["answers"][route][slice_]
                for side in ("before", "after")
                if side in found
            }
            errors.setdefault(route, {})[slice_] = slot_errors(rows, answers, schema)
    ending = found.get("retrain", {}).get("ending", "not asked for")
    quiet, drifted = (found[name]["verdict"] for name in ("quiet", "drifted"))
    outcome = conclude(found["drifted"]["planted"], quiet, drifted, ending, errors)
    return {
        "cores": demo.cores,
        "traffic": {"quiet": QUIET_ROWS, "drifted": DRIFTED_ROWS, "changed": SHARE},
        "gold": found["before"]["gold"],
        "drift": {name: found[name] for name in ("quiet", "drifted")},
        "retraining": found.get("retrain"),
        "slot_error_rate": errors,
        "rungs": {
            side: found[side]["answers"]["rungs"] for side in ("before", "after") if side in found
        },
        "outcome": outcome,
        "seconds": {name: one["seconds"] for name, one in found.items()},
    }


def main() -> None:
    """Run the demo, print, and write JSON where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fresh", action="store_true", help="begin anew")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the copy lies")
    parser.add_argument("--write", action="store_true", help="write benchmarks/drift_demo.json")
    arguments = parser.parse_args()
    if arguments.fresh:
        shutil.rmtree(arguments.folder, ignore_errors=True)
    demo = Demo(ROOT, arguments.folder.resolve())
    try:
        results = tell(demo, run(demo))
    except StillhouseError as error:
        sys.exit(f"error: {error}")
    total = sum(results["seconds"].values())
    print("\n".join(table(results["slot_error_rate"])))
    print("\n".join([*results["outcome"], f"{total / 60:.1f} minutes in all; {demo.folder}/"]))
    if arguments.write:
        _io.write_json(RESULTS, results)
    sys.exit(2 if any(line.startswith("NOT") for line in results["outcome"]) else 0)


if __name__ == "__main__":
    main()
