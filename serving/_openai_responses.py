"""What a backend gives for the OpenAI routes, and how it becomes the protocol's objects."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving._items import Answer, Choice, ServiceError
from serving._live.checks import Checked
from serving._live.uncertainty import uncertainty_of
from serving._openai_objects import (
    ChatChoice,
    ChatCompletion,
    ChatMessage,
    Doubt,
    ModelObject,
    Reason,
    Routing,
    TextChoice,
    TextCompletion,
    Usage,
)
from serving._openai_requests import Asked
from serving._stop_texts import cut

ABSTAINED = "no model was sure enough of its answer"
UNCHECKED = Checked()


@dataclass(frozen=True)
class ModelCard:
    """A model that can be asked for by its id."""

    id: str
    created: int
    """When it was made [s since 1970]."""
    owned_by: str
    fingerprint: str | None = None
    """Start of the model's digest; with the same one, the same seed gives the same answer."""


@dataclass(frozen=True)
class Answered:
    """A backend's whole answer."""

    answers: Sequence[Answer]
    """One per prompt, in order; its choices likeliest first, as many as `candidates` at most."""
    dropped_tokens: int = 0
    """Of the prompts, by the window's policy."""
    dropped_turns: int = 0
    used: Mapping[str, Any] | None = None
    """More fields of `usage`: what it cost."""
    routing: Mapping[str, Any] | None = None
    """How the cascade came to it; it has one answer then."""
    uncertainty: Mapping[str, Any] | None = None
    """Of the cascade's answer, which was checked; the student's says what its tokens say."""
    abstained: bool = False
    """No rung was sure: the answer is empty."""


@dataclass(frozen=True)
class Begun:
    """A stream's first event: what its prompts cost."""

    prompt_tokens: int
    dropped_tokens: int = 0
    dropped_turns: int = 0


@dataclass(frozen=True)
class Spent:
    """Once, at last or before it: what a stream cost, and how the cascade came to it."""

    used: Mapping[str, Any]
    routing: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Piece:
    """Some text of one choice."""

    text: str
    index: int = 0
    """Of the choice: prompt number x `Asked.answers` + number of the answer."""
    tokens: int = 1
    """Tokens it was made of [count]."""


@dataclass(frozen=True)
class Ended:
    """The end of one choice."""

    finish_reason: Reason
    completion_tokens: int
    """Of the whole choice, the end token included."""
    index: int = 0
    confidence: float | None = None
    mean_logprob: float | None = None
    min_logprob: float | None = None
    uncertainty: Mapping[str, Any] | None = None
    """Of an answer that was checked."""


def describe_model(card: ModelCard) -> ModelObject:
    """A model as the protocol lists it."""
    return ModelObject(id=card.id, object="model", created=card.created, owned_by=card.owned_by)


def count_usage(
    prompt_tokens: int,
    completion_tokens: int,
    dropped_tokens: int,
    dropped_turns: int,
    used: Mapping[str, Any] | None = None,
) -> Usage:
    """Usage, with what it cost where that is known, and what was dropped where anything was."""
    dropped = {"dropped_tokens": dropped_tokens, "dropped_turns": dropped_turns}
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        **(dropped if any(dropped.values()) else {}),
        **(used or {}),
    )


@dataclass(frozen=True)
class Reply:
    """What all objects of one answer share."""

    id: str
    """Of the request."""
    created: int
    """[s since 1970]"""
    model: ModelCard

    def shared(self, chat: bool) -> dict[str, Any]:
        """Fields that every object of the answer has."""
        known = self.model.fingerprint
        return {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{self.id}",
            "created": self.created,
            "model": self.model.id,
            **({"system_fingerprint": known} if known else {}),
        }

    def whole(self, asked: Asked, answered: Answered) -> ChatCompletion | TextCompletion:
        """The answer that is not streamed.

        Raises:
            ServiceError: one of the prompts was refused; a response has room for all or none.
        """
        picked = list(_pick(asked, answered))
        usage = count_usage(
            sum(answer.prompt_tokens for answer in answered.answers),
            sum(c.completion_tokens for answer in answered.answers for c in answer.choices),
            answered.dropped_tokens,
            answered.dropped_turns,
            answered.used,
        )
        known = answered.uncertainty
        more = {"routing": Routing(**answered.routing)} if answered.routing else {}
        if asked.chat:
            abstained = answered.abstained
            chats = [_chat_choice(index, choice, known, abstained) for index, choice in picked]
            return ChatCompletion(
                **self.shared(chat=True),
                object="chat.completion",
                choices=chats,
                usage=usage,
                **more,
            )
        return TextCompletion(
            **self.shared(chat=False),
            object="text_completion",
            choices=[_text_choice(index, choice, known) for index, choice in picked],
            usage=usage,
            **more,
        )


def scores(choice: Choice | Ended, uncertainty: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What is known of how sure the model was; without a check's word, by its tokens alone."""
    known = (choice.confidence, choice.mean_logprob, choice.min_logprob)
    names = ("confidence", "mean_logprob", "min_logprob")
    told: dict[str, Any] = {n: v for n, v in zip(names, known, strict=True) if v is not None}
    by_tokens = None if uncertainty else uncertainty_of(choice, UNCHECKED)
    if found := uncertainty or (by_tokens.as_field() if by_tokens else None):
        told["uncertainty"] = Doubt(**found)
    return told


def _pick(asked: Asked, answered: Answered) -> Iterator[tuple[int, Choice]]:
    """The choices to return with their indices, cut at the stop texts.

    Equal answers are one: where fewer came than were asked, the indices of the others are left
    out, so that index // n is the prompt's number all the same.
    """
    if len(answered.answers) != len(asked.prompts):
        raise ServiceError("internal", "the answers are not as many as the prompts")
    for number, answer in enumerate(answered.answers):
        if answer.refusal or not answer.choices:
            raise ServiceError(answer.refusal or "internal", answer.message or "no answer came")
        for rank, choice in enumerate(answer.choices[: asked.answers]):
            text, stopped = cut(choice.text, asked.stop)
            reason = "stop" if stopped else choice.finish_reason
            picked = choice.model_copy(update={"text": text, "finish_reason": reason})
            yield number * asked.answers + rank, picked


def _chat_choice(
    index: int, choice: Choice, uncertainty: Mapping[str, Any] | None, abstained: bool
) -> ChatChoice:
    message = ChatMessage(role="assistant", content=choice.text, refusal=None)
    if abstained:
        message = ChatMessage(role="assistant", content=None, refusal=ABSTAINED)
    return ChatChoice(
        index=index,
        message=message,
        logprobs=None,
        finish_reason=choice.finish_reason,
        **scores(choice, uncertainty),
    )


def _text_choice(index: int, choice: Choice, uncertainty: Mapping[str, Any] | None) -> TextChoice:
    return TextChoice(
        index=index,
        text=choice.text,
        logprobs=None,
        finish_reason=choice.finish_reason,
        **scores(choice, uncertainty),
    )
