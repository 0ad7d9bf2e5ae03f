"""What is wrong with a body, in one line: field, what is expected, what was found.

Made from pydantic's findings and the fields' own descriptions. Found numbers are repeated; of a
found text only its length is, because it may be somebody's prompt.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from serving._openai_bodies import printable
from serving._openai_errors import RequestError

MOST_TOLD = 5
"""Faults in one message; a body of nothing but mistakes needs no longer one."""


def explain(
    error: ValidationError, data: Mapping[str, Any], models: Iterable[type[BaseModel]]
) -> RequestError:
    """The refusal of `data`, whose fields `models` describe."""
    expected = {
        name: field.description or ""
        for model in models
        for name, field in model.model_fields.items()
    }
    faults = _deepest(error.errors(include_url=False), data)
    told = [_tell(path, fault, value, expected) for path, (fault, value) in faults.items()]
    more = [f"{len(told) - MOST_TOLD:,} more"] if len(told) > MOST_TOLD else []
    first, (fault, _) = next(iter(faults.items()))
    return RequestError(
        f"{'; '.join(told[:MOST_TOLD] + more)}.", _code(fault["type"]), parameter=first
    )


def _deepest(
    errors: Iterable[ErrorDetails], data: Mapping[str, Any]
) -> dict[str, tuple[ErrorDetails, Any]]:
    """One fault per field by its path: of a union's branches the one that came furthest."""
    found: dict[tuple[Any, ...], dict[str, tuple[ErrorDetails, Any]]] = {}
    for fault in errors:
        path, value = _locate(fault["loc"], data)
        field = fault["loc"][:3] if fault["loc"][0] == "messages" else fault["loc"][:1]
        known = found.setdefault(field, {})
        if not known or path.count(".") + path.count("[") > _depth(known):
            found[field] = {path: (fault, value)}
    return {path: fault for field in found.values() for path, fault in field.items()}


def _depth(faults: Mapping[str, Any]) -> int:
    return max(path.count(".") + path.count("[") for path in faults)


def _locate(location: tuple[int | str, ...], data: Any) -> tuple[str, Any]:
    """Path and value of a fault; names of a union's branches are no part of the path."""
    path = ""
    for number, step in enumerate(location):
        last = number == len(location) - 1
        if isinstance(step, int) and isinstance(data, list):
            path, data = f"{path}[{step}]", data[step]
        elif isinstance(data, dict) and isinstance(step, str) and (last or step in data):
            name = step if step.isidentifier() and len(step) <= 40 else printable(step)
            path, data = f"{path}.{name}" if path else name, data.get(step)
    return path, data


def _tell(path: str, fault: ErrorDetails, value: Any, expected: Mapping[str, str]) -> str:
    name = path.rpartition(".")[2].partition("[")[0]
    wanted = expected.get(name) or expected.get(path.partition(".")[0], "something else")
    match fault["type"]:
        case "extra_forbidden":
            return f"{path} is unknown here; leave it out or correct its name"
        case "missing":
            return f"{path} is missing; it must be {wanted}"
    return f"{path} must be {wanted}, found {found_words(value)}"


def _code(kind: str) -> str:
    match kind:
        case "extra_forbidden":
            return "unknown_parameter"
        case "missing":
            return "missing_required_parameter"
    return "invalid_value"


def found_words(value: Any) -> str:
    """A value in a message, without any text of it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return f"{value:.6g}" if isinstance(value, float) else _whole(value)
        case str():
            return f"a text of {len(value):,} characters" if value else "an empty text"
        case list():
            return f"a list of {len(value):,}" if value else "an empty list"
    return "an object"


def _whole(value: int) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"a number of {len(text)} digits"
