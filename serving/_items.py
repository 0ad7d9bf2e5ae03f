"""What travels between the services: one request with all it needs, and its answer.

A batch mixes callers, and BentoML runs it in the context of whichever came first, so nothing about
a request may be read from a context: tenant, deadline, decoding and trace are in the item. A fault
of one item is in its answer and never fails the batch.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Refusal = Literal[
    "invalid_request",  # 422: wrong types or values
    "invalid_key",  # 401
    "forbidden",  # 403
    "unknown_model",  # 404
    "body_too_large",  # 413
    "prompt_too_long",  # 422
    "rate_limited",  # 429: "you"
    "budget_exceeded",  # 429: "you", the tenant's money is spent
    "blocked",  # 422: the guard's policy does not let a text pass
    "overloaded",  # 503: "us", the queue is full
    "expired",  # 503: the deadline passed before the answer
    "draining",  # 503: the service is going down
    "unavailable",  # 503: a part of the service does not answer
    "internal",  # 500
]
STATUS: Mapping[Refusal, int] = {
    "invalid_request": 422,
    "invalid_key": 401,
    "forbidden": 403,
    "unknown_model": 404,
    "body_too_large": 413,
    "prompt_too_long": 422,
    "rate_limited": 429,
    "budget_exceeded": 429,
    "blocked": 422,
    "overloaded": 503,
    "expired": 503,
    "draining": 503,
    "unavailable": 503,
    "internal": 500,
}


Prompt = Annotated[str, Field(min_length=1)]
"""Of a native body."""
Slots = dict[str, str]


class ServiceError(Exception):
    """A request that is refused; every protocol has its own form for it."""

    def __init__(
        self,
        refusal: Refusal,
        message: str,
        retry_after_s: float | None = None,
        parameter: str | None = None,
    ) -> None:
        """`message` never holds a prompt; `parameter` is the field at fault."""
        super().__init__(message)
        self.refusal: Refusal = refusal
        self.message = message
        self.retry_after_s = retry_after_s
        self.parameter = parameter

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.refusal]


class Record(BaseModel):
    """Plain data that crosses a process boundary; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Item(Record):
    """One request on its way to a model."""

    id: str
    """Of the request, unique among those under way."""
    tenant: str = "anonymous"
    prompt: str = Field(min_length=1)
    context: str | None = None
    slots: dict[str, str] | None = None
    """The prompt's record, when the caller has parsed it."""
    decoding: dict[str, Any] = {}
    """Settings in place of the contract's (serving/_decoding.py), such as max_new_tokens."""
    answers: int = Field(1, ge=1)
    """Different answers that are asked for [count]."""
    timeout_s: float | None = None
    """Time left when it was sent; what is not begun by then is not begun at all."""
    prompt_tokens: int | None = None
    """Length of the encoded prompt [tokens], where the sender knows it."""
    traceparent: str | None = None
    """W3C trace context of the caller's span."""


class Choice(Record):
    """One of an answer's texts."""

    text: str
    finish_reason: Literal["stop", "length"]
    completion_tokens: int
    confidence: float | None = None
    mean_logprob: float | None = None
    min_logprob: float | None = None


class Answer(Record):
    """What came of an item: choices, or a refusal."""

    id: str
    choices: list[Choice] = []
    prompt_tokens: int = 0
    queue_s: float = 0.0
    """Between arrival at the model's process and the start of its micro-batch."""
    compute_s: float = 0.0
    """Of the micro-batch it was in, shared with the others in it; of a stream its own steps."""
    batch_rows: int = 0
    refusal: Refusal | None = None
    message: str | None = None
