"""The neural stages on toy data, in seconds: what the tests of teacher, label and distill share."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from toy import write_prepared

from stages._params import Params

SPLITS = ("train", "validation", "calibration", "test")
SHAPE = {
    "layers": 2,
    "width": 32,
    "heads": 2,
    "kv_heads": 2,
    "feed_forward": 48,
    "positions": 128,
}
TRAINING = {
    "steps": 12,
    "batch_tokens": 512,
    "learning_rates": [0.01],
    "optimizer": "muon",
    "validations": 2,
    "validation_prompts": 4,
    "precision": "fp32",
}
GENERATION = {"max_new_tokens": 24}


def tiny_params(**sections: Any) -> Params:
    """Small shapes and few steps; `sections` lie over them, section by section."""
    data: dict[str, Any] = {
        "run": {"threads": 1, "device": "cpu"},
        "teacher": {
            "scratch": {"vocabulary": 400, "shape": SHAPE},
            "training": TRAINING,
            "generation": GENERATION,
        },
        "label": {
            "pool_prompts": 6,
            "gold": True,
            "top_k": 4,
            "max_slot_errors": None,
            "shard_prompts": 20,
            "generation": GENERATION,
        },
        "distill": {
            "shape": SHAPE | {"feed_forward": 32},
            "training": TRAINING,
            "generation": GENERATION,
        },
    }
    for name, changes in sections.items():
        data[name] = data.get(name, {}) | changes
    return Params.model_validate(data)


def prepared_inputs(folder: Path) -> dict[str, Path]:
    """The prepared files by the names that stages give them."""
    names = [*(f"{split}.jsonl" for split in SPLITS), "slots.json"]
    return {name: folder / name for name in names}


def run_teacher(params: Params, root: Path) -> dict[str, Any]:
    """Train the tiny teacher into `root`."""
    from stages.teacher import teacher

    write_prepared(root / "prepared")
    outputs = {"model": root / "teacher", "reports": root / "reports/teacher"}
    return teacher(params, prepared_inputs(root / "prepared"), outputs)


def label_inputs(root: Path) -> dict[str, Path]:
    """Inputs of the label stage."""
    return {**prepared_inputs(root / "prepared"), "teacher": root / "teacher"}


def run_label(params: Params, root: Path) -> dict[str, Any]:
    """Label into `root`."""
    from stages.label import label

    outputs = {"labels": root / "labels", "reports": root / "reports/label"}
    return label(params, label_inputs(root), outputs)


def run_distill(params: Params, root: Path, recipe: str = "student") -> dict[str, Any]:
    """Train one student into `root`."""
    from stages.distill import distill

    outputs = {"model": root / recipe, "reports": root / "reports/distill" / recipe}
    return distill(params, {**label_inputs(root), "labels": root / "labels"}, outputs)


@cache
def taught() -> Path:
    """A folder with a teacher and its labels, made once per test process; copy before changing."""
    import os

    root = Path(mkdtemp(prefix="stillhouse-"))
    before = Path.cwd()
    os.chdir(root)  # scratch lies below the working folder
    try:
        run_teacher(tiny_params(), root)
        run_label(tiny_params(), root)
    finally:
        os.chdir(before)
    return root
