"""What the stage package finds: models, splits, scores and a decision, all of them tiny."""

from pathlib import Path

from converted_models import write_converted
from structure import ROOT
from tiny_models import write_model
from toy import write_prepared

from serving.contract import digest
from stages import _io
from stages._params import check_params
from stages.baseline import baseline
from stages.package import INPUTS, package

LOCKS = {name: ROOT / "requirements" / f"{name}.txt" for name in ("base", "train", "gpu")}
BASE = {"baseline": {"confidence_rows": 50, "jobs": 1}}
FOLDERS = {"ct2": "models/ct2", "nf4": "models/nf4", "teacher": "models/teacher"}


def params(folders=FOLDERS, **settings):
    """Of few requests; `settings` are of the section, `folders` those of the candidates."""
    settings = {"golden_requests": 3, "batched_clients": 2} | settings
    answer = {"candidates": dict(folders)}
    return check_params({"package": settings, "answer": answer}, Path("params.yaml"))


def write_project(root):
    """Models, splits, scores and the decision, as the stages before leave them."""
    prepared = root / "data/prepared"
    write_prepared(prepared)
    splits = {n: prepared / n for n in ("train.jsonl", "validation.jsonl", "slots.json")}
    settings = check_params(BASE, Path("params.yaml"))
    baseline(settings, splits, {"model": root / "models/baseline", "reports": root / "reports"})
    write_converted(root / "models/ct2", write_model(root / "models/student"))
    sha256 = digest(root / "models/ct2")
    report = {"model": {"sha256": sha256}, "examples": 4, "bleu": {"score": 60.0, "low": 50.0}}
    _io.write_json(root / "reports/evaluate/ct2.json", report)
    winner = {"candidate": "ct2", "folder": "models/ct2", "model_sha256": sha256}
    _io.write_json(root / "models/winner.json", {"cpu": winner, "cuda": None})
    return root


def inputs_of(project, **changes):
    """Paths that the stage reads; our own serving/ and locks."""
    own = {"serving": ROOT / "serving", **LOCKS}
    return {name: project / path for name, path in INPUTS.items()} | own | changes


def run(project, name, settings, **changes):
    """The stage in a folder of its own; its report, the folder of Bentos, and its metrics."""
    outputs = {"bentos": project / name / "bento", "report": project / name / "release.json"}
    metrics = package(settings, inputs_of(project, **changes), outputs)
    return _io.read_json(outputs["report"]), outputs["bentos"], metrics
