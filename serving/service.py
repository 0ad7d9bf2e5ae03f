"""The HTTP service: for now the traditional baseline; the winner of the pipeline joins it.

    bentoml serve serving.service:Baseline
    curl -s localhost:3000/baseline -H 'content-type: application/json' \\
         -d '{"prompt": "service[checkout-api], metric[error rate], value[7.5 %]"}'

STILLHOUSE_BASELINE names another model folder than models/baseline.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.exceptions import InvalidArgument
from pydantic import Field

from serving.errors import StillhouseError
from serving.predictor import Request, load

MAX_PROMPT_CHARS = 20_000
Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]


@bentoml.service(name="stillhouse_baseline", traffic={"timeout": 30})
class Baseline:
    """Answers one prompt by retrieval, with the probability that the answer is good."""

    def __init__(self) -> None:
        self.predictor = load(Path(os.environ.get("STILLHOUSE_BASELINE", "models/baseline")))

    @bentoml.api(route="/baseline")
    def baseline(self, prompt: Prompt) -> dict[str, Any]:
        """Answer `prompt`; a record that cannot be parsed is a 400 with the reason."""
        try:
            completion = self.predictor.answer([Request(prompt)])[0]
        except StillhouseError as error:
            raise InvalidArgument(str(error)) from None
        return {"text": completion.text, "confidence": completion.confidence}
