"""A backend's stream as the chunks of the OpenAI protocol.

Every choice ends with a finish reason. Usage always comes: with `stream_options.include_usage` in
a last chunk without choices, as the protocol has it, and otherwise in the chunk of the last finish
reason, which the official client reads as well. A choice ends at a stop text, and once all
choices have ended the backend is not asked for more. Where the cascade abstains, a chat says so by
a refusal without content, as the answer that is not streamed does.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from serving._items import ServiceError
from serving._openai_errors import as_json
from serving._openai_objects import (
    ChatCompletionChunk,
    ChunkChoice,
    Delta,
    Reason,
    Routing,
    TextChoice,
    TextCompletionChunk,
    Usage,
)
from serving._openai_requests import Asked
from serving._openai_responses import (
    ABSTAINED,
    Begun,
    Ended,
    Piece,
    Reply,
    Spent,
    count_usage,
    scores,
)
from serving._sse import DONE, event
from serving._stop_texts import StopCutter

Event = Begun | Piece | Ended | Spent
Chunk = ChatCompletionChunk | TextCompletionChunk


@dataclass
class _Open:
    """A choice on its way."""

    cutter: StopCutter
    tokens: int = 0
    over: bool = False


async def frames(
    asked: Asked, reply: Reply, events: AsyncGenerator[Event, None]
) -> AsyncGenerator[bytes, None]:
    """The stream's frames, `[DONE]` at its end.

    Raises:
        ServiceError: the backend's, or what it gave ended without a finish reason.
    """
    async with aclosing(_chunks(asked, reply, events)) as chunks:
        async for chunk in chunks:
            yield event(as_json(chunk))
    yield DONE


async def _chunks(
    asked: Asked, reply: Reply, events: AsyncGenerator[Event, None]
) -> AsyncGenerator[Chunk, None]:
    """All chunks; the latest end is held back, for usage goes with the last."""
    made = _Chunks(asked, reply)
    held: Chunk | None = None
    async with aclosing(events):  # at once, not when the last chunks are out
        async for one in events:
            for chunk in made.chunks(one):
                if held:
                    yield held
                held = chunk if _ends(chunk) else None
                if not held:
                    yield chunk
            if made.over:
                break
    if held is None or not made.complete:
        raise ServiceError("internal", "the answer ended without a finish reason")
    if not asked.include_usage:
        held.usage = made.usage()
    if routing := made.routing():
        held.routing = routing
    yield held
    if asked.include_usage:
        yield made.last()


def _ends(chunk: Chunk) -> bool:
    return any(choice.finish_reason for choice in chunk.choices)


class _Chunks:
    """Makes chunks and counts tokens."""

    def __init__(self, asked: Asked, reply: Reply) -> None:
        self._asked = asked
        self._reply = reply
        self._begun = Begun(0)
        self._spent: Spent | None = None
        self._choices: dict[int, _Open] = {}

    @property
    def over(self) -> bool:
        """Whether every choice that was asked for has ended."""
        return self.complete and len(self._choices) == len(self._asked.prompts) * (
            self._asked.answers
        )

    @property
    def complete(self) -> bool:
        """Whether all choices that began have ended; equal answers may be one."""
        return all(choice.over for choice in self._choices.values())

    def chunks(self, one: Event) -> list[Chunk]:
        """Chunks of one event."""
        if isinstance(one, Begun):
            self._begun = one
            return []
        if isinstance(one, Spent):
            self._spent = one
            return []
        made = [] if one.index in self._choices else self._open(one.index)
        choice = self._choices[one.index]
        if choice.over:
            return []
        if isinstance(one, Ended):
            return made + self._end(one, choice)
        choice.tokens += one.tokens
        text, stopped = choice.cutter.add(one.text)
        made += [self._chunk(one.index, text)] if text else []
        return made + (self._stop(one.index, choice) if stopped else [])

    def usage(self) -> Usage:
        """Tokens so far."""
        made = sum(choice.tokens for choice in self._choices.values())
        begun = self._begun
        used = self._spent.used if self._spent else None
        dropped = begun.dropped_tokens, begun.dropped_turns
        return count_usage(begun.prompt_tokens, made, *dropped, used)

    def routing(self) -> Routing | None:
        """How the cascade came to the answer, where it was asked."""
        told = self._spent.routing if self._spent else None
        return Routing(**told) if told else None

    def last(self) -> Chunk:
        """The chunk with usage and without choices."""
        chunk = self._chunk(None)
        chunk.usage = self.usage()
        return chunk

    @property
    def _refuses(self) -> bool:
        """Whether the cascade abstained, which a chat can say; known before the choice begins."""
        told = self._spent.routing if self._spent else None
        return self._asked.chat and told is not None and told["rung"] is None

    def _open(self, index: int) -> list[Chunk]:
        self._choices[index] = _Open(StopCutter(self._asked.stop))
        if not self._asked.chat:
            return []
        role = Delta(role="assistant", content=None if self._refuses else "")
        return [self._chunk(index, delta=role)]

    def _end(self, one: Ended, choice: _Open) -> list[Chunk]:
        choice.over, choice.tokens = True, one.completion_tokens
        rest = choice.cutter.finish()
        told = [self._chunk(one.index, rest)] if rest else []
        if self._refuses:
            told.append(self._chunk(one.index, delta=Delta(refusal=ABSTAINED)))
        known = scores(one, one.uncertainty)
        return [*told, self._chunk(one.index, reason=one.finish_reason, known=known)]

    def _stop(self, index: int, choice: _Open) -> list[Chunk]:
        choice.over = True
        return [self._chunk(index, reason="stop")]

    def _chunk(
        self,
        index: int | None,
        text: str = "",
        delta: Delta | None = None,
        reason: Reason | None = None,
        known: dict[str, Any] | None = None,
    ) -> Chunk:
        # the protocol has `usage: null` in all chunks but the last where usage is asked for
        usage: dict[str, None] = {"usage": None} if self._asked.include_usage else {}
        shared = self._reply.shared(self._asked.chat)
        if not self._asked.chat:
            texts = [] if index is None else [_text(index, text, reason, known or {})]
            return TextCompletionChunk(**shared, object="text_completion", choices=texts, **usage)
        said = Delta() if reason else delta or Delta(content=text)
        deltas = [] if index is None else [_delta(index, said, reason, known or {})]
        return ChatCompletionChunk(
            **shared, object="chat.completion.chunk", choices=deltas, **usage
        )


def _text(index: int, text: str, reason: Reason | None, known: dict[str, Any]) -> TextChoice:
    return TextChoice(index=index, text=text, logprobs=None, finish_reason=reason, **known)


def _delta(index: int, delta: Delta, reason: Reason | None, known: dict[str, Any]) -> ChunkChoice:
    return ChunkChoice(index=index, delta=delta, logprobs=None, finish_reason=reason, **known)
