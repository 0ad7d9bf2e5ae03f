"""Tiny models for a service that is started, and the environment that names them."""

from pathlib import Path

from converted_models import write_converted
from tiny_models import write_model
from toy import write_prepared

from stages._params import check_params
from stages.baseline import baseline

PARAMS = check_params({"baseline": {"confidence_rows": 50, "jobs": 1}}, Path("params.yaml"))


def service_environment(root):
    """Student and baseline, made below `root`."""
    write_converted(root / "student", write_model(root / "plain"))
    write_prepared(root)
    inputs = {n: root / n for n in ("train.jsonl", "validation.jsonl", "slots.json")}
    baseline(PARAMS, inputs, {"model": root / "baseline", "reports": root / "reports"})
    return {
        "STILLHOUSE_STUDENT": str(root / "student"),
        "STILLHOUSE_BASELINE": str(root / "baseline"),
        "STILLHOUSE_USD_PER_HOUR": "1.0",
    }
