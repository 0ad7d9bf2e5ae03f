"""All reports that `report` reads, small: select's are made by select itself, the rest by hand."""

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from select_cases import PARSED, SCHEMA, Case, said

from stages import _io
from stages._params import check_params
from stages.report import INPUTS
from stages.report import report as make_report
from stages.select import select

ATTACK = '<script>alert("1")</script>'
SCORE = {"score": 60.0, "low": 58.0, "high": 62.0, "signature": "s"}
RATE = {"score": 0.04, "low": 0.03, "high": 0.05, "signature": "s"}
TEXTS = {
    "baseline": said(40),
    "teacher": said(2),
    "student": said(3),
    "control": said(8),
    "ct2": (f"{ATTACK} serves nothing.", *said(2)[1:]),
}
COST_USD = {"baseline": 0.0002, "teacher": 0.004, "student": 0.0005, "control": 0.0005}
CURVE = "step,train_nats,kl_nats\n10,4.0,3.0\n20,2.0,\n30,1.0,0.5\n"
VALIDATIONS = "step,loss_nats,bleu,slot_error_rate,selection\n15,1.0,50,0.1,40\n30,0.5,60,0.05,55\n"
LOAD = Path(__file__).parent.parent / "benchmarks/serve_load.json"


def rung(bleu, **more):
    """One rung of the ladder."""
    score = {"score": bleu, "low": bleu - 2, "high": bleu + 2}
    return {"bleu": score, "slot_error_rate": RATE, "seeds": 1, "parameters": 370_000, **more}


LADDER = {
    "teacher": rung(68.0),
    "control": rung(64.0, recipe={"method": "sft", "init": "prune"}),
    "student": rung(66.0, fidelity={"top1_agreement": 0.94, "mean_kl": 0.15}),
    "kd_gain": {"score": 2.0, "low": -1.0, "high": 5.0},
    "student_to_teacher": {
        "bleu_ratio": {"score": 0.97, "low": 0.92, "high": 1.01},
        "slot_error_rate_delta": {"score": 0.01, "low": 0.002, "high": 0.02},
        "parameters_ratio": 0.24,
    },
    "steps": [{"from": "control", "to": "student", "what": "adds texts", "bleu": SCORE}],
    "verdict": "inconclusive",
    "reason": "One seed says little.",
    "not_shared": [],
    "labels": {"kept": 90, "rejected": 10, "tokens": 3000},
}
ROUTE = {
    "alpha": 0.1,
    "delta": 0.05,
    "rungs": [
        {
            "rung": "baseline",
            "left_out": None,
            "score": "confidence",
            "threshold": 0.5,
            "accepted_share": 0.6,
            "accepted": 60,
            "errors": 3,
            "bound": 0.09,
        },
        {"rung": "student", "left_out": "it is never sure", "accepted_share": 0.0}
        | {"score": "checked", "threshold": None, "accepted": 0, "errors": 0, "bound": None},
    ],
    "expected": {
        "prompts": 100,
        "error_rate": {"score": 0.05, "low": 0.02, "high": 0.09},
        "teacher_error_rate": 0.06,
        "cost_per_1k_requests_usd": 0.001,
        "all_teacher_cost_per_1k_requests_usd": 0.004,
        "saved_share": 0.75,
    },
    "quality": None,
}
DRIFT = {
    "verdict": "no_evidence",
    "verdicts": {"input": "no_evidence", "quality": "too_few_rows"},
    "detectors": [{"alarm": False}, {"alarm": False}],
    "top_features": [],
    "rests_on": {"window": {"id": "w1", "planted": False}, "said": ["window w1: 80 rows"]},
    "calibration": {"not_run": "drift.calibration.repeats is 0"},
}
KIND = {"auroc": 0.9, "detected": 0.8, "n": 10, "status": "run"}
RUN = {"status": "run", "needs_schema": True, "false_alarm_rate": 0.01, "kinds": {"swap": KIND}}
DETECTORS = {
    "clean": {"texts": 40, "source": "test references"},
    "detectors": {
        "slot_check": RUN | {"false_alarm_rate_low": 0.0, "false_alarm_rate_high": 0.02},
        "semantic_similarity": {"status": "not run", "reason": "it takes minutes"},
    },
    "kinds": {"swap": {"n": 10}},
}
RELEASE = {
    "bento_tag": "stillhouse:abc",
    "bento_bytes": 2_500_000,
    "bento_sha256": "b" * 64,
    "golden_parity": {"requests": 200, "identical": 200},
}
FILES = {
    "prepare/counts.json": {
        "rows_used": {"train": 200, "test": 480},
        "prompts": {"train": 100, "test": 240},
        "rows_rejected": 0,
    },
    "baseline/validation.json": {"bleu": SCORE},
    "teacher/teacher.json": {"source": "scratch", "parameters": 1_500_000},
    "label/label.json": {"labels": 90, "rejected": 10, "cost": {"usd": 0.0}}
    | {"rejected_by_reason": {"slot_errors": 10}},
    "detectors/detectors.json": DETECTORS,
    "ladder/ladder.json": LADDER,
    "route/calibration.json": ROUTE,
    "package/release.json": RELEASE,
    "drift/drift.json": DRIFT,
}


def distilled(method):
    """What distill says of one recipe."""
    recipe = {"method": method, "init": "prune"}
    size = {"parameters": 370_000, "training_tokens": 1_100_000}
    return {"recipe": recipe, "init": "prune", "seed": 20, "steps": 1200, "privacy": None} | {
        "batch_tokens": 2048,
        **size,
    }


@cache
def _whole():
    """A project with every report, made once."""
    root = Path(mkdtemp())
    case = Case(root, gates={"bleu_ratio": 0.5, "slot_error_rate_rise": 0.1, "wrong_rise": 0.1})
    for name, texts in sorted(TEXTS.items(), key=lambda item: item[0] != "student"):
        engine = "ctranslate2" if name == "ct2" else "transformers"
        figures = {"cost_per_1k_requests_usd": COST_USD.get(name, 0.0001)}
        case.add(name, texts, figures, engine)
        path = root / "reports/evaluate" / f"{name}.json"
        data = {"name": "incidents", "sha256": "d" * 64}
        _io.write_json(path, _io.read_json(path) | {"data": data})
    student = root / "reports/benchmark/student.json"
    _io.write_json(student, _io.read_json(student) | {"machine": {"noisy": True}})
    select(case.params(), *case.paths())
    reports = root / "reports"
    _io.write_json(reports / "evaluate/summary.json", {name: {} for name in TEXTS})
    for name, content in FILES.items():
        _io.write_json(reports / name, content)
    for recipe, method in (("student", "logits"), ("control", "sft")):
        _io.write_json(reports / f"distill/{recipe}/distill.json", distilled(method))
        _io.write_text(reports / f"distill/{recipe}/curve.csv", CURVE)
    _io.write_text(reports / "teacher/curve.csv", CURVE)
    _io.write_text(reports / "teacher/validations.csv", VALIDATIONS)
    _io.write_json(reports / "quantize/ct2/quantize.json", {"coverage": 1.0})
    _io.write_json(root / "data/prepared/slots.json", SCHEMA)
    (root / "benchmarks").mkdir()
    shutil.copyfile(LOAD, root / "benchmarks/serve_load.json")
    return root


def project(root):
    """A copy of the whole project below `root`."""
    return shutil.copytree(_whole(), root / "project")


def run(root, **sections):
    """The stage on a project's files: its metrics, page and card."""
    inputs = {name: root / path for name, path in INPUTS.items()}
    outputs = {"reports": root / "reports/report"}
    params = check_params({"report": {"worst_examples": 3, "random_examples": 2}} | sections, root)
    metrics = make_report(params, inputs, outputs)
    texts = [(outputs["reports"] / name).read_text() for name in ("index.html", "model_card.md")]
    return metrics, *texts


__all__ = ["ATTACK", "PARSED", "TEXTS", "project", "run"]
