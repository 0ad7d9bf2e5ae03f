"""What stands in front of a model's routes: lifecycle's gate, and no pickle.

BentoML would load one (_bentoml_impl/serde.py) from whoever reaches the process's socket, or its
port where there are no sockets (BENTOML_NO_UDS).
"""

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving._lifecycle import Lifecycle
from serving._probes import LifecycleGate

PICKLE = "application/vnd.bentoml+pickle"


def guard_model(app: ASGIApp, lifecycle: Lifecycle) -> ASGIApp:
    """What stands before a model's routes."""
    return LifecycleGate(RefusePickle(app), lifecycle)


class RefusePickle:
    """Answers 415 to a pickled body, before anybody reads it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is no pickle."""
        app = self.app
        if scope["type"] == "http":
            kind = Headers(scope=scope).get("content-type", "")
            if kind.partition(";")[0].strip().lower() == PICKLE:
                app = PlainTextResponse("send JSON\n", 415)
        await app(scope, receive, send)
