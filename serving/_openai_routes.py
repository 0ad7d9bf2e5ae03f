"""The routes of the OpenAI protocol, over whatever answers.

`build_app` gives a Starlette app to mount at "/". It owns the protocol: bodies, headers, streams,
errors; a `Backend` owns the models. Who calls, and whether they may, is settled in front of it
(admission), which leaves its findings in the request's state; they go to the backend untouched.

A caller who leaves takes the work along: what the backend is doing for them is cancelled at once,
streamed or not. Whatever fails ends in the protocol's own error form, and a fault of ours is
logged by its type and place alone, because its message may hold somebody's text.
"""

import json
import logging
import time
import traceback
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving._items import ServiceError
from serving._leaving import until_gone
from serving._observing import record_of
from serving._openai_bodies import check_accept, read_object
from serving._openai_errors import RequestError, as_json, error_body, error_response
from serving._openai_objects import ModelList
from serving._openai_requests import Asked, Limits, read_chat, read_completion
from serving._openai_responses import Answered, ModelCard, Reply, describe_model
from serving._openai_streams import Event, frames
from serving._sse import event, send_events

State = MutableMapping[str, Any]
"""The request's `scope["state"]`: what admission found, under "admitted"."""
LOG = logging.getLogger(__name__)


class _Anything(Convertor[str]):
    """The rest of a path, line breaks too, which Starlette's own `path` stops at."""

    regex = r"(?s:.*)"

    def convert(self, value: str) -> str:
        """As it is."""
        return value

    def to_string(self, value: str) -> str:
        """As it is."""
        return value


register_url_convertor("anything", _Anything())


class Backend(Protocol):
    """What answers. Every method may raise `ServiceError`; anything else is a fault of ours."""

    def models(self, state: State) -> Sequence[ModelCard]:
        """Models that this caller may ask for; at once, from memory."""
        ...

    async def answer(self, asked: Asked, state: State) -> Answered:
        """One answer per prompt; cancelled when the caller leaves."""
        ...

    def stream(self, asked: Asked, state: State) -> AsyncGenerator[Event, None]:
        """One `Begun`, then pieces of all choices, mixed as they come, and an `Ended` of each.

        Closed or cancelled as soon as nobody reads on: the caller left, or every choice met a
        stop text. Equal answers may be one, so that fewer choices come than were asked.
        """
        ...


def build_app(
    backend: Backend,
    limits: Limits | None = None,
    keep_alive_s: float | None = 15.0,
    openapi: dict[str, Any] | None = None,
) -> Starlette:
    """The app with /v1/chat/completions, /v1/completions and /v1/models.

    Args:
        limits: most that one request may ask; None: the defaults.
        keep_alive_s: a comment goes out after so long without an event [s]; None: never.
        openapi: document (serving/_openapi.py) to serve at /openapi.json, if any.
    """
    bounds = limits or Limits()
    chats = _Completions(backend, bounds, read_chat, keep_alive_s)
    texts = _Completions(backend, bounds, read_completion, keep_alive_s)
    routes = [
        Route("/v1/chat/completions", _Endpoint(("POST",), chats)),
        Route("/v1/completions", _Endpoint(("POST",), texts)),
        Route("/v1/models", _Endpoint(("GET", "HEAD"), _Models(backend))),
        Route("/v1/models/{id:anything}", _Endpoint(("GET", "HEAD"), _Model(backend))),
    ]
    if openapi is not None:
        routes.append(Route("/openapi.json", _Endpoint(("GET", "HEAD"), _Document(openapi))))
    # Last, because BentoML's mounts pass on what they do not match and would answer /v1/… in
    # another form. All routes match any method and refuse it themselves, or this one would win.
    routes.append(Route("/v1/{rest:anything}", _Endpoint((), _refuse_path)))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refuse_http})
    app.router.redirect_slashes = False
    return app


def direct_routes(app: Starlette) -> dict[str, ASGIApp]:
    """Apps of paths without parameters that check methods themselves, for who has the path and need
    not ask any router."""
    fixed = [route for route in app.routes if isinstance(route, Route) and "{" not in route.path]
    return {route.path: route.app for route in fixed if route.methods is None}


@dataclass
class _Call:
    """One request on its way through an endpoint."""

    scope: Scope
    receive: Receive
    sender: Send
    started: bool = False

    def __post_init__(self) -> None:
        self.state: State = self.scope.setdefault("state", {})
        self.request = Request(self.scope, self.receive)
        self.id = request_id(self.state)

    async def send(self, message: Message) -> None:
        """Send a part of the response."""
        self.started = True
        await self.sender(message)

    async def reply(self, content: str) -> None:
        """Send a whole response of JSON."""
        headers = {"x-request-id": self.id}
        response = Response(content, headers=headers, media_type="application/json")
        await response(self.scope, self.receive, self.send)

    async def refuse(self, error: ServiceError, headers: dict[str, str] | None = None) -> None:
        """Send a whole response of an error."""
        record_of(self.scope).refusal = error.refusal
        response = error_response(error, self.id, headers)
        await response(self.scope, self.receive, self.send)


Action = Callable[[_Call], Awaitable[None]]


class _Endpoint:
    """An ASGI app of one path: the methods it has, and every failure in the protocol's form."""

    def __init__(self, methods: tuple[str, ...], action: Action) -> None:
        """No `methods` stands for all."""
        self._methods = methods
        self._action = action

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = _Call(scope, receive, send)
        if self._methods and scope["method"] not in self._methods:
            allowed = ", ".join(self._methods)
            fault = f"this path takes {allowed}, found another method. Use {self._methods[0]}."
            await call.refuse(RequestError(fault, "method_not_allowed", 405), {"allow": allowed})
            return
        try:
            await self._action(call)
        except ClientDisconnect:
            return  # nobody is there to be answered
        except Exception as error:
            if call.started:
                return  # sending failed: nobody is there, and the stream's own faults were told
            await call.refuse(_refusal(error, call.id))


class _Completions:
    """Both routes that answer."""

    def __init__(
        self,
        backend: Backend,
        limits: Limits,
        read: Callable[[dict[str, Any], Limits], Asked],
        keep_alive_s: float | None,
    ) -> None:
        self._backend = backend
        self._limits = limits
        self._read = read
        self._keep_alive_s = keep_alive_s

    async def __call__(self, call: _Call) -> None:
        headers = call.request.headers
        data = read_object(headers, await call.request.body())
        asked = self._read(data, self._limits)
        check_accept(", ".join(headers.getlist("accept")) or None, asked.stream)
        model = find_model(self._backend, asked.model, call.state)
        unique = getattr(call.state.get("admitted"), "id", call.id)
        reply = Reply(unique, int(time.time()), model)
        work = self._stream if asked.stream else self._answer
        await until_gone(call.receive, work(call, asked, reply))

    async def _answer(self, call: _Call, asked: Asked, reply: Reply) -> None:
        answered = await self._backend.answer(asked, call.state)
        await call.reply(as_json(reply.whole(asked, answered)))

    async def _stream(self, call: _Call, asked: Asked, reply: Reply) -> None:
        def failed(error: Exception) -> bytes:
            refusal = _refusal(error, call.id)
            record_of(call.scope).refusal = refusal.refusal
            return event(as_json(error_body(refusal)))

        made = frames(asked, reply, self._backend.stream(asked, call.state))
        headers = {"x-request-id": call.id}
        await send_events(call.send, made, headers, failed, self._keep_alive_s)


@dataclass
class _Models:
    backend: Backend

    async def __call__(self, call: _Call) -> None:
        cards = [describe_model(card) for card in self.backend.models(call.state)]
        await call.reply(as_json(ModelList(object="list", data=cards)))


@dataclass
class _Model:
    backend: Backend

    async def __call__(self, call: _Call) -> None:
        card = find_model(self.backend, call.request.path_params["id"], call.state)
        await call.reply(as_json(describe_model(card)))


class _Document:
    def __init__(self, document: dict[str, Any]) -> None:
        self._content = json.dumps(document)

    async def __call__(self, call: _Call) -> None:
        await call.reply(self._content)


async def _refuse_path(call: _Call) -> None:
    there = "/v1/chat/completions, /v1/completions, /v1/models"
    await call.refuse(RequestError(f"no such path, there are: {there}.", "unknown_url", 404))


async def _refuse_http(request: Request, error: Exception) -> Response:
    """Errors of the router itself, when the app runs alone."""
    assert isinstance(error, HTTPException)
    fault = RequestError(f"{error.detail}. Check the path.", "unknown_url", error.status_code)
    return error_response(fault, request_id(request.scope.setdefault("state", {})))


def request_id(state: State) -> str:
    """The id in headers and logs: admission's, which may be the caller's own, or a new one."""
    given = getattr(state.get("admitted"), "request_id", None)
    return str(given or state.setdefault("request_id", uuid.uuid4().hex))


def find_model(backend: Backend, name: str, state: State) -> ModelCard:
    """The model with this id.

    Raises:
        ServiceError: the caller may ask for no such model.
    """
    cards = {card.id: card for card in backend.models(state)}
    if name not in cards:
        known = ", ".join(cards) or "none"
        raise ServiceError(
            "unknown_model", f"there is no such model, only: {known}. Ask for one.", None, "model"
        )
    return cards[name]


def _refusal(error: Exception, identifier: str) -> ServiceError:
    """A refusal as it is; anything else is logged, without its message, and becomes one."""
    if isinstance(error, ServiceError) and error.refusal != "internal":
        return error
    frame = (traceback.extract_tb(error.__traceback__) or [None])[-1]
    place = f"{frame.filename}:{frame.lineno}" if frame else "unknown place"
    LOG.error("request %s failed: %s at %s", identifier, type(error).__name__, place)
    message = f"the service failed. Ask again, or report request {identifier}."
    return ServiceError("internal", message)
