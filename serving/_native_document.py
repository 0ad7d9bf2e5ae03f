"""What /generate, /baseline and /compare say of themselves in the service's OpenAPI document."""

from pydantic import BaseModel

from serving._items import Choice, Refusal
from serving._native import AskBody, GenerateBody
from serving._openapi import ADMISSION, BODY, COMMON, LIFECYCLE, Operation

VERSION = "0.1.0"
"""Of the project, as in pyproject.toml, which a Bento does not carry."""


class Dropped(BaseModel):
    """What did not fit the context window and was left out by the declared policy."""

    tokens: int
    turns: int


class GenerateAnswer(BaseModel):
    """The student's answer."""

    id: str
    text: str
    choices: list[Choice]
    prompt_tokens: int
    queue_s: float
    compute_s: float
    batch_rows: int
    dropped: Dropped
    cost_usd: float


class BaselineAnswer(BaseModel):
    """The baseline's answer, with the probability that it is good."""

    text: str
    confidence: float | None


class SideError(BaseModel):
    """Why one side did not answer."""

    code: Refusal
    message: str | None


class Side(BaseModel):
    """One model's answer, or why there is none."""

    text: str | None
    error: SideError | None = None
    confidence: float | None = None
    finish_reason: str | None = None
    completion_tokens: int | None = None
    latency_ms: float
    queue_ms: float | None = None
    compute_ms: float | None = None
    batch_rows: int | None = None
    cost_usd: float | None = None


class Comparison(BaseModel):
    """Both answers; the similarity is chrF (0 to 1), None where only one answered."""

    student: Side
    baseline: Side
    similarity: float | None
    similarity_signature: str


STATUSES = (*BODY, *ADMISSION, *COMMON)
OPERATIONS = (
    Operation("/generate", "post", "Answer a prompt", GenerateAnswer, GenerateBody, STATUSES),
    Operation("/baseline", "post", "Answer by retrieval", BaselineAnswer, AskBody, STATUSES),
    Operation("/compare", "post", "Answer by both, side by side", Comparison, AskBody, STATUSES),
    *LIFECYCLE,
)
