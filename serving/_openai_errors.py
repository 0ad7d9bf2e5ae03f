"""Errors as the OpenAI protocol says them: {"error": {message, type, param, code}}.

The official client picks its exception by the status and shows `message` and `code`; both are
here for every refusal of the service. No message holds text of a request: a refused prompt must
not end up in somebody's log by way of an error.
"""

import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from serving._items import Refusal, ServiceError

# Type and code of each refusal, in the protocol's own words where it has any.
KINDS: Mapping[Refusal, tuple[str, str]] = {
    "invalid_request": ("invalid_request_error", "invalid_value"),
    "invalid_key": ("invalid_request_error", "invalid_api_key"),
    "forbidden": ("permission_error", "forbidden"),
    "unknown_model": ("invalid_request_error", "model_not_found"),
    "body_too_large": ("invalid_request_error", "request_too_large"),
    "prompt_too_long": ("invalid_request_error", "context_length_exceeded"),
    "rate_limited": ("rate_limit_error", "rate_limit_exceeded"),
    "budget_exceeded": ("rate_limit_error", "insufficient_quota"),
    "blocked": ("invalid_request_error", "content_filter"),
    "overloaded": ("server_error", "overloaded"),
    "expired": ("server_error", "deadline_exceeded"),
    "draining": ("server_error", "shutting_down"),
    "unavailable": ("server_error", "unavailable"),
    "internal": ("server_error", "internal_error"),
}


class RequestError(ServiceError):
    """A request that is not one: its status and code are more exact than `invalid_request`'s."""

    def __init__(
        self, message: str, code: str, status: int = 422, parameter: str | None = None
    ) -> None:
        """`code` is the protocol's, such as unknown_parameter; `status` an HTTP status."""
        super().__init__("invalid_request", message, parameter=parameter)
        self.code = code
        self._status = status

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._status


class ErrorDetail(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(extra="forbid")

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error."""

    model_config = ConfigDict(extra="forbid")

    error: ErrorDetail


def error_body(error: ServiceError) -> ErrorBody:
    """The protocol's form of a refusal."""
    kind, code = KINDS[error.refusal]
    if isinstance(error, RequestError):
        code = error.code
    detail = ErrorDetail(message=error.message, type=kind, param=error.parameter, code=code)
    return ErrorBody(error=detail)


def error_headers(error: ServiceError) -> dict[str, str]:
    """Retry-After [whole seconds, at least 1] wherever coming again can help."""
    seconds = error.retry_after_s
    if seconds is None and error.status not in (429, 503):
        return {}
    known = seconds is not None and math.isfinite(seconds)
    return {"retry-after": str(max(1, math.ceil(seconds)) if known and seconds else 1)}


def error_response(
    error: ServiceError, request_id: str, headers: Mapping[str, str] | None = None
) -> Response:
    """The HTTP response of a refusal; for whatever refuses before a route is reached, too."""
    sent = {**error_headers(error), "x-request-id": request_id, **(headers or {})}
    content = as_json(error_body(error))
    return Response(content, error.status, sent, media_type="application/json")


def as_json(model: BaseModel) -> str:
    """JSON of what was set, in ASCII: no cut, line end or encoding on its way can break it."""
    return model.model_dump_json(exclude_unset=True, ensure_ascii=True)
