"""Bodies of /v1/chat/completions and /v1/completions, and what they ask of a model.

A field of the protocol is supported, refused by name or ignored by name
(serving/_openai_fields.py); any other is an error, so that a mistyped one is noticed. Two fields
are ours, for the official client's `extra_body`: `context` and `slots`.

How an answer is made: what a request does not say is the model's own, as evaluation measured it.
Temperature 0 is greedy decoding and nothing else; a temperature, or a top_p below 1, draws a
sample, by a new seed unless one is given; several answers without either are the best of a beam.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from serving._openai_errors import RequestError
from serving._openai_faults import explain, found_words
from serving._openai_fields import (
    IGNORED,
    IGNORED_IN_MESSAGES,
    IGNORED_IN_PARTS,
    REFUSED_IN_CHATS,
    REFUSED_IN_COMPLETIONS,
    REFUSED_IN_MESSAGES,
    Asking,
    ChatBody,
    CompletionBody,
    Message,
    Refused,
    StreamOptions,
    TextPart,
    set_aside,
)

GREEDY_BELOW = 0.01
"""Smaller temperatures give the likeliest token anyway, and logits divided by them overflow."""
Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True)
class Limits:
    """Most that one request may ask."""

    answers: int = 8
    """Answers per prompt, best_of included [count]."""
    prompts: int = 32
    """Prompts of one completion request [count]."""
    stops: int = 4
    """Stop texts; the protocol's own limit [count]."""


@dataclass(frozen=True)
class Turn:
    """An earlier message of a chat."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class Asked:
    """What a request asks, in our terms; of `prompts` there are several in completions alone."""

    chat: bool
    model: str
    prompts: tuple[str, ...]
    turns: tuple[Turn, ...]
    """Messages before the prompt, oldest first."""
    context: str | None
    slots: dict[str, str] | None
    decoding: dict[str, Any]
    """Settings in place of the contract's (serving/_decoding.py)."""
    answers: int
    """Choices to return per prompt [count]."""
    candidates: int
    """Answers to make per prompt, of which the best are returned [count]; the item's `answers`."""
    stop: tuple[str, ...]
    """Texts that end an answer; the routes cut there (serving/_openai_streams.py)."""
    stream: bool
    include_usage: bool
    user: str | None
    repeatable: bool = True
    """Whether the same request may get the same answer: not a sample that names no seed."""


def read_chat(data: Mapping[str, Any], limits: Limits) -> Asked:
    """What a chat body asks.

    Raises:
        RequestError: a field is unknown, unsupported, wrong or in contradiction to another.
    """
    data = set_aside(data, REFUSED_IN_CHATS, IGNORED)
    if isinstance(data.get("messages"), list):
        data["messages"] = [_plain_message(m, i) for i, m in enumerate(data["messages"])]
    body = _validate(ChatBody, data)
    *earlier, last = body.messages
    if last.role != "user" or not last.text:
        raise _wrong("messages", "the last message must be by the user and not be empty")
    if body.max_tokens and body.max_completion_tokens not in (None, body.max_tokens):
        raise _wrong("max_tokens", "max_tokens and max_completion_tokens differ; send one of them")
    longest = body.max_completion_tokens or body.max_tokens
    turns = tuple(Turn(_role(message), message.text) for message in earlier)
    return _asked(body, limits, (last.text,), turns, body.n or 1, longest)


def read_completion(data: Mapping[str, Any], limits: Limits) -> Asked:
    """What a completion body asks.

    Raises:
        RequestError: a field is unknown, unsupported, wrong or in contradiction to another.
    """
    data = set_aside(data, REFUSED_IN_COMPLETIONS, IGNORED)
    body = _validate(CompletionBody, data)
    prompts = (body.prompt,) if isinstance(body.prompt, str) else tuple(body.prompt)
    answers = body.n or 1
    candidates = body.best_of or answers
    if len(prompts) > limits.prompts:
        raise _wrong("prompt", f"prompt may hold at most {limits.prompts}, found {len(prompts):,}")
    if body.slots and len(prompts) > 1:
        raise _wrong("slots", "slots are the record of one prompt; send the prompts apart")
    if candidates < answers:
        raise _wrong("best_of", f"best_of must be at least n, found {candidates} and {answers}")
    if body.stream and candidates > answers:
        raise _wrong("best_of", "the best are known at the end only; leave out best_of or stream")
    return _asked(body, limits, prompts, (), candidates, body.max_tokens)


def _asked(
    body: Asking,
    limits: Limits,
    prompts: tuple[str, ...],
    turns: tuple[Turn, ...],
    candidates: int,
    longest: int | None,
) -> Asked:
    if body.stream_options and not body.stream:
        raise _wrong("stream_options", "stream_options are for stream true; leave them out")
    stops: Sequence[str] = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if len(stops) > limits.stops:
        raise _wrong("stop", f"stop may hold at most {limits.stops} texts, found {len(stops):,}")
    if candidates > limits.answers:
        name = "n" if candidates == body.n else "best_of"
        raise _wrong(
            name, f"{name} must be at most {limits.answers}, found {found_words(candidates)}"
        )
    return Asked(
        chat=isinstance(body, ChatBody),
        model=body.model,
        prompts=prompts,
        turns=turns,
        context=body.context,
        slots=body.slots,
        decoding=_decoding(body, candidates, longest),
        answers=body.n or 1,
        candidates=candidates,
        stop=tuple(stops),
        stream=bool(body.stream),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        user=body.user,
        repeatable=body.seed is not None or not _draws(body),
    )


def _decoding(body: Asking, candidates: int, longest: int | None) -> dict[str, Any]:
    """Settings in place of the contract's; `answers` 1 with each method: nothing competes."""
    temperature, top_p = body.temperature, body.top_p
    settings: dict[str, Any] = {} if longest is None else {"max_new_tokens": longest}
    if body.seed is not None:
        settings["seed"] = body.seed % 2**64  # ours start at 0; different ones stay different
    if temperature is not None and temperature < GREEDY_BELOW:
        if candidates > 1:
            raise _wrong("n", "temperature 0 has one answer; ask n 1 or a higher temperature")
        settings |= {"method": "greedy", "beams": 1, "answers": 1}
    elif _draws(body):
        given = {"temperature": temperature, "top_p": top_p}
        settings = {"seed": secrets.randbits(63), **settings}
        settings |= {"method": "sample", "beams": 1, "answers": 1}
        settings |= {name: value for name, value in given.items() if value is not None}
    elif candidates > 1:
        settings |= {"method": "beam", "beams": candidates, "answers": 1}
    return settings


def _draws(body: Asking) -> bool:
    """Whether an answer is drawn: a temperature, or a top_p below 1, is asked for."""
    if body.temperature is not None:
        return body.temperature >= GREEDY_BELOW
    return body.top_p is not None and body.top_p < 1


def _plain_message(message: Any, number: int) -> Any:
    """A message without what is ignored in it; what is no message is left to the validation."""
    if not isinstance(message, dict):
        return message
    path = f"messages[{number}]."
    plain = set_aside(message, REFUSED_IN_MESSAGES, IGNORED_IN_MESSAGES, path)
    if isinstance(plain.get("content"), list):
        nothing: Mapping[str, Refused] = {}
        plain["content"] = [
            set_aside(part, nothing, IGNORED_IN_PARTS) if isinstance(part, dict) else part
            for part in plain["content"]
        ]
    return plain


def _role(message: Message) -> Literal["system", "user", "assistant"]:
    return "system" if message.role == "developer" else message.role


def _validate(kind: type[Body], data: Mapping[str, Any]) -> Body:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise explain(error, data, (kind, Message, TextPart, StreamOptions)) from None


def _wrong(parameter: str, message: str) -> RequestError:
    return RequestError(f"{message}.", "invalid_value", parameter=parameter)
