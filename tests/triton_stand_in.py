"""What Triton's Python backend gives a model.py, in this process; ONNX models by onnxruntime.

Only what our models use of triton_python_backend_utils, by the names and rules of Triton's own.
"""

import importlib.util
import sys
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime


def model_configuration() -> ModuleType:
    """The protobuf of config.pbtxt, as Triton's own client ships it; its package wants gRPC."""
    path = distribution("tritonclient").locate_file("tritonclient/grpc/model_config_pb2.py")
    return _load("model_config_pb2", Path(str(path)))


def _load(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _sent(value: np.ndarray) -> np.ndarray:
    """As a client gets it: texts are bytes."""
    if value.dtype != np.object_:
        return value
    return np.array([str(text).encode() for text in value.ravel()]).reshape(value.shape)


class Tensor:
    """A named array."""

    def __init__(self, name: str, value: np.ndarray) -> None:
        assert value.flags.c_contiguous
        self._name, self._value = name, value

    def name(self) -> str:
        """Its name."""
        return self._name

    def as_numpy(self) -> np.ndarray:
        """Its array; strings are bytes."""
        return self._value


class TritonError:
    """A message."""

    def __init__(self, message: str) -> None:
        self._message = message

    def message(self) -> str:
        """Its text."""
        return self._message

    __str__ = message


class InferenceResponse:
    """Outputs, or an error."""

    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        self._tensors, self._error = output_tensors, error

    def output_tensors(self) -> list[Tensor]:
        """Outputs."""
        return self._tensors

    def has_error(self) -> bool:
        """Whether there is an error."""
        return self._error is not None

    def error(self) -> TritonError | None:
        """The error."""
        return self._error


class Triton:
    """A model repository whose models can be asked, for the length of a with block."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def __enter__(self) -> "Triton":
        sys.modules["triton_python_backend_utils"] = self._library()
        return self

    def __exit__(self, *_: object) -> None:
        del sys.modules["triton_python_backend_utils"]

    def infer(self, model: str, prompts: list[list[str]]) -> list[Any]:
        """Ask a Python model all requests in one call; a dict of arrays for each, or the error."""
        path = self._repository / model / "1" / "model.py"
        program = _load(f"triton_{model}", path).TritonPythonModel()
        program.initialize({"model_name": model})
        requests = [
            [Tensor("prompt", np.array([[text.encode()] for text in texts], np.object_))]
            for texts in prompts
        ]
        responses = program.execute(requests)
        assert len(responses) == len(requests)
        return [
            response.error()
            or {tensor.name(): _sent(tensor.as_numpy()) for tensor in response.output_tensors()}
            for response in responses
        ]

    def _library(self) -> ModuleType:
        library = ModuleType("triton_python_backend_utils")
        library.Tensor, library.TritonError = Tensor, TritonError
        library.InferenceResponse = InferenceResponse
        library.InferenceRequest = self._request
        library.TRITONSERVER_MEMORY_CPU = 0
        library.PreferredMemory = lambda memory, device: (memory, device)
        library.get_input_tensor_by_name = lambda request, name: next(
            (tensor for tensor in request if tensor.name() == name), None
        )
        return library

    def _request(
        self,
        model_name: str,
        requested_output_names: list[str],
        inputs: list[Tensor],
        preferred_memory: Any,
    ) -> Any:
        def run() -> InferenceResponse:
            if model_name not in self._sessions:
                path = self._repository / model_name / "1" / "model.onnx"
                self._sessions[model_name] = onnxruntime.InferenceSession(path)
            feeds = {tensor.name(): tensor.as_numpy() for tensor in inputs}
            assert max(len(value) for value in feeds.values()) <= 16, "more than max_batch_size"
            for name, value in feeds.items():
                if value.dtype == np.object_:
                    assert all(isinstance(text, bytes) for text in value.ravel())
                    texts = [text.decode() for text in value.ravel()]
                    feeds[name] = np.array(texts, np.object_).reshape(value.shape)
            found = self._sessions[model_name].run(requested_output_names, feeds)
            pairs = zip(requested_output_names, found, strict=True)
            return InferenceResponse([Tensor(name, value) for name, value in pairs])

        return SimpleNamespace(exec=run)
