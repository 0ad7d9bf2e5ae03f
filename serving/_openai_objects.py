"""The objects of the OpenAI protocol that are sent, and described in the OpenAPI document.

Fields that are not the protocol's are set only where they say something: in `usage` what it cost,
and what the window's policy dropped where it dropped any; beside a choice how sure the model was;
`routing` where the cascade was asked. Which fields are set is what is sent: null where the
protocol has null, else nothing.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Reason = Literal["stop", "length"]


class Sent(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Usage(Sent):
    """Tokens of a request and their cost; `dropped_…` only where something was dropped."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost_usd: float = 0.0
    compute_s: float = 0.0
    """Its share of the time that its micro-batches took; a remote model's whole answer [s]."""
    cost_by_rung: dict[str, float] = {}
    """Of each model that was asked, those that were not sure too [USD]."""
    dropped_tokens: int = 0
    dropped_turns: int = 0


class Doubt(Sent):
    """How likely the answer is not to be trusted, 0 to 1 (docs/live.md)."""

    score: float
    basis: Literal["confidence", "tokens", "none"]
    parts: dict[str, float]


class Step(Sent):
    """One model that the cascade tried."""

    rung: str
    outcome: str
    score: float | None
    threshold: float | None
    seconds: float
    cost_usd: float


class CheckStates(Sent):
    """What the checks of the answer came to: ok, found or not_run."""

    slots: str
    grounding: str


class Routing(Sent):
    """How the cascade came to its answer."""

    rung: str | None
    """Whose answer it is; null: it abstained."""
    sure: bool
    """Whether the route's bound on errors holds for it."""
    source: str
    """The cache that it is from; miss or off: it was made."""
    tried: list[Step]
    checks: CheckStates
    guard: dict[str, str]


class _Scored(Sent):
    """How sure the model was, where it can tell."""

    confidence: float | None = None
    mean_logprob: float | None = None
    min_logprob: float | None = None
    uncertainty: Doubt | None = None


class ChatMessage(Sent):
    """An answer of a chat; a refusal where the cascade abstains."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None


class ChatChoice(_Scored):
    """One of a chat's answers."""

    index: int
    message: ChatMessage
    logprobs: None
    finish_reason: Reason


class TextChoice(_Scored):
    """One of a completion's answers, or a piece of it in a stream."""

    index: int
    text: str
    logprobs: None
    finish_reason: Reason | None


class Delta(Sent):
    """What a chunk adds to a choice; a refusal in place of content where the cascade abstains."""

    role: Literal["assistant"] = "assistant"
    content: str | None = ""
    refusal: str | None = None


class ChunkChoice(_Scored):
    """A piece of one of a chat's answers."""

    index: int
    delta: Delta
    logprobs: None
    finish_reason: Reason | None


class _Reply(Sent):
    id: str
    created: int
    model: str
    system_fingerprint: str | None = None
    routing: Routing | None = None


class ChatCompletion(_Reply):
    """The answer of /v1/chat/completions."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class TextCompletion(_Reply):
    """The answer of /v1/completions."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage


class ChatCompletionChunk(_Reply):
    """An event of a chat's stream."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: Usage | None = None


class TextCompletionChunk(_Reply):
    """An event of a completion's stream."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage | None = None


class ModelObject(Sent):
    """A model in /v1/models."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Sent):
    """The answer of /v1/models."""

    object: Literal["list"]
    data: list[ModelObject]
