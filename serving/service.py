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

from serving.completion import Request
from serving.errors import StillhouseError
from serving.predictor import load

Prompt = Annotated[str, Field(min_length=1)]


# Loopback unless BENTOML_HOST says otherwise: there is no key yet that would guard more.
@bentoml.service(name="stillhouse_baseline", traffic={"timeout": 30}, http={"host": "127.0.0.1"})
class Baseline:
    """Answers one prompt by retrieval, with the probability that the answer is good."""

    def __init__(self) -> None:
        self.predictor = load(Path(os.environ.get("STILLHOUSE_BASELINE", "models/baseline")))

    @bentoml.api(route="/baseline")
    def baseline(
        self, prompt: Prompt, slots: dict[str, str] | None = None, context: str | None = None
    ) -> dict[str, Any]:
        """Answer `prompt`; a record that cannot be parsed or a text too long is a 400."""
        limit = self.predictor.contract.limits["max_prompt_chars"]
        if len(prompt) + len(context or "") > limit:
            raise InvalidArgument(f"prompt and context are longer than {limit:,} characters")
        try:
            completion = self.predictor.answer([Request(prompt, slots, context)])[0]
        except StillhouseError as error:
            raise InvalidArgument(str(error)) from None
        return {"text": completion.text, "confidence": completion.confidence}
