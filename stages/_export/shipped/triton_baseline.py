"""Triton's Python backend: the baseline's own predictor, its numbers by two ONNX models."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton has it

from serving.completion import Completion, Request
from serving.errors import StillhouseError
from stages._export.shipped.retrieve import CONFIDENCE, RETRIEVAL, Array, open_baseline


def run(model: str, name: str, value: Array, outputs: list[str]) -> list[Array]:
    """Outputs of another model of this server for one input."""
    request = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=outputs,
        inputs=[pb_utils.Tensor(name, value)],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    response = request.exec()
    if response.has_error():
        raise RuntimeError(f"{model}: {response.error().message()}")
    found = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
    return [found[output] for output in outputs]


def search(terms: Array) -> tuple[Array, Array]:
    """The nearest training prompts."""
    encoded = np.array([[term.encode() for term in row] for row in terms], np.object_)
    similarities, places = run(RETRIEVAL, "terms", encoded, ["similarities", "places"])
    return similarities, places


def judge(features: Array) -> Array:
    """How likely each answer is good."""
    return run(CONFIDENCE, "features", features, ["confidence"])[0]


class TritonPythonModel:
    """What Triton looks for."""

    def initialize(self, _: Mapping[str, str]) -> None:
        """Read the baseline's folder, which lies beside this file."""
        self.predictor = open_baseline(Path(__file__).parent / "baseline", search, judge)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in their order; a wrong prompt spoils only its own."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        prompts = pb_utils.get_input_tensor_by_name(request, "prompt").as_numpy().ravel()
        try:
            answers = self.predictor.answer([Request(prompt.decode()) for prompt in prompts])
        except StillhouseError as error:
            return pb_utils.InferenceResponse(
                output_tensors=[], error=pb_utils.TritonError(str(error))
            )
        return tell(answers)


def tell(answers: list[Completion]) -> Any:
    """A response with a row for each answer."""
    texts = np.array([[answer.text] for answer in answers], np.object_)
    confidences = np.array([[answer.confidence] for answer in answers], np.float32)
    tensors = [pb_utils.Tensor("text", texts), pb_utils.Tensor("confidence", confidences)]
    return pb_utils.InferenceResponse(output_tensors=tensors)
