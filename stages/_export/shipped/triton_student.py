"""Triton's Python backend: prompts in, answers out; each step is a request to `student_decoder`.

Triton puts the requests of its dynamic batcher into one call, and they are answered as one batch.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # Triton has it

from serving.completion import Completion
from serving.errors import StillhouseError
from stages._export.shipped.generate import DECODER, Array, Student, Tensors

OUTPUTS = ("text", "finish_reason", "completion_tokens", "mean_logprob")


def run_decoder(feeds: Tensors) -> Mapping[str, Array]:
    """One step, by the model of this server that is the graph."""
    names = [name.replace("past_key_values", "present") for name in feeds if "past" in name]
    request = pb_utils.InferenceRequest(
        model_name=DECODER,
        requested_output_names=["logits", *names],
        inputs=[pb_utils.Tensor(name, np.ascontiguousarray(v)) for name, v in feeds.items()],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    )
    response = request.exec()
    if response.has_error():
        raise RuntimeError(f"{DECODER}: {response.error().message()}")
    return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}


class TritonPythonModel:
    """What Triton looks for."""

    def initialize(self, _: Mapping[str, str]) -> None:
        """Read tokenizer and contract, which lie beside this file."""
        self.student = Student(Path(__file__).parent / "student", run_decoder)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in their order; a wrong prompt spoils only its own."""
        encoded: list[list[list[int]] | StillhouseError] = []
        for request in requests:
            try:
                encoded.append([self.student.encode(*one) for one in read_rows(request)])
            except StillhouseError as error:
                encoded.append(error)
        rows = [ids for one in encoded if not isinstance(one, StillhouseError) for ids in one]
        answers = iter(self.student.answer(rows))
        return [
            refuse(one) if isinstance(one, StillhouseError) else tell([next(answers) for _ in one])
            for one in encoded
        ]


def read_rows(request: Any) -> list[tuple[str, str | None]]:
    """Prompt and context of each row of a request."""
    columns = [pb_utils.get_input_tensor_by_name(request, name) for name in ("prompt", "context")]
    texts = [
        None if column is None else [value.decode() for value in column.as_numpy().ravel()]
        for column in columns
    ]
    prompts, contexts = texts[0] or [], texts[1]
    return list(zip(prompts, contexts or [None] * len(prompts), strict=True))


def tell(answers: list[Completion]) -> Any:
    """A response with a row for each answer."""
    kinds = (np.object_, np.object_, np.int32, np.float32)
    columns: list[Array] = [
        np.array([[getattr(answer, name)] for answer in answers], kind)
        for name, kind in zip(OUTPUTS, kinds, strict=True)
    ]
    tensors = [pb_utils.Tensor(n, values) for n, values in zip(OUTPUTS, columns, strict=True)]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def refuse(error: StillhouseError) -> Any:
    """A response that says what is wrong with the prompt."""
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error)))
