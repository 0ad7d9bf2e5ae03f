"""What a backend gives for the OpenAI routes, and how it becomes the protocol's objects."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from serving._items import Answer, Choice, ServiceError
from serving._openai_objects import (
    ChatChoice,
    ChatCompletion,
    ChatMessage,
    ModelObject,
    Reason,
    TextChoice,
    TextCompletion,
    Usage,
)
from serving._openai_requests import Asked
from serving._stop_texts import cut


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


@dataclass(frozen=True)
class Begun:
    """A stream's first event: what its prompts cost."""

    prompt_tokens: int
    dropped_tokens: int = 0
    dropped_turns: int = 0


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


def describe_model(card: ModelCard) -> ModelObject:
    """A model as the protocol lists it."""
    return ModelObject(id=card.id, object="model", created=card.created, owned_by=card.owned_by)


def count_usage(
    prompt_tokens: int, completion_tokens: int, dropped_tokens: int, dropped_turns: int
) -> Usage:
    """Usage, with what was dropped where anything was."""
    dropped = {"dropped_tokens": dropped_tokens, "dropped_turns": dropped_turns}
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        **(dropped if any(dropped.values()) else {}),
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
        )
        if asked.chat:
            return ChatCompletion(
                **self.shared(chat=True),
                object="chat.completion",
                choices=[_chat_choice(index, choice) for index, choice in picked],
                usage=usage,
            )
        return TextCompletion(
            **self.shared(chat=False),
            object="text_completion",
            choices=[_text_choice(index, choice) for index, choice in picked],
            usage=usage,
        )


def scores(choice: Choice | Ended) -> dict[str, float]:
    """What is known of how sure the model was."""
    known = (choice.confidence, choice.mean_logprob, choice.min_logprob)
    names = ("confidence", "mean_logprob", "min_logprob")
    return {n: value for n, value in zip(names, known, strict=True) if value is not None}


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


def _chat_choice(index: int, choice: Choice) -> ChatChoice:
    return ChatChoice(
        index=index,
        message=ChatMessage(role="assistant", content=choice.text, refusal=None),
        logprobs=None,
        finish_reason=choice.finish_reason,
        **scores(choice),
    )


def _text_choice(index: int, choice: Choice) -> TextChoice:
    return TextChoice(
        index=index,
        text=choice.text,
        logprobs=None,
        finish_reason=choice.finish_reason,
        **scores(choice),
    )
