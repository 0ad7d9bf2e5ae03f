"""What stands in front of a model's routes: lifecycle's gate, a key where it is alone, no pickle.

BentoML would load a pickle (_bentoml_impl/serde.py) from whoever reaches the process's socket, or
its port where there are no sockets (BENTOML_NO_UDS).
"""

import json
import os
from collections.abc import Callable, Mapping

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving._items import ServiceError
from serving._keys import Key, Keyring, identify, open_keyring
from serving._lifecycle import Lifecycle
from serving._observing import Observers, show_metrics
from serving._openai_errors import error_response
from serving._probes import READY, LifecycleGate

PICKLE = "application/vnd.bentoml+pickle"
METRICS = "/metrics"
STARTED_TOGETHER = "BENTOML_RUNNER_MAP"
THIS_MACHINE = Key(id="0" * 12, tenant="local", sha256="0" * 64)


def guard_model(app: ASGIApp, lifecycle: Lifecycle, observers: Callable[[], Observers]) -> ASGIApp:
    """What stands before a model's routes; called when the server starts.

    Raises:
        StillhouseError: the keys of a model that runs alone are wrong.
    """
    guarded: ASGIApp = RefusePickle(app)
    if runs_alone(os.environ):
        guarded = AdmitEntry(guarded, open_keyring(os.environ), observers)
    return LifecycleGate(guarded, lifecycle)


def runs_alone(environment: Mapping[str, str]) -> bool:
    """Whether no entry has started this process, so that it listens on a port of its own.

    `bentoml serve` tells each process the services that it has started, the first one included.
    """
    return len(json.loads(environment.get(STARTED_TOGETHER) or "{}")) < 2


class AdmitEntry:
    """Lets in who shows a key for the path; without any key, this machine alone.

    /metrics is answered here: where a model has an entry, its series are the entry's to show.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, observers: Callable[[], Observers]) -> None:
        self.app, self.keyring = app, keyring
        self.metrics = show_metrics(observers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may come in; probes always may."""
        if scope["type"] != "http" or scope["path"] == READY:
            await self.app(scope, receive, send)
            return
        app = self.app
        try:
            identify(scope, self.keyring, THIS_MACHINE)
            if scope["path"] == METRICS:
                app = await self.metrics(Request(scope))
        except ServiceError as error:
            app = error_response(error, "")
        await app(scope, receive, send)


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
