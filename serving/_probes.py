"""The outermost ASGI layer: /livez, /readyz, the count of what is under way, and always an answer.

BentoML's own routes come before anything that is mounted, so the probes are answered in front of
them. Where this process is ready, /readyz is BentoML's, which asks the services depended on too.

BentoML's TimeoutMiddleware, outside of this, waits for a first byte and for nothing else: a request
that ends without one would live on in it for its whole timeout, and keep the server from stopping.
So a route that raises is answered with a 500, and one that says nothing, because its caller left,
with a bare 499, which the server drops.
"""

import asyncio
import json
import logging
import traceback
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving._items import ServiceError
from serving._lifecycle import CUT, Lifecycle
from serving._observing import record_of
from serving._openai_errors import error_response

LIVE = ("/livez", "/healthz")
READY = "/readyz"
UNCOUNTED = (READY, "/metrics")
LEFT = 499  # nobody is there to read it; nginx's number for that
LOG = logging.getLogger(__name__)


class LifecycleGate:
    """Answers probes, counts what is under way, and ends what has no answer with one."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        """`lifecycle` is this process's."""
        self.app = app
        self.lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a probe, or count the request and pass it on."""
        state, path = self.lifecycle.state, scope.get("path")
        if scope["type"] == "http" and path in LIVE:
            await _say(send, 503 if state == "broken" else 200, self.lifecycle)
        elif scope["type"] == "http" and path == READY and state != "ready":
            await _say(send, 503, self.lifecycle)
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        elif path in UNCOUNTED:
            await self._pass_on(scope, receive, send)
        else:
            with self.lifecycle.working():
                await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Whatever comes of it, something is sent, unless the task is cancelled from outside."""
        begun = False

        async def closing(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(self._closed(message))

        try:
            await self.app(scope, receive, closing)
        except asyncio.CancelledError as cut:
            if begun or cut.args != (CUT,):
                raise
            await _say(closing, 503, self.lifecycle)
        except Exception as error:
            if begun:
                raise
            await _fail(scope, receive, closing, error)
        if not begun:
            empty = [(b"content-length", b"0")]
            await closing({"type": "http.response.start", "status": LEFT, "headers": empty})
            await closing({"type": "http.response.body", "body": b""})

    def _closed(self, message: Message) -> Message:
        """Close kept connections while it drains, so that the next request goes elsewhere."""
        if message["type"] != "http.response.start" or self.lifecycle.state != "draining":
            return message
        return {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}


async def _fail(scope: Scope, receive: Receive, send: Send, error: Exception) -> None:
    """A 500; the log tells kind and place alone, since the message may hold somebody's text."""
    identifier = record_of(scope).id or uuid.uuid4().hex
    frame = (traceback.extract_tb(error.__traceback__) or [None])[-1]
    place = f"{frame.filename}:{frame.lineno}" if frame else "unknown place"
    LOG.error("request %s failed: %s at %s", identifier, type(error).__name__, place)
    message = f"the service failed. Ask again, or report request {identifier}."
    await error_response(ServiceError("internal", message), identifier)(scope, receive, send)


async def _say(send: Send, status: int, lifecycle: Lifecycle) -> None:
    """The state as JSON."""
    said = {"state": lifecycle.state} | ({"why": w} if (w := lifecycle.why_broken) else {})
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(said).encode()})
