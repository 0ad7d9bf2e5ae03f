"""The traditional model's choices, measured: index dtype, stored index, arrays or ONNX, processes.

    python -m benchmarks.baseline            # after `dvc repro baseline`
    python -m benchmarks.baseline --write    # also benchmarks/baseline.json

Everything is measured in one run, in turns (A B A B …), and told as medians and ratios: the machine
may be noisy. Answers are compared with those of the float32 index.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from serving._classifier import Classifier, Forest, sigmoid
from serving._retrieval import Index, build_index, load_index, save_index
from serving.baseline import FEATURE_NAMES
from serving.baseline import find_candidates as find
from serving.completion import Request
from serving.slots import SlotSchema
from stages import _io
from stages._params import load_params
from stages.baseline import answer_all

PREPARED = Path("data/prepared")
REPEATS = 5


def timed(variants: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each variant; the variants take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(REPEATS + 1):
        for name, action in variants.items():
            started = time.perf_counter()
            action()
            if repeat:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def compare_dtypes(
    index: Index, examples: list[Any], schema: SlotSchema | None, folder: Path
) -> dict[str, dict[str, float]]:
    """Bytes of the stored matrix, seconds to load it, and answers that differ from float32."""
    requests = [Request(example["prompt"], example.get("slots")) for example in examples]
    folders = {dtype: folder / dtype for dtype in ("float32", "float16", "int8")}
    for dtype, path in folders.items():
        path.mkdir()
        save_index(path, index, dtype)
    loading = timed({d: lambda p=p: load_index(p, schema) for d, p in folders.items()})
    exact = [c[0].text for c in find(load_index(folders["float32"], schema), requests, 10)]
    rows = {}
    for dtype, path in folders.items():
        answers = [c[0].text for c in find(load_index(path, schema), requests, 10)]
        same = sum(a == b for a, b in zip(exact, answers, strict=True)) / len(exact)
        rows[dtype] = {
            "matrix_kb": (path / "index.safetensors").stat().st_size / 1e3,
            "folder_kb": sum(f.stat().st_size for f in path.iterdir()) / 1e3,
            "load_ms": loading[dtype] * 1e3,
            "same_answers": same,
        }
    return rows


def compare_loading(
    train: list[Any], schema: SlotSchema | None, max_features: int, folder: Path
) -> dict[str, float]:
    """Seconds to load the stored vectoriser output against fitting it again from the texts."""
    return timed(
        {
            "stored": lambda: load_index(folder / "float32", schema),
            "refitted": lambda: build_index(train, schema, max_features),
        }
    )


def compare_classifiers(folder: Path) -> dict[str, dict[str, float]]:
    """Our arrays against ONNX of the same random forest: bytes, load, 1 and 1,000 predictions."""
    import onnxruntime
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier

    from stages._confidence import forest_arrays

    generator = np.random.default_rng(0)
    features = generator.normal(size=(2000, len(FEATURE_NAMES))).astype(np.float32)
    good = generator.random(2000) < sigmoid(2.0 * features[:, 0].astype(np.float64))
    forest = RandomForestClassifier(100, max_depth=6, min_samples_leaf=10, random_state=0)
    forest.fit(features, good)
    arrays, onnx = folder / "forest.safetensors", folder / "forest.onnx"
    Classifier(forest_arrays(forest), 1.0, 0.0).save(arrays)
    onnx.write_bytes(to_onnx(forest, features[:1], options={"zipmap": False}).SerializeToString())

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx, options)
    model = Classifier.load(arrays).model
    assert isinstance(model, Forest)
    thousand = features[:1000]
    by_onnx = session.run(None, {"X": thousand})[1][:, 1]
    assert np.allclose(by_onnx, model.scores(thousand.astype(np.float64)), atol=1e-5)
    seconds = timed(
        {
            "arrays load": lambda: Classifier.load(arrays),
            "onnx load": lambda: onnxruntime.InferenceSession(onnx, options),
            "arrays 1": lambda: model.scores(features[:1].astype(np.float64)),
            "onnx 1": lambda: session.run(None, {"X": features[:1]}),
            "arrays 1000": lambda: model.scores(thousand.astype(np.float64)),
            "onnx 1000": lambda: session.run(None, {"X": thousand}),
        }
    )
    return {
        kind: {
            "kb": path.stat().st_size / 1e3,
            "load_ms": seconds[f"{kind} load"] * 1e3,
            "predict_1_ms": seconds[f"{kind} 1"] * 1e3,
            "predict_1000_ms": seconds[f"{kind} 1000"] * 1e3,
        }
        for kind, path in (("arrays", arrays), ("onnx", onnx))
    }


def compare_jobs(index: Index, examples: list[Any]) -> dict[str, float]:
    """Seconds to answer `examples` in one process and in chunks on two."""
    params = load_params(Path("params.yaml"))

    def answering(jobs: int) -> Callable[[], Any]:
        settings = params.baseline.model_copy(update={"jobs": jobs})
        chosen = params.model_copy(update={"baseline": settings})
        return lambda: answer_all(chosen, index, examples, None)

    return timed({"1 process": answering(1), "2 processes": answering(2)})


def main() -> None:
    """Measure, print a table, and write JSON where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="write benchmarks/baseline.json")
    arguments = parser.parse_args()
    train = _io.read_jsonl(PREPARED / "train.jsonl")
    test = _io.read_jsonl(PREPARED / "calibration.jsonl")
    data = _io.read_json(PREPARED / "slots.json")
    schema = SlotSchema.from_dict(data) if data else None
    max_features = load_params(Path("params.yaml")).baseline.max_features
    index = build_index(train, schema, max_features)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = {
            "prompts": {"train": len(train), "asked": len(test)},
            "index": compare_dtypes(index, test, schema, folder),
            "vectoriser_output_s": compare_loading(train, schema, max_features, folder),
            "forest": compare_classifiers(folder),
            "batch_s": compare_jobs(index, test),
        }
    json.dump(results, sys.stdout, indent=2)
    print()
    stored, refitted = results["vectoriser_output_s"].values()
    print(f"stored index loads in {stored / refitted:.2f} of the time it takes to fit it again")
    one, two = results["batch_s"].values()
    print(f"two processes answer in {two / one:.2f} of the time of one")
    if arguments.write:
        _io.write_json(Path("benchmarks/baseline.json"), results)


if __name__ == "__main__":
    main()
