"""Bodies of SageMaker's /invocations and Azure ML's /score: those of routes that there are.

Either cloud has one path for all; what is in the body says which of ours it is for, and that route
checks and answers it: a chat's, streams too, if it has `messages`, and else /generate's.
"""

import json

from starlette.types import ASGIApp, Receive, Scope, Send

from serving._native import refuse_method, replay

CHAT, NATIVE = "/v1/chat/completions", "/generate"


class AskByBody:
    """Passes what comes at `path` on to the route whose body it is."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        """`app` has the routes; admission is in front, so a body comes whole."""
        self.app, self.path = app, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look into the body, and let the route read it again."""
        if scope["type"] != "http" or scope["path"] != self.path:
            await self.app(scope, receive, send)
        elif scope["method"] != "POST":
            await refuse_method(scope, receive, send)
        else:
            message = await receive()
            path = CHAT if is_chat(message.get("body", b"")) else NATIVE
            await self.app({**scope, "path": path}, replay(message, receive), send)


def is_chat(body: bytes) -> bool:
    """Whether a body has messages; one that is no JSON has none, and is for a route to refuse."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and "messages" in data
