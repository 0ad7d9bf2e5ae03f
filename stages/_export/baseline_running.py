"""The baseline's graphs run by onnxruntime in this process."""

from pathlib import Path
from typing import Any

import numpy as np

from stages._export.shipped.retrieve import Judge, Search


def onnxruntime_search(path: Path) -> Search:
    """The search of a retrieval graph."""
    session = _open(path)

    def search(terms: Any) -> tuple[Any, Any]:
        similarities, places = session.run(["similarities", "places"], {"terms": terms})
        return similarities, places

    return search


def onnxruntime_judge(path: Path) -> Judge:
    """The confidence of its graph."""
    session = _open(path)
    return lambda features: np.asarray(session.run(["confidence"], {"features": features})[0])


def _open(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
