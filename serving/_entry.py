"""The entry's part of every answer: items out, answers back, in the form that each route wants.

It is the `Backend` of the OpenAI routes and what the native endpoints call. Made empty when the
module is imported, since routes are mounted then; `open` fills it in when the process starts.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from serving._charging import Arrived, Said, charge, settle, settle_stream, used
from serving._compare import compare, cost_usd, refusal_of
from serving._entry_items import Prepared, Preparer, State
from serving._items import Answer, Item, ServiceError
from serving._lifecycle import Lifecycle
from serving._model_client import ModelClient
from serving._observing import record_of
from serving._openai_requests import Asked
from serving._openai_responses import Answered, Begun, Ended, ModelCard, Piece
from serving._openai_streams import Event
from serving._service_settings import ServiceSettings
from serving.contract import CONTRACT_NAME, digest, read_contract
from serving.errors import StillhouseError

T = TypeVar("T")
OWNER = "stillhouse"
MODEL_NAME = "student"
LEARNED_FROM = 12
"""Lists that a dispatcher runs before it trusts its estimate (11), and one more [count]."""


class Entry:
    """What the entry process knows of its models."""

    settings: ServiceSettings
    student: ModelClient
    baseline: ModelClient
    preparer: Preparer
    card: ModelCard

    def __init__(self, lifecycle: Lifecycle) -> None:
        """`lifecycle` is this process's: it tells streams when their time is up."""
        self.lifecycle = lifecycle

    def open(self, settings: ServiceSettings, student: ModelClient, baseline: ModelClient) -> None:
        """Read what is needed of the student's folder; its process checks the files.

        Raises:
            StillhouseError: no folder, or one that a request cannot be prepared for.
        """
        folder = settings.student_folder()
        self.settings, self.student, self.baseline = settings, student, baseline
        self.preparer = Preparer(folder, read_contract(folder, check_files=False), settings)
        self.card = _card(folder)

    async def close(self) -> None:
        """Let the connections go."""
        await asyncio.gather(self.student.close(), self.baseline.close())

    async def is_ready(self) -> bool:
        """Whether both models answer."""
        return all(await asyncio.gather(self.student.is_ready(), self.baseline.is_ready()))

    async def warm_up(self) -> None:
        """Let BentoML's dispatchers learn from lists of ours, not from the first callers'."""
        for number in range(LEARNED_FROM):
            item = Item(id=f"warm-up-{number}", prompt="warm", decoding={"max_new_tokens": 1})
            await asyncio.gather(self.student.answer(item), self.baseline.answer(item))

    def models(self, state: State) -> Sequence[ModelCard]:  # noqa: ARG002
        """The student, whoever asks."""
        return [self.card]

    async def answer(self, asked: Asked, state: State) -> Answered:
        """One answer per prompt.

        Raises:
            ServiceError: of the first prompt that was refused.
        """
        prepared = await self._prepare(asked, state)
        made: list[Answer] = []
        try:
            answers = await self._ask_all(prepared.items, made)
        except ServiceError:
            await charge(state, sum(map(used, made)))
            raise
        await settle(state, prepared, answers)
        return Answered(answers, prepared.dropped_tokens, prepared.dropped_turns)

    async def stream(self, asked: Asked, state: State) -> AsyncGenerator[Event, None]:
        """Events of all choices, mixed as they come."""
        began = time.perf_counter()
        prepared, record = await self._prepare(asked, state), record_of({"state": state})
        arrived: Arrived = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = []
        said = Said()
        try:
            yield Begun(prepared.prompt_tokens, prepared.dropped_tokens, prepared.dropped_turns)
            for number, item in enumerate(prepared.items):
                work = self._follow(item, number * asked.answers, arrived)
                tasks.append(asyncio.create_task(work))
            with self.lifecycle.told_to_end(lambda: arrived.put_nowait(_draining())):
                while len(said.answers) < len(tasks):
                    one = await _within(arrived.get(), _remaining_s(state))
                    said.note(one)
                    if isinstance(one, Exception):
                        raise one
                    if isinstance(one, Piece) and record.first_token_ms is None:
                        record.first_token_ms = 1000 * (time.perf_counter() - began)
                    if not isinstance(one, Answer):
                        yield one
        except ServiceError:
            said.failed = True
            raise
        finally:
            for task in tasks:
                task.cancel()
            said.note_rest(arrived)  # a reader may close the stream at the last end it needs
            await settle_stream(state, prepared, said)

    async def generate(self, asked: Asked, state: State) -> dict[str, Any]:
        """The native answer of the student to one prompt."""
        answered = await self.answer(asked, state)
        answer = answered.answers[0]
        told = answer.model_dump(exclude={"refusal", "message"})
        told["text"] = answer.choices[0].text
        told["dropped"] = {"tokens": answered.dropped_tokens, "turns": answered.dropped_turns}
        told["cost_usd"] = cost_usd(answer, self.settings.usd_per_hour)
        return told

    async def ask_baseline(self, item: Item, state: State | None = None) -> dict[str, Any]:
        """The native answer of the baseline, in the time that is left to the request."""
        answer = await _checked(self.baseline.answer(item), self._left_s(state or {}))
        return {"text": answer.choices[0].text, "confidence": answer.choices[0].confidence}

    async def compare(self, asked: Asked, item: Item, state: State) -> dict[str, Any]:
        """Both answers side by side; only the student's tokens are charged."""
        prepared = await self._prepare(asked, state)
        made: list[Answer] = []
        student = self._ask(prepared.items[0], made)
        baseline = _within(self.baseline.answer(item), self._left_s(state))
        try:
            told = await compare(student, baseline, self.settings.usd_per_hour)
        except ServiceError:
            await charge(state, 0)
            raise
        await (settle(state, prepared, made) if made else charge(state, 0))
        return told

    async def _prepare(self, asked: Asked, state: State) -> Prepared:
        record = record_of({"state": state})
        record.model, record.model_digest = self.card.id, self.card.fingerprint
        record.stream, record.prompt = asked.stream, asked.prompts[0]
        if admitted := state.get("admitted"):
            record.tenant, record.key_id = admitted.tenant, admitted.key_id
        return await self.preparer.prepare(asked, state)

    def _left_s(self, state: State) -> float:
        """Time for a model that is told no deadline of its own [s]."""
        left_s = _remaining_s(state)
        return self.settings.deadline_s if left_s is None else left_s

    async def _ask_all(self, items: Sequence[Item], made: list[Answer]) -> Sequence[Answer]:
        """Answers in the order of their items; the first refusal ends them all."""
        if len(items) == 1:
            return [await self._ask(items[0], made)]
        tasks = [asyncio.create_task(self._ask(item, made)) for item in items]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _ask(self, item: Item, made: list[Answer]) -> Answer:
        """An answer, which is put into `made`, too."""
        answer = await _checked(self.student.answer(item), item.timeout_s)
        made.append(answer)
        return answer

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


async def _within(asked: Awaitable[T], seconds: float | None) -> T:
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


def _remaining_s(state: State) -> float | None:
    admitted = state.get("admitted")
    return admitted.remaining_s() if admitted else None


def _draining() -> ServiceError:
    return ServiceError("draining", "the service is going down. Ask again.", 1.0)


async def _checked(asked: Awaitable[Answer], seconds: float | None) -> Answer:
    """An answer that is none is raised.

    Raises:
        ServiceError: the refusal in it, or expired.
    """
    answer = await _within(asked, seconds)
    if answer.refusal:
        raise refusal_of(answer)
    return answer


def _card(folder: Path) -> ModelCard:
    path = folder / CONTRACT_NAME
    if not path.is_file():
        raise StillhouseError(f'{folder} has no {CONTRACT_NAME}. Run "dvc repro".')
    name = MODEL_NAME
    return ModelCard(name, int(path.stat().st_mtime), OWNER, digest(folder)[:12])
