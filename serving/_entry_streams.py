"""Streams of the student: events of all choices as they come, guarded, paid and accounted for."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from typing import TypeVar

from serving._charging import Arrived, Said, settle_stream
from serving._compare import refusal_of
from serving._entry_items import Prepared, State
from serving._entry_models import StreamedModel
from serving._guard import Guard
from serving._guarded_pieces import GuardedPieces
from serving._items import Answer, Item, ServiceError
from serving._lifecycle import Lifecycle
from serving._observing import record_of
from serving._openai_requests import Asked
from serving._openai_responses import Begun, Ended, Piece, Spent
from serving._openai_streams import Event
from serving._paying import Bill, Paying

T = TypeVar("T")


class StudentStreams:
    """Makes the events of streams that the student alone answers."""

    def __init__(
        self, student: StreamedModel, lifecycle: Lifecycle, paying: Paying, guard: Guard | None
    ) -> None:
        """`lifecycle` tells streams when their time is up."""
        self.student, self.lifecycle = student, lifecycle
        self.paying, self.guard = paying, guard

    async def events(
        self, asked: Asked, prepared: Prepared, state: State
    ) -> AsyncGenerator[Event, None]:
        """Of all choices, mixed as they come.

        Raises:
            ServiceError: of the first prompt that was refused, or an answer is blocked.
        """
        said = Said()
        try:
            async with self.paying.paid(prepared, said.answers) as bill:
                pieces = GuardedPieces(self.guard)
                async for one in self._made(asked, prepared, state, said):
                    bill.known = len(said.answers) == len(prepared.items)
                    for event in pieces.pass_on(one):
                        if isinstance(event, Ended):
                            yield self._spent(bill)
                        yield event
        except ServiceError:
            said.failed = True
            raise
        finally:
            await settle_stream(state, prepared, said)

    def _spent(self, bill: Bill) -> Spent:
        """What it has cost so far: with the last end, all."""
        return Spent(self.paying.used(bill.answers))

    async def _made(
        self, asked: Asked, prepared: Prepared, state: State, said: Said
    ) -> AsyncGenerator[Event, None]:
        """Events as the model makes them; each is noted in `said`."""
        began, record = time.perf_counter(), record_of({"state": state})
        arrived: Arrived = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = []
        ends: list[Ended] = []
        try:
            yield Begun(prepared.prompt_tokens, prepared.dropped_tokens, prepared.dropped_turns)
            for number, item in enumerate(prepared.items):
                work = self._follow(item, number * asked.answers, arrived)
                tasks.append(asyncio.create_task(work))
            with self.lifecycle.told_to_end(lambda: arrived.put_nowait(_draining())):
                while len(said.answers) < len(tasks):
                    one = await within(arrived.get(), remaining_s(state))
                    said.note(one)
                    if isinstance(one, Exception):
                        raise one
                    if isinstance(one, Piece) and record.first_token_ms is None:
                        record.first_token_ms = 1000 * (time.perf_counter() - began)
                    if isinstance(one, Ended):
                        ends.append(one)  # until its answer, which is next, says what it cost
                    elif not isinstance(one, Answer):
                        yield one
                    elif ends:
                        for end in ends:
                            yield end
                        ends.clear()
        finally:
            for task in tasks:
                task.cancel()
            said.note_rest(arrived)  # a reader may close the stream at the last end it needs

    async def _follow(self, item: Item, first: int, arrived: Arrived) -> None:
        """Put one prompt's events into the queue, its answer last; `first` is its first choice."""
        said = False
        stream = self.student.stream(item)
        try:
            async for one in stream:
                if isinstance(one, str):
                    said = True
                    arrived.put_nowait(Piece(one, first))
                    continue
                if one.refusal:
                    raise refusal_of(one)
                for event in _endings(one, first, said):
                    arrived.put_nowait(event)
                arrived.put_nowait(one)
                return
            raise ServiceError("unavailable", "the model's process ended", 1.0)
        except Exception as error:
            arrived.put_nowait(error)
        finally:
            await stream.aclose()


def _endings(answer: Answer, first: int, said: bool) -> list[Event]:
    """The end of each choice, and before it its text where none was said piece by piece."""
    events: list[Event] = []
    for index, choice in enumerate(answer.choices, first):
        if not said:
            events.append(Piece(choice.text, index, choice.completion_tokens))
        events.append(
            Ended(
                choice.finish_reason,
                choice.completion_tokens,
                index,
                choice.confidence,
                choice.mean_logprob,
                choice.min_logprob,
            )
        )
    return events


async def within(asked: Awaitable[T], seconds: float | None) -> T:
    """What comes in time.

    Raises:
        ServiceError: expired, when it does not.
    """
    try:
        async with asyncio.timeout(seconds):
            return await asked
    except TimeoutError:
        message = "there was no answer within the request's time. Ask again, or allow more."
        raise ServiceError("expired", message, 1.0) from None


def remaining_s(state: State) -> float | None:
    admitted = state.get("admitted")
    return admitted.remaining_s() if admitted else None


def _draining() -> ServiceError:
    return ServiceError("draining", "the service is going down. Ask again.", 1.0)


async def checked(asked: Awaitable[Answer], seconds: float | None) -> Answer:
    """An answer that is none is raised.

    Raises:
        ServiceError: the refusal in it, or expired.
    """
    answer = await within(asked, seconds)
    if answer.refusal:
        raise refusal_of(answer)
    return answer
