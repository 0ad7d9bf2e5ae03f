"""Bodies of /generate, /cascade, /baseline and /compare, checked before BentoML sees them.

BentoML would answer a wrong body in a form of its own, with 400, and log pydantic's message, which
quotes what was sent. Here it gets the protocol's error form and 422, and nothing is quoted.
"""

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving._decoding import Method
from serving._items import Prompt, ServiceError, Slots
from serving._leaving import until_gone
from serving._observing import record_of
from serving._openai_bodies import read_object
from serving._openai_errors import RequestError, error_response
from serving._openai_requests import Asked
from serving._openai_routes import request_id
from serving._responses.keys import cacheable

LEFT = 499  # nobody sees it; what others call the status of a caller who left
Fields = Iterable[str]


class AskBody(BaseModel):
    """A prompt, with its context and record where there are any."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    prompt: Prompt
    context: str | None = None
    slots: Slots | None = None


class AskedDecoding(BaseModel):
    """The settings of serving/_decoding.py that a caller may choose; null: the contract's.

    Without those that are about memory (cache, batch_tokens): they are the service's own.
    """

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    max_new_tokens: int | None = Field(None, ge=1)
    method: Method | None = None
    beams: int | None = Field(None, ge=1)
    length_penalty: float | None = Field(None, allow_inf_nan=False)
    temperature: float | None = Field(None, gt=0, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**64)
    answers: int | None = Field(None, ge=1)


class GenerateBody(AskBody):
    """A prompt for the student, and how it is to be answered."""

    decoding: AskedDecoding = Field(default_factory=AskedDecoding)
    """Settings in place of the contract's."""
    answers: int = Field(1, ge=1)
    """Different answers that are asked for [count]."""


BODIES: Mapping[str, type[AskBody]] = {
    "/generate": GenerateBody,
    "/cascade": AskBody,
    "/baseline": AskBody,
    "/compare": AskBody,
}


class CheckNativeBodies:
    """Refuses wrong bodies of the native routes; everything else is passed on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a native body, check it, and let the route read it again."""
        body = BODIES.get(scope["path"]) if scope["type"] == "http" else None
        if body is None:
            await self.app(scope, receive, send)
            return
        if scope["method"] != "POST":
            await refuse_method(scope, receive, send)
            return
        message = await receive()  # whole: admission has read it
        try:
            check_body(body, Headers(scope=scope), message.get("body", b""))
        except ServiceError as error:
            record_of(scope).refusal = error.refusal
            response = error_response(error, request_id(scope.setdefault("state", {})))
            await response(scope, receive, send)
            return
        await self.app(scope, replay(message, receive), send)


def replay(message: Message, receive: Receive) -> Receive:
    """Receives `message` once more, and then what else comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return message

    return again


async def refuse_method(scope: Scope, receive: Receive, send: Send) -> None:
    """Here, since the entry's mount matches every path and leaves no router to say so."""
    fault = RequestError("this path takes POST. Use it.", "method_not_allowed", 405)
    record_of(scope).refusal = fault.refusal
    identifier = request_id(scope.setdefault("state", {}))
    await error_response(fault, identifier, {"allow": "POST"})(scope, receive, send)


def check_body(body: type[AskBody], headers: Mapping[str, str], content: bytes) -> None:
    """Refuse what is no such body.

    Raises:
        ServiceError: invalid_request, naming the first field at fault.
    """
    check_data(body, read_object(headers, content))


def check_data(body: type[BaseModel], data: Mapping[str, Any]) -> None:
    """The same for a body that was read.

    Raises:
        ServiceError: as `check_body`.
    """
    try:
        body.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place, fields = _known_place(body, first["loc"])
        unknown = first["type"] == "extra_forbidden"
        problem = f"a field is unknown; known: {', '.join(fields)}" if unknown else first["msg"]
        fault = f"{place}: {problem}" if place else problem
        raise ServiceError("invalid_request", f"{fault}. Correct it.", parameter=place) from None


def _known_place(body: type[BaseModel], location: Sequence[int | str]) -> tuple[str | None, Fields]:
    """Where a fault is, as far as the names are ours, and the fields that there are."""
    outer, inner = (*location, None, None)[:2]
    if outer not in body.model_fields:
        return None, body.model_fields
    if outer != "decoding":
        return str(outer), body.model_fields
    known = AskedDecoding.model_fields
    return (f"decoding.{inner}" if inner in known else "decoding"), known


def native_asked(
    prompt: str,
    context: str | None = None,
    slots: Slots | None = None,
    decoding: Mapping[str, Any] | None = None,
    answers: int = 1,
) -> Asked:
    """What a native request asks, in the terms of the OpenAI routes."""
    return Asked(
        chat=False,
        model="student",
        prompts=(prompt,),
        turns=(),
        context=context,
        slots=slots,
        decoding={name: value for name, value in (decoding or {}).items() if value is not None},
        answers=answers,
        candidates=answers,
        stop=(),
        stream=False,
        include_usage=False,
        user=None,
        repeatable=cacheable(decoding or {}),
    )


class Status(Protocol):
    """What BentoML gives the response of a method that takes its context."""

    status_code: int


async def reply(
    request: Request, response: Status, work: Coroutine[Any, Any, dict[str, Any]]
) -> Any:
    """What `work` gives, or the response of its refusal; it is cancelled when the caller leaves."""
    found: dict[str, Any] = {}

    async def keep() -> None:
        found.update(await work)

    try:
        await until_gone(request.receive, keep())
    except ClientDisconnect:
        response.status_code = LEFT
        return Response(status_code=LEFT)
    except ServiceError as error:
        record_of(request.scope).refusal = error.refusal
        response.status_code = error.status  # or BentoML puts its own, 200, over the refusal's
        return error_response(error, request_id(request.scope["state"]))
    return found
