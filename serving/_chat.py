"""Chat messages as one request: our models read a prompt, and perhaps a context before it.

The last user message is the prompt. What came before it (system messages, the request's own
`context`, earlier turns, in this order) becomes the text for {context}, where the contract's
template has that place. Such text is only text: a turn that spells a special token gets its
characters (serving/_prompts.py), and the words "User:" and "Assistant:" mark turns without any
power of their own.

Students are trained on single prompts, and a template frozen from a chat template holds its system
message already. Where a template has no {context}, a declared policy says what becomes of the rest:
`refuse` it, naming the field, or `drop` it and say how much was dropped. Nothing is ever left out
silently, because an answer to half a conversation looks like an answer to the whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from serving._items import ServiceError
from serving.completion import Request

Role = Literal["system", "user", "assistant"]
Unplaced = Literal["refuse", "drop"]
PLACE = "{context}"
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",  # its newer name
    "user": "user",
    "assistant": "assistant",
}


@dataclass(frozen=True)
class Message:
    """One message, its parts joined by newlines."""

    role: Role
    text: str


@dataclass(frozen=True)
class Turn:
    """A user's message and the answers to it; the first turn may lack the former."""

    messages: tuple[Message, ...]

    @property
    def text(self) -> str:
        """As it stands in a context."""
        return "\n".join(f"{each.role.capitalize()}: {each.text}" for each in self.messages)


@dataclass(frozen=True)
class LeftOut:
    """What the template has no place for; all zero where everything has one."""

    system_messages: int = 0
    turns: int = 0
    context: bool = False


@dataclass(frozen=True)
class Asked:
    """A request in its parts, so that whole turns can still be taken away."""

    prompt: str
    before: tuple[str, ...] = ()
    """System messages, then the request's own context."""
    turns: tuple[Turn, ...] = ()
    """Oldest first."""
    slots: Mapping[str, str] | None = None
    field: str = "prompt"
    """Of the request, where the prompt stands; for errors."""
    left_out: LeftOut = LeftOut()

    @property
    def context(self) -> str | None:
        """The text for {context}; a `context` alone stays as it was sent."""
        return "\n".join([*self.before, *(turn.text for turn in self.turns)]) or None

    def to_request(self) -> Request:
        """What a predictor answers."""
        return Request(self.prompt, self.slots, self.context)


def read_prompt(
    prompt: str,
    template: str,
    unplaced: Unplaced = "refuse",
    context: str | None = None,
    slots: Mapping[str, str] | None = None,
) -> Asked:
    """A prompt with its context.

    Raises:
        ServiceError: invalid_request: no text, or a context that the template has no place for.
    """
    check_text(prompt, "prompt")
    if not prompt:
        raise _wrong("prompt", "expected text, found none")
    asked = Asked(prompt, _own(context), slots=slots)
    return _placed(asked, LeftOut(context=bool(context)), template, unplaced)


def read_messages(
    messages: Any,
    template: str,
    unplaced: Unplaced = "refuse",
    context: str | None = None,
    slots: Mapping[str, str] | None = None,
) -> Asked:
    """Chat messages as they come in JSON; the last one must be a user's.

    Args:
        messages: objects with `role` and `content` (text, or a list of parts of type text). Other
            fields must be empty, as clients send them for answers that they give back.

    Raises:
        ServiceError: invalid_request, with the field at fault.
    """
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "expected a list of at least one message")
    read = [_read_message(message, f"messages[{n}]") for n, message in enumerate(messages)]
    field = f"messages[{len(read) - 1}]"
    last = read[-1]
    if last.role != "user":
        raise _wrong(
            f"{field}.role", f"expected the last message to be a user's, not {last.role}'s"
        )
    if not last.text:
        raise _wrong(f"{field}.content", "expected text, found none")
    system = [message.text for message in read if message.role == "system"]
    turns = _group([message for message in read[:-1] if message.role != "system"])
    asked = Asked(
        last.text, (*system, *_own(context)), tuple(turns), slots, field=f"{field}.content"
    )
    left_out = LeftOut(len(system), len(turns), bool(context))
    return _placed(asked, left_out, template, unplaced)


def check_text(text: str, field: str) -> None:
    """Refuse text that is no Unicode: half a surrogate pair, which JSON can spell.

    Raises:
        ServiceError: invalid_request, naming `field`.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _wrong(
            field, f"expected Unicode text, found half a surrogate pair at character {error.start}"
        ) from None


def _read_message(message: Any, field: str) -> Message:
    if not isinstance(message, dict):
        raise _wrong(field, "expected an object with role and content")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _wrong(f"{field}.role", "expected system, user or assistant")
    for name, value in message.items():
        if name not in ("role", "content") and value:
            # The name is the caller's text, which may be anything; the place is ours.
            raise _wrong(field, "expected role and content alone, found a further field")
    return Message(_ROLES[role], _read_content(message.get("content"), f"{field}.content"))


def _read_content(content: Any, field: str) -> str:
    if isinstance(content, str):
        check_text(content, field)
        return content
    if not isinstance(content, list) or not content:
        raise _wrong(field, "expected text or a list of text parts")
    return "\n".join(_read_part(part, f"{field}[{n}]") for n, part in enumerate(content))


def _read_part(part: Any, field: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise _wrong(field, "expected a part of type text; this model reads nothing else")
    text = part.get("text")
    if not isinstance(text, str):
        raise _wrong(f"{field}.text", "expected text")
    check_text(text, f"{field}.text")
    return text


def _group(messages: Sequence[Message]) -> list[Turn]:
    """Turns: each user's message begins one."""
    turns: list[Turn] = []
    for message in messages:
        if message.role == "user" or not turns:
            turns.append(Turn((message,)))
        else:
            turns[-1] = Turn((*turns[-1].messages, message))
    return turns


def _own(context: str | None) -> tuple[str, ...]:
    """The request's own context, where there is one."""
    if not context:
        return ()
    check_text(context, "context")
    return (context,)


def _placed(asked: Asked, left_out: LeftOut, template: str, unplaced: Unplaced) -> Asked:
    """As it is where the template has a place; else without all that `left_out` counts."""
    if PLACE in template:
        return asked
    if unplaced == "refuse":
        _refuse(left_out)
    return replace(asked, before=(), turns=(), left_out=left_out)


def _refuse(left_out: LeftOut) -> None:
    """Raise for the first thing that has no place."""
    for count, field, what in (
        (left_out.system_messages, "messages", "system messages"),
        (left_out.turns, "messages", "earlier turns"),
        (left_out.context, "context", "a context"),
    ):
        if count:
            raise _wrong(
                field, f"this model reads a single prompt and has no place for {what}; leave it out"
            )


def _wrong(field: str, problem: str) -> ServiceError:
    return ServiceError("invalid_request", f"{field}: {problem}", parameter=field)
