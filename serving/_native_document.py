"""What the native endpoints say of themselves in the service's OpenAPI document."""

from pydantic import BaseModel

from serving._items import Choice, Refusal
from serving._native import AskBody, GenerateBody
from serving._openai_objects import Doubt, Routing
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
    uncertainty: Doubt | None


class Spending(BaseModel):
    """What an answer has used; of a cache, nothing."""

    cost_usd: float
    compute_s: float
    cost_by_rung: dict[str, float]


class CascadeAnswer(BaseModel):
    """The answer of the first model that was sure of its own; null texts: none was."""

    id: str
    text: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    confidence: float | None
    uncertainty: Doubt | None
    routing: Routing
    usage: Spending
    dropped: Dropped


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


class Mark(BaseModel):
    """A place in an answer [characters], and what a check says of it."""

    start: int
    end: int
    kind: str
    slot: str | None = None


class SlotMarks(BaseModel):
    """What the answer says of its record."""

    state: str
    marks: list[Mark]
    missing: list[str | None]


class ClaimMarks(BaseModel):
    """What the prompt does not support."""

    state: str
    marks: list[Mark]


class RungChecks(BaseModel):
    """Both checks of an answer."""

    slots: SlotMarks
    grounding: ClaimMarks


class RungError(BaseModel):
    """Why a rung did not answer."""

    code: str
    message: str | None


class RungSide(BaseModel):
    """One rung's answer, whether the cascade would take it, and what it cost."""

    rung: str
    text: str | None
    error: RungError | None
    score: float | None
    threshold: float | None
    accepted: bool
    uncertainty: Doubt | None
    checks: RungChecks | None
    latency_ms: float
    completion_tokens: int
    cost_usd: float


class Comparison(BaseModel):
    """Both answers; the similarity is chrF (0 to 1), None where only one answered.

    Where there is a cascade, all its rungs, too, and whose answer it would give.
    """

    student: Side
    baseline: Side
    similarity: float | None
    similarity_signature: str
    rungs: list[RungSide] | None = None
    chosen: str | None = None


STATUSES = (*BODY, *ADMISSION, *COMMON)
OPERATIONS = (
    Operation("/generate", "post", "Answer a prompt", GenerateAnswer, GenerateBody, STATUSES),
    Operation("/cascade", "post", "Answer by a sure model", CascadeAnswer, AskBody, STATUSES),
    Operation("/baseline", "post", "Answer by retrieval", BaselineAnswer, AskBody, STATUSES),
    Operation("/compare", "post", "Answer by both, side by side", Comparison, AskBody, STATUSES),
    *LIFECYCLE,
)
