"""What a request has used in the end: given back to its key, and told to its record.

Before any work the most that a request can use is reserved. Whichever way it ends, as an answer, as
a refusal or as a stream that nobody reads on, what it did not use is given back here.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from serving._entry_items import Prepared, State
from serving._items import Answer
from serving._observing import record_of
from serving._openai_responses import Ended, Piece
from serving._openai_streams import Event

Arrived = asyncio.Queue[Event | Answer | Exception]
"""What the models' streams have brought."""


@dataclass
class Said:
    """What a stream's model has made so far."""

    answers: list[Answer] = field(default_factory=list)
    tokens: dict[int, int] = field(default_factory=dict)
    """Of each choice."""
    failed: bool = False

    def note(self, one: Event | Answer | Exception) -> None:
        """Count what arrived."""
        match one:
            case Answer():
                self.answers.append(one)
            case Piece():
                self.tokens[one.index] = self.tokens.get(one.index, 0) + one.tokens
            case Ended():
                self.tokens[one.index] = one.completion_tokens

    def note_rest(self, arrived: Arrived) -> None:
        """Count what arrived and was not read."""
        while not arrived.empty():
            self.note(arrived.get_nowait())


async def settle(state: State, prepared: Prepared, answers: Sequence[Answer]) -> None:
    """Give back what was reserved for longer answers than came, and tell the request's record."""
    made = sum(map(_made, answers))
    record = record_of({"state": state})
    record.note(answers)
    await charge(state, prepared.prompt_tokens + made)


async def settle_stream(state: State, prepared: Prepared, said: Said) -> None:
    """The same for a stream, which may have ended anywhere; refused unheard, it is free."""
    if len(said.answers) == len(prepared.items):
        await settle(state, prepared, said.answers)
        return
    made = sum(said.tokens.values())
    if made or not said.failed:
        record = record_of({"state": state})
        record.prompt_tokens, record.completion_tokens = prepared.prompt_tokens, made
        made += prepared.prompt_tokens
    await charge(state, made)


async def charge(state: State, tokens: int) -> None:
    """Give back all that was reserved beyond `tokens`.

    Of a caller who left before a whole answer the bound stays counted: nobody knows what was made.
    """
    if admitted := state.get("admitted"):
        await admitted.correct_tokens(tokens)


def _made(answer: Answer) -> int:
    return sum(choice.completion_tokens for choice in answer.choices)


def used(answer: Answer) -> int:
    """Tokens of an answer and its prompt [count]."""
    return answer.prompt_tokens + _made(answer)
