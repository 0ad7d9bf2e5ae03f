"""What BentoML takes to start a service that has nothing to load: the reference for start times.

bentoml serve benchmarks.serve_load.empty_service:Empty
"""

import bentoml


@bentoml.service(name="empty")
class Empty:
    """Answers what it is given."""

    @bentoml.api(route="/echo")
    def echo(self, prompt: str) -> str:
        """`prompt`."""
        return prompt
