"""Peer: `generate()` of transformers behind BentoML's HTTP layer, one request at a time.

    LOAD_MODEL=models/student bentoml serve benchmarks.serve_load.one_at_a_time:OneAtATime

What a first version of such a service looks like: the library's own call in fp32 with SDPA, and a
lock, since `generate()` is not to be called twice at once.
"""

import os
import threading
from pathlib import Path
from typing import Any

import bentoml

# As in our service: neither may cost one side of a comparison what it does not cost the other.
QUIET: Any = {"metrics": {"enabled": False}, "logging": {"access": {"enabled": False}}}


@bentoml.service(name="one_at_a_time", traffic={"timeout": 600}, **QUIET)
class OneAtATime:
    """Answers one prompt after the other."""

    def __init__(self) -> None:
        from benchmarks._engine_variants import plain_variant

        tokens = int(os.environ["LOAD_TOKENS"])
        self.answer = plain_variant(Path(os.environ["LOAD_MODEL"]), tokens)
        self.lock = threading.Lock()

    @bentoml.api(route="/generate")
    def generate(self, prompt: str) -> dict[str, Any]:
        """The greedy answer, and how many tokens it has."""
        from serving.completion import Request

        with self.lock:
            found = self.answer([Request(prompt)])
        return {"text": found.texts[0], "completion_tokens": found.tokens}
