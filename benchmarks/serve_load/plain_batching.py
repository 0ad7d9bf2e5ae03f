"""Peer: BentoML's adaptive batching as its documentation has it, with our engine and no batcher.

    LOAD_MODEL=models/winner bentoml serve benchmarks.serve_load.plain_batching:PlainBatching

Batching has BentoML's own settings; a batch goes to the predictor whole, in order of arrival.
"""

import os
from pathlib import Path
from typing import Any

import bentoml

# As in our service: neither may cost one side of a comparison what it does not cost the other.
QUIET: Any = {"metrics": {"enabled": False}, "logging": {"access": {"enabled": False}}}


@bentoml.service(name="plain_batching", traffic={"timeout": 600}, **QUIET)
class PlainBatching:
    """Answers whatever the dispatcher put together."""

    def __init__(self) -> None:
        from serving.predictor import load

        tokens = int(os.environ["LOAD_TOKENS"])
        self.predictor = load(Path(os.environ["LOAD_MODEL"]), {"max_new_tokens": tokens})

    @bentoml.api(route="/generate", batchable=True)
    def generate(self, prompts: list[str]) -> list[dict[str, Any]]:
        """The greedy answers, and how many tokens each has."""
        from serving.completion import Request

        found = self.predictor.answer([Request(prompt) for prompt in prompts])
        return [{"text": a.text, "completion_tokens": a.completion_tokens} for a in found]
