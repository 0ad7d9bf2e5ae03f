"""Evidently's verdicts with its defaults, by a process of its own: it needs other libraries.

    PYTHON benchmarks/_drift_evidently.py < requests.jsonl

`pip install evidently "pandas<3"` into an environment of its own; PYTHON is that environment's, and
nothing of ours is imported. A request and an answer are a JSON line each:

    {"columns": {name: [[reference values], [window's values]]},
     "kinds": {name: "num"|"cat"|"text"},
     "vectors": path of an .npz with reference and window, or null}
    {"dataset": bool, "columns": {name: bool}, "embeddings": {method: bool}, "seconds": of CPU}

`dataset` is what DataDriftPreset says (half of the columns), `columns` what it says of each with
the test and the threshold that it chooses itself. `embeddings` are the methods of its
EmbeddingsDriftMetric, each with its own defaults; it takes `model` if none is named.
The first line of the output names the version.
"""

import json
import os
import sys
import time
import warnings
from typing import Any

os.environ["DO_NOT_TRACK"] = "1"  # it would tell its makers of every run
warnings.filterwarnings("ignore")
NAMES = {"num": "numerical_columns", "cat": "categorical_columns", "text": "text_columns"}


def judge_columns(asked: dict[str, Any]) -> dict[str, Any]:
    """What the preset for data drift says with its defaults."""
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    kinds = {
        long: [name for name, kind in asked["kinds"].items() if kind == short]
        for short, long in NAMES.items()
    }
    sides = [
        Dataset.from_pandas(
            pd.DataFrame({name: pd.Series(v[place]) for name, v in asked["columns"].items()}),
            DataDefinition(**kinds),
        )
        for place in (1, 0)  # the window comes first
    ]
    tests = Report([DataDriftPreset()], include_tests=True).run(*sides).dict()["tests"]
    found: dict[str, Any] = {"columns": {}}
    for test in tests:
        params = test["metric_config"]["params"]
        if "column" in params:
            found["columns"][params["column"]] = test["status"] == "FAIL"
        else:
            found["dataset"] = test["status"] == "FAIL"
    return found


def judge_vectors(path: str | None) -> dict[str, bool]:
    """What each method for embeddings says with its defaults; none without vectors."""
    if path is None:
        return {}
    import numpy as np
    import pandas as pd
    from evidently.legacy.metrics.data_drift import embedding_drift_methods as methods

    with np.load(path, allow_pickle=False) as found:
        reference, window = found["reference"], found["window"]
    asked = {
        "model": methods.model(),
        "mmd": methods.mmd(),
        "mmd_bootstrap": methods.mmd(bootstrap=True),
        "distance": methods.distance(),
        "ratio": methods.ratio(),
    }
    return {
        name: bool(method(pd.DataFrame(window), pd.DataFrame(reference))[1])
        for name, method in asked.items()
    }


def main() -> None:
    """Answer requests until there are no more."""
    import evidently

    sys.stdout.write(json.dumps({"version": evidently.__version__}) + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked, started = json.loads(line), time.process_time()
        found = judge_columns(asked) | {"embeddings": judge_vectors(asked["vectors"])}
        sys.stdout.write(json.dumps(found | {"seconds": time.process_time() - started}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
