"""Vertex AI's predict: instances in, predictions out, in their order.

An instance is a body of /generate, a prediction its answer. What instances leave unsaid of decoding
and answers, `parameters` say for all. One instance that is refused refuses the request, because
Vertex AI has no form for a prediction that is none; the refusal names it. Each is accounted for by
itself, as if it had come alone, but all are one request and take one place in the queue.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving._admission import Admitted
from serving._entry_items import State
from serving._items import ServiceError
from serving._native import (
    AskedDecoding,
    GenerateBody,
    check_data,
    native_asked,
    refuse_method,
    reply,
)
from serving._observing import record_of
from serving._openai_bodies import read_object
from serving._openai_requests import Asked, Limits
from serving._queue_bound import Place
from serving._request_log import RequestRecord

MOST = Limits().prompts
"""Instances of one request [count]."""
Generate = Callable[[Asked, State], Awaitable[dict[str, Any]]]


class Parameters(BaseModel):
    """What holds for instances that do not say otherwise."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    decoding: AskedDecoding = Field(default_factory=AskedDecoding)
    answers: int = Field(1, ge=1)


class Instances(BaseModel):
    """A body of Vertex AI's predict."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    instances: list[GenerateBody] = Field(min_length=1, max_length=MOST)
    parameters: Parameters | None = None


class Predict:
    """The route: an ASGI app, since it is asked without any router."""

    def __init__(self, generate: Generate) -> None:
        """`generate` gives the native answer to one prompt."""
        self._generate = generate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; whoever leaves takes all of its instances along."""
        if scope["method"] != "POST":
            await refuse_method(scope, receive, send)
            return
        request = Request(scope, receive)
        body = await request.body()
        work = self._answer(request.headers, body, scope["state"])
        found = await reply(request, Response(), work)
        if not isinstance(found, Response):
            found = Response(json.dumps(found), media_type="application/json")
        await found(scope, receive, send)

    async def _answer(
        self, headers: Mapping[str, str], body: bytes, state: State
    ) -> dict[str, Any]:
        asked = [_asked(one) for one in read_instances(headers, body)]
        states = [_state_of(number, state) for number in range(len(asked))]
        work = [
            self._predict(number, one, part)
            for number, (one, part) in enumerate(zip(asked, states, strict=True))
        ]
        try:
            # a refusal waits for the others: cut off, they would be charged all that they reserved
            found = await asyncio.gather(*work, return_exceptions=True)
        finally:
            note_parts(record_of({"state": state}), [part["record"] for part in states])
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return {"predictions": found}

    async def _predict(self, number: int, asked: Asked, state: State) -> dict[str, Any]:
        try:
            return await self._generate(asked, state)
        except ServiceError as error:
            raise _named(f"instances.{number}", error) from None


def read_instances(headers: Mapping[str, str], body: bytes) -> list[dict[str, Any]]:
    """Bodies of /generate, with what `parameters` say for all.

    Raises:
        ServiceError: invalid_request, naming the first instance at fault.
    """
    data = read_object(headers, body)
    instances, parameters = data.get("instances"), data.get("parameters")
    for number, one in enumerate(instances if isinstance(instances, list) else ()):
        _check_part(f"instances.{number}", GenerateBody, one)
    _check_part("parameters", Parameters, parameters)
    check_data(Instances, data)
    return [{**(parameters or {}), **one} for one in data["instances"]]


def _check_part(place: str, body: type[BaseModel], data: Any) -> None:
    """A part's own fault is told by its own fields; one that is no object, by the whole's check."""
    if isinstance(data, dict):
        try:
            check_data(body, data)
        except ServiceError as error:
            raise _named(place, error) from None


def _asked(body: Mapping[str, Any]) -> Asked:
    names = ("context", "slots", "decoding")
    texts = {name: body.get(name) for name in names}
    return native_asked(body["prompt"], **texts, answers=body.get("answers", 1))


def _named(place: str, error: ServiceError) -> ServiceError:
    """A refusal that says whose it is."""
    field = f"{place}.{error.parameter}" if error.parameter else place
    return ServiceError(error.refusal, f"{place}: {error.message}", error.retry_after_s, field)


def _state_of(number: int, state: State) -> State:
    """An instance's own account in its request's state."""
    admitted: Admitted = state["admitted"]
    place = admitted.place and PartOfPlace(admitted.place)
    part = replace(admitted, id=f"{admitted.id}-{number}", place=place)
    return {**state, "admitted": part, "record": RequestRecord()}


class PartOfPlace(Place):
    """What one instance takes up of its request's place in the queue."""

    def __init__(self, whole: Place) -> None:
        """`whole` is given back by its request, never by a part."""
        self._whole, self.tokens = whole, 0

    def take(self, most: int) -> None:
        """As `Place.take`."""
        before = self._whole.tokens
        self._whole.take(most)
        self.tokens += self._whole.tokens - before

    def undo(self) -> None:
        """As `Place.undo`, except that the work counts as taken on in estimates of a wait."""
        self.correct(0)

    def correct(self, tokens: int) -> None:
        """As `Place.correct`."""
        if tokens < self.tokens:
            self._whole.correct(self._whole.tokens - (self.tokens - tokens))
            self.tokens = tokens


def note_parts(record: RequestRecord, parts: list[RequestRecord]) -> None:
    """Tell a request's record what came of its instances; the longest times, as of prompts."""
    first = parts[0]
    record.model, record.model_digest = first.model, first.model_digest
    record.prompt, record.answer = first.prompt, first.answer
    record.finish_reason = first.finish_reason
    record.prompt_tokens = sum(part.prompt_tokens or 0 for part in parts)
    record.completion_tokens = sum(part.completion_tokens or 0 for part in parts)
    record.queue_ms = max(part.queue_ms or 0.0 for part in parts)
    record.compute_ms = max(part.compute_ms or 0.0 for part in parts)
