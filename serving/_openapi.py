"""The OpenAPI 3.1 document of the service, made from the models that its routes check and send.

Every status that can occur is named with its body, so that a tool can hold the service to its own
word. Native routes come as `Operation`s from whoever has them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving._openai_errors import ErrorBody
from serving._openai_fields import ChatBody, CompletionBody
from serving._openai_objects import (
    ChatCompletion,
    ChatCompletionChunk,
    ModelList,
    ModelObject,
    TextCompletion,
    TextCompletionChunk,
)
from serving._openai_requests import Limits

REF = "#/components/schemas/{model}"
ADMISSION = (401, 403, 413, 429, 503)
"""Statuses of what stands in front of every route that costs something."""
COMMON = (404, 405, 500)
BODY = (400, 406, 415, 422)
JSON = "application/json"
MEANINGS = {
    401: "No key, or one that is not known.",
    403: "The key may not do this.",
    422: "A field is unknown, unsupported, of a wrong type or out of range.",
    429: "More than this key's share; come again after Retry-After.",
    503: "The service is busy, going down, or a part of it does not answer.",
}


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    path: str
    method: Literal["get", "post"]
    summary: str
    answer: type[BaseModel] | str
    """What is sent with 200: a model as JSON, or a media type."""
    body: type[BaseModel] | None = None
    statuses: tuple[int, ...] = ()
    """That can occur beside 200."""
    error: type[BaseModel] | None = ErrorBody
    """Body of those; None: a text."""
    events: type[BaseModel] | None = None
    """What the events of a stream hold, where `stream` is true."""


class LifecycleState(BaseModel):
    """Where the service is in its life."""

    state: str
    why: str | None = None


LIFECYCLE = (
    Operation("/livez", "get", "Whether the process lives", LifecycleState, None, (503,), None),
    Operation("/readyz", "get", "Whether requests are taken", "text/plain", None, (503,), None),
    Operation("/metrics", "get", "Figures for Prometheus", "text/plain", None, (500,), None),
)
OPENAI = (
    Operation(
        "/v1/chat/completions",
        "post",
        "Answer the last message of a chat",
        ChatCompletion,
        ChatBody,
        (*BODY, *ADMISSION, *COMMON),
        events=ChatCompletionChunk,
    ),
    Operation(
        "/v1/completions",
        "post",
        "Answer one prompt or several",
        TextCompletion,
        CompletionBody,
        (*BODY, *ADMISSION, *COMMON),
        events=TextCompletionChunk,
    ),
    Operation("/v1/models", "get", "List the models", ModelList, None, (*ADMISSION, *COMMON)),
    Operation(
        "/v1/models/{id}", "get", "Describe a model", ModelObject, None, (*ADMISSION, *COMMON)
    ),
)


def describe(
    version: str,
    native: Sequence[Operation] = (),
    limits: Limits | None = None,
    models: Sequence[str] = (),
) -> dict[str, Any]:
    """The document, as plain data.

    Args:
        version: of the service.
        native: routes beside the protocol's, such as /generate, and `LIFECYCLE` where it is there.
        limits: those of `build_app`.
        models: ids that every caller may ask for, if they are the same for all.
    """
    operations = [*OPENAI, *native]
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Stillhouse", "version": version},
        "paths": paths,
        "components": {
            "schemas": _schemas(operations, limits or Limits(), models),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation.method + operation.path.replace("/", "_").strip("{}"),
        "responses": {"200": _answer(operation)},
    }
    if operation.path not in {one.path for one in LIFECYCLE}:
        found["security"] = [{}, {"key": []}]  # without a key where none is configured
    if operation.path.endswith("/{id}"):
        text = {"type": "string", "minLength": 1}
        found["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": text}]
    if operation.body:
        found["requestBody"] = {"required": True, "content": _json(operation.body)}
    for status in sorted(set(operation.statuses)):
        found["responses"][str(status)] = _error(status, operation.error)
    return found


def _answer(operation: Operation) -> dict[str, Any]:
    if isinstance(operation.answer, str):
        content: dict[str, Any] = {operation.answer: {"schema": {"type": "string"}}}
    else:
        content = _json(operation.answer)
    if operation.events:
        content["text/event-stream"] = {"schema": _event(operation.events)}
    return {"description": "The answer.", "content": content}


def _event(model: type[BaseModel]) -> dict[str, Any]:
    """One event: its data is JSON of `model`, of an error, or `[DONE]`."""
    told = {"anyOf": [{"$ref": REF.format(model=one.__name__)} for one in (model, ErrorBody)]}
    text = {"type": "string", "contentMediaType": JSON, "contentSchema": told}
    data = {"anyOf": [{"const": "[DONE]"}, text]}
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def _error(status: int, body: type[BaseModel] | None) -> dict[str, Any]:
    found: dict[str, Any] = {"description": MEANINGS.get(status, HTTPStatus(status).phrase)}
    found["content"] = _json(body) if body else {"text/plain": {"schema": {"type": "string"}}}
    if body and status in (429, 503):
        seconds = {"type": "integer", "minimum": 1}
        found["headers"] = {"Retry-After": {"required": True, "schema": seconds}}
    return found


def _json(model: type[BaseModel]) -> dict[str, Any]:
    return {JSON: {"schema": {"$ref": REF.format(model=model.__name__)}}}


def _schemas(
    operations: Iterable[Operation], limits: Limits, models: Sequence[str]
) -> dict[str, Any]:
    parts = [part for o in operations for part in (o.body, o.answer, o.error, o.events)]
    shown = {part for part in parts if isinstance(part, type)}
    ordered = sorted(shown, key=lambda model: model.__name__)
    _, found = models_json_schema([(model, "validation") for model in ordered], ref_template=REF)
    schemas: dict[str, Any] = found["$defs"]
    for schema in schemas.values():
        schema.get("properties", {}).update(schema.pop("x-also", {}))
    for name in ("ChatBody", "CompletionBody"):
        _bound(schemas[name]["properties"], limits, models)
    return schemas


def _bound(fields: dict[str, Any], limits: Limits, models: Sequence[str]) -> None:
    """Write limits that are settings into a body's schema."""
    bounds = {
        "n": ("integer", "maximum", limits.answers),
        "best_of": ("integer", "maximum", limits.answers),
        "stop": ("array", "maxItems", limits.stops),
        "prompt": ("array", "maxItems", limits.prompts),
    }
    for name, (kind, word, value) in bounds.items():
        for branch in fields.get(name, {}).get("anyOf", []):
            if branch.get("type") == kind:
                branch[word] = value
    if models:
        fields["model"]["enum"] = list(models)
