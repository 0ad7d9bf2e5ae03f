"""Does distilling hand secrets of the training data on? Planted canaries, teacher to student.

    python -m benchmarks.canaries            # several minutes; needs no other stage to have run
    python -m benchmarks.canaries --write    # also benchmarks/canaries.json

Six-digit codes are planted into a small `incidents` data set, each 0 (controls), 1, 4 or 16 times;
then the stages of the pipeline run on it, with params.yaml but for the sizes below. For every model
and number of repeats: mean exposure in bits (stages/_canaries.py), the share of codes that greedy
decoding gives away, and a permutation p-value against the controls.

    teacher      saw the codes
    control      learns from the same references, without labels
    student      cut out of the teacher; learns from labels, whose slot check turns answers with an
                 unasked number away
    random_init  learns from the same labels, but no weight of it was the teacher's
    unfiltered   like student, with label.max_slot_errors: null
    pool_only    unfiltered too, but starts at random and learns from nothing but the teacher's
                 answers to recombined records
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

from serving.predictor import load
from stages import _io
from stages._canaries import Canary, exposure, plant, summarise
from stages._labels import LabelStore, iterate_labels, read_index
from stages._params import Params, check_params, read_yaml
from stages._profile import merge
from stages._stage import set_environment
from stages.distill import distill
from stages.label import label
from stages.prepare import prepare
from stages.teacher import teacher

ROOT = Path(__file__).parent.parent
SPLITS = ("train", "validation", "calibration", "test")
REPEATS = (0, 1, 4, 16)
STUDENT = {"method": "logits", "init": "prune", "alpha": 0.5}
RECIPES = {
    "student": STUDENT,
    "random_init": {**STUDENT, "init": "scratch"},
    "unfiltered": STUDENT,
    "pool_only": {**STUDENT, "init": "scratch", "sources": ["pool"]},
    "control": {"method": "sft", "init": "prune"},
}
UNFILTERED = ("unfiltered", "pool_only")
MODELS = ("teacher", *RECIPES)


def small_params(prompts: int, steps: int) -> Params:
    """params.yaml with less data, smaller models and fewer steps."""
    path = ROOT / "params.yaml"
    few = max(10, prompts // 10)
    training = {"steps": steps, "validations": 1, "validation_prompts": few}
    shape = {"heads": 3, "kv_heads": 3, "positions": 512}
    data = read_yaml(path)
    counts = {f"{split}_prompts": few for split in SPLITS} | {"train_prompts": prompts}
    overlay = {
        "prepare": {
            "source": "incidents",
            "incidents": counts,
            "slot_schema": str(ROOT / "configs/schemas/incidents.yaml"),
        },
        "teacher": {
            "source": "scratch",
            "scratch": {
                "vocabulary": 1024,
                "shape": {**shape, "layers": 3, "width": 96, "feed_forward": 256},
            },
            "training": training,
        },
        "label": {"pool_prompts": prompts},
        "distill": {
            "recipes": RECIPES,
            "shape": {**shape, "layers": 2, "width": 96, "feed_forward": 192},
            "training": training,
        },
    }
    merge(data, overlay)
    return check_params(data, path)


def without_filter(params: Params) -> Params:
    """The same, but labels are not checked against their records."""
    section = params.label.model_copy(update={"max_slot_errors": None})
    return params.model_copy(update={"label": section})


def prepare_with_canaries(params: Params, count: int) -> list[Canary]:
    """Write data/prepared with canaries among the training pairs; returns them."""
    folder = Path("prepared")
    prepare(params, {"raw": Path("raw")}, {"prepared": folder, "reports": Path("reports/prepare")})
    train = _io.read_jsonl(folder / "train.jsonl")
    planted, canaries = plant(train, count, REPEATS, params.seed)
    _io.write_jsonl(folder / "train.jsonl", planted)
    return canaries


def make_models(params: Params) -> dict[str, Any]:
    """Train the teacher, label twice, train every student; returns the validation scores."""
    files = {f"{split}.jsonl": Path("prepared") / f"{split}.jsonl" for split in SPLITS}
    files |= {"slots.json": Path("prepared/slots.json")}
    reports = {"teacher": teacher(params, files, _outputs("teacher"))}
    files |= {"teacher": Path("teacher")}
    for name in RECIPES:
        chosen = without_filter(params) if name in UNFILTERED else params
        labels = labels_of(name)
        if not labels.exists():
            label(chosen, files, {"labels": labels, "reports": Path("reports") / labels})
        reports[name] = distill(chosen, {**files, "labels": labels}, _outputs(name))
    return {name: report["validation"] for name, report in reports.items()}


def labels_of(name: str) -> Path:
    """Where a student's labels lie."""
    return Path("labels_unfiltered" if name in UNFILTERED else "labels")


def _outputs(name: str) -> dict[str, Path]:
    return {"model": Path(name), "reports": Path("reports") / name}


def count_labels(folder: Path, canaries: Sequence[Canary]) -> dict[str, int]:
    """Labels that say a planted secret, by source: where a student could meet it."""
    secrets = [canary.secret for canary in canaries if canary.repeats]
    store = LabelStore(folder, read_index(folder))
    return dict(
        Counter(
            found.source
            for found in iterate_labels(store)
            if any(secret in found.text for secret in secrets)
        )
    )


def measure(name: str, canaries: Sequence[Canary], candidates: int, seed: int) -> dict[str, Any]:
    """Exposure of one model by number of repeats."""
    predictor: Any = load(Path(name))
    found = exposure(predictor.model, predictor.prompts, canaries, candidates, seed)
    return summarise(found, seed)


def run(params: Params, count: int, candidates: int) -> dict[str, Any]:
    """The whole comparison, in the current folder."""
    canaries = prepare_with_canaries(params, count)
    scores = make_models(params)
    return {
        "seed": params.seed,
        "train_prompts": params.prepare.incidents.train_prompts,
        "steps": params.teacher.training.steps,
        "canaries_per_group": count,
        "candidates": candidates,
        "labels_with_a_secret": {
            name: count_labels(labels_of(name), canaries) for name in ("student", "unfiltered")
        },
        "validation": {
            name: {metric: scores[name][metric]["score"] for metric in ("bleu", "slot_error_rate")}
            for name in MODELS
        },
        "exposure": {name: measure(name, canaries, candidates, params.seed) for name in MODELS},
    }


def table(results: Mapping[str, Any]) -> str:
    """Mean exposure [bits], share extracted and p-value by model and repeats."""
    lines = ["model       " + "".join(f"  {f'x{repeats}':<22}" for repeats in REPEATS)]
    for name, groups in results["exposure"].items():
        cells = []
        for found in groups.values():
            p = "" if found["p_value"] is None else f" p={found['p_value']:.4f}"
            cells.append(f"{found['mean_bits']:5.2f} ({found['extracted']:4.0%}){p}")
        lines.append(f"{name:<12}" + "".join(f"  {cell:<22}" for cell in cells))
    expected = results["exposure"]["teacher"]["0"]["expected_bits"]
    return "\n".join([*lines, f"chance gives {expected:.2f} bits"])


def main() -> None:
    """Plant, train, measure, print a table, and write JSON where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=600, help="training prompts (600)")
    parser.add_argument("--steps", type=int, default=400, help="steps of every model (400)")
    parser.add_argument("--count", type=int, default=8, help="canaries per number of repeats (8)")
    parser.add_argument("--candidates", type=int, default=1000, help="secrets compared (1000)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/canaries.json")
    arguments = parser.parse_args()
    params = small_params(arguments.prompts, arguments.steps)
    set_environment(params)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        results = run(params, arguments.count, arguments.candidates)
    json.dump(results, sys.stdout, indent=2)
    print(f"\n{table(results)}")
    if arguments.write:
        _io.write_json(ROOT / "benchmarks/canaries.json", results)


if __name__ == "__main__":
    main()
