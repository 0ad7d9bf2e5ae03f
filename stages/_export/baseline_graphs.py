"""The numbers of the baseline as two ONNX graphs: search by TF-IDF, and the confidence.

Retrieval   terms, strings [rows, longest] with "" where there are none
            -> similarities, float32, and places, int64, of the nearest prompts [rows, nearest]
Confidence  features, float32 [rows, features] -> confidence, float32 [rows, 1]

Both are put together from ONNX's own operators, since what is kept of scikit-learn's models are
plain arrays (serving/_retrieval.py, serving/_classifier.py), which no converter takes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from serving._classifier import SCORE_MARGIN, Classifier, Forest, Linear
from serving._retrieval import Index
from serving.errors import StillhouseError

OPSET, ML_OPSET, IR_VERSION = 18, 3, 8
LARGEST_BYTES = 1_000_000_000
"""Of the matrix, every weight in float32: ONNX has no sparse product."""

Array = NDArray[Any]


class Graph:
    """Nodes and constants that become one ONNX model; every step is named after its result."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, name: str, value: Array) -> str:
        """A constant of the graph."""
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def number(self, value: float) -> str:
        """A float32 constant without dimensions."""
        return self.constant(f"number_{len(self._constants)}", np.array(value, np.float32))

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node with one output, which it returns."""
        self._nodes.append(helper.make_node(operator, inputs, output.split(), **attributes))
        return output

    def write(self, path: Path, inputs: list[Any], outputs: list[Any]) -> None:
        """Check the graph and write it."""
        graph = helper.make_graph(self._nodes, path.stem, inputs, outputs, self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)


def write_retrieval(index: Index, nearest: int, path: Path) -> None:
    """Write the search for the `nearest` training prompts.

    Raises:
        StillhouseError: the matrix is too large for a graph.
    """
    matrix: Any = index.neighbours._fit_X
    if (size := 4 * matrix.shape[0] * matrix.shape[1]) > LARGEST_BYTES:
        raise StillhouseError(
            f"the baseline's index has {matrix.shape[0]:,} prompts of {matrix.shape[1]:,} terms, "
            f"{size / 1e9:.1f} GB as a graph, at most {LARGEST_BYTES / 1e9:.1f}. Lower "
            f"baseline.max_features, or export with --no-baseline."
        )
    graph = Graph()
    weights = _weigh(graph, index)
    dense = matrix.toarray().astype(np.float32)
    norms = np.linalg.norm(dense, axis=1, keepdims=True)
    dense /= np.where(norms > 0, norms, 1)
    rows = graph.constant("rows", dense.T)  # [terms, prompts]
    cosines = graph.add("MatMul", [weights, rows], "cosines")
    count = graph.constant("nearest", np.array([nearest], np.int64))
    graph.add("TopK", [cosines, count], "similarities places", axis=1, largest=1, sorted=1)
    graph.write(
        path,
        [helper.make_tensor_value_info("terms", TensorProto.STRING, ["rows", "longest"])],
        [
            helper.make_tensor_value_info("similarities", TensorProto.FLOAT, ["rows", nearest]),
            helper.make_tensor_value_info("places", TensorProto.INT64, ["rows", nearest]),
        ],
    )


def _weigh(graph: Graph, index: Index) -> str:
    """TF-IDF weights of the terms, as scikit-learn has them with `sublinear_tf`: unit vectors."""
    counts = graph.add("TfIdfVectorizer", ["terms"], "counts", mode="TF", **_pool(index))
    some = graph.add("Greater", [counts, graph.number(0.0)], "some")
    safe = graph.add("Max", [counts, graph.number(1.0)], "safe")
    logs = graph.add("Log", [safe], "logs")
    grown = graph.add("Add", [logs, graph.number(1.0)], "grown")
    damped = graph.add("Where", [some, grown, graph.number(0.0)], "damped")
    idf = graph.constant("idf", index.vectoriser.idf_.astype(np.float32))
    raw = graph.add("Mul", [damped, idf], "raw")
    axes = graph.constant("axes", np.array([1], np.int64))
    norm = graph.add("ReduceL2", [raw, axes], "norm", keepdims=1)
    # a prompt without a known term has no direction, and stays nothing
    least = graph.add("Max", [norm, graph.number(1e-12)], "least")
    return graph.add("Div", [raw, least], "weights")


def _pool(index: Index) -> dict[str, Any]:
    """The vocabulary as TfIdfVectorizer takes it: single terms, then pairs, and their columns."""
    terms = sorted(index.vectoriser.vocabulary_.items(), key=lambda item: item[1])
    singles = [(term, column) for term, column in terms if " " not in term]
    pairs = [(term, column) for term, column in terms if " " in term]
    strings = [term for term, _ in singles]
    strings += [word for pair, _ in pairs for word in pair.split(" ")]
    return {
        "min_gram_length": 1,
        "max_gram_length": 2 if pairs else 1,
        "max_skip_count": 0,
        "ngram_counts": [0, len(singles)] if pairs else [0],
        "ngram_indexes": [column for _, column in [*singles, *pairs]],
        "pool_strings": strings,
    }


def write_confidence(classifier: Classifier, features: int, path: Path) -> None:
    """Write the model of the confidence with its calibration."""
    graph = Graph()
    match classifier.model:
        case Linear():
            score = _score_linear(graph, classifier.model)
        case Forest():
            score = _score_forest(graph, classifier.model)
    low, high = graph.number(SCORE_MARGIN), graph.number(1 - SCORE_MARGIN)
    clipped = graph.add("Clip", [score, low, high], "clipped")
    rest = graph.add("Sub", [graph.number(1.0), clipped], "rest")
    odds = graph.add("Div", [clipped, rest], "odds")
    log_odds = graph.add("Log", [odds], "log_odds")
    scaled = graph.add("Mul", [log_odds, graph.number(classifier.slope)], "scaled")
    moved = graph.add("Add", [scaled, graph.number(classifier.offset)], "moved")
    graph.add("Sigmoid", [moved], "confidence")
    graph.write(
        path,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", features])],
        [helper.make_tensor_value_info("confidence", TensorProto.FLOAT, ["rows", 1])],
    )


def _score_linear(graph: Graph, model: Linear) -> str:
    mean = graph.constant("mean", model.mean.astype(np.float32))
    scale = graph.constant("scale", model.scale.astype(np.float32))
    weights = graph.constant("weights", model.weights.astype(np.float32)[:, None])
    centred = graph.add("Sub", ["features", mean], "centred")
    standardised = graph.add("Div", [centred, scale], "standardised")
    products = graph.add("MatMul", [standardised, weights], "products")
    total = graph.add("Add", [products, graph.number(float(model.intercept[0]))], "total")
    return graph.add("Sigmoid", [total], "score")


def _score_forest(graph: Graph, model: Forest) -> str:
    """Mean of the trees' leaves. Numbers of nodes begin anew in each tree."""
    trees = np.searchsorted(model.roots, np.arange(len(model.feature)), side="right") - 1
    numbers = np.arange(len(model.feature)) - model.roots[trees]
    leaf = model.left == np.arange(len(model.left))
    values = np.where(leaf, 0.0, _round_down(model.threshold)).astype(np.float32)
    return graph.add(
        "TreeEnsembleRegressor",
        ["features"],
        "score",
        domain="ai.onnx.ml",
        n_targets=1,
        aggregate_function="AVERAGE",
        post_transform="NONE",
        nodes_treeids=trees.tolist(),
        nodes_nodeids=numbers.tolist(),
        nodes_modes=["LEAF" if ends else "BRANCH_LEQ" for ends in leaf],
        nodes_featureids=np.where(leaf, 0, model.feature).tolist(),
        nodes_values=values.tolist(),
        nodes_truenodeids=np.where(leaf, 0, model.left - model.roots[trees]).tolist(),
        nodes_falsenodeids=np.where(leaf, 0, model.right - model.roots[trees]).tolist(),
        target_treeids=trees[leaf].tolist(),
        target_nodeids=numbers[leaf].tolist(),
        target_ids=[0] * int(leaf.sum()),
        target_weights=model.value[leaf].astype(np.float32).tolist(),
    )


def _round_down(thresholds: Array) -> Array:
    """The largest float32 at or below each threshold: float32 features pass it as they did."""
    rounded = thresholds.astype(np.float32)
    below = np.nextafter(rounded, np.float32(-np.inf))
    return np.where(rounded > thresholds, below, rounded)
