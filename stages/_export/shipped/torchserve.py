"""A handler for TorchServe: the student by onnxruntime, in the worker's own process.

A request's body is the prompt or, as application/json, {"prompt": …, "context": …}. TorchServe
batches requests (`batchSize`, `maxBatchDelay` of a model) and gives them to `handle` together.
"""

from pathlib import Path
from typing import Any

from serving.completion import Completion
from serving.errors import StillhouseError
from stages._export.shipped.generate import open_student

Encoded = list[int] | StillhouseError


class StudentService:
    """The one class of this file, which TorchServe makes and calls."""

    def initialize(self, context: Any) -> None:
        """Load the model that was archived with this file."""
        self.student = open_student(Path(context.system_properties["model_dir"]) / "student")

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """An answer for each request of a batch, in their order."""
        encoded = self.preprocess(data)
        for place, one in enumerate(encoded):
            if isinstance(one, StillhouseError):
                context.set_response_status(code=400, phrase="Bad Request", idx=place)
        return self.postprocess(encoded, self.inference(encoded))

    def preprocess(self, data: list[dict[str, Any]]) -> list[Encoded]:
        """Token ids of each request's prompt, or what is wrong with it."""
        encoded: list[Encoded] = []
        for row in data:
            try:
                encoded.append(self.student.encode(*read_body(row)))
            except StillhouseError as error:
                encoded.append(error)
        return encoded

    def inference(self, encoded: list[Encoded]) -> list[Completion]:
        """Answers to the prompts that can be answered, in one batch."""
        return self.student.answer([ids for ids in encoded if not isinstance(ids, StillhouseError)])

    def postprocess(
        self, encoded: list[Encoded], completions: list[Completion]
    ) -> list[dict[str, Any]]:
        """What each request gets."""
        answers = iter(completions)
        return [
            {"error": str(one)} if isinstance(one, StillhouseError) else tell(next(answers))
            for one in encoded
        ]


def read_body(row: dict[str, Any]) -> tuple[str, str | None]:
    """Prompt and context of one request.

    Raises:
        StillhouseError: there is no prompt in it.
    """
    body: Any = row.get("body", row.get("data"))
    if isinstance(body, bytes | bytearray):
        body = bytes(body).decode("utf-8", "replace")
    if isinstance(body, str):
        return body, None
    prompt = body.get("prompt") if isinstance(body, dict) else None
    if not isinstance(prompt, str):
        raise StillhouseError('the body has no prompt, expected text or {"prompt": "…"}. Add it.')
    context = body.get("context")
    return prompt, context if isinstance(context, str) else None


def tell(completion: Completion) -> dict[str, Any]:
    """An answer as TorchServe sends it."""
    names = ("text", "finish_reason", "completion_tokens", "mean_logprob")
    return {name: getattr(completion, name) for name in names}
