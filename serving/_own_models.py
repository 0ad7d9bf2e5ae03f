"""Student and baseline in the entry's own process, for where there is one process and no more."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

from serving._baseline_service import answer_items, tell_batch
from serving._items import Answer, Item
from serving._observing import Observers
from serving._student_service import StudentWork
from serving.predictor import Predictor


class OwnStudent:
    """The scheduler's thread, asked without a socket between."""

    def __init__(self, work: StudentWork, observers: Observers) -> None:
        """`work` is closed with this."""
        self._work, self._observers = work, observers

    async def answer(self, item: Item) -> Answer:
        """The answer, a refusal perhaps; cancelling it cancels the work."""
        asked = asyncio.ensure_future(self._work.answer([item]))
        try:
            (answer,) = await asyncio.shield(asked)
        except asyncio.CancelledError:
            self._work.cancel([item.id])
            raise
        self._observers.tracing.record_answer(item, answer)
        return answer

    async def stream(self, item: Item) -> AsyncGenerator[str | Answer, None]:
        """Pieces of text and at last the answer; closing it ends the work."""
        with self._observers.metrics.stream_alive():
            async with aclosing(self._work.lines(item)) as lines:
                async for line in lines:
                    if line.strip():
                        found = json.loads(line)
                        yield Answer(**found["answer"]) if "answer" in found else found["piece"]

    async def is_ready(self) -> bool:
        """Whether there is a thread that answers."""
        return self._work.scheduler.alive

    async def close(self) -> None:
        """End the thread."""
        await asyncio.to_thread(self._work.scheduler.close)


class OwnBaseline:
    """The predictor, one item at a time, beside the loop."""

    def __init__(self, predictor: Predictor, observers: Observers) -> None:
        self._predictor, self._observers = predictor, observers
        self._turn = asyncio.Lock()

    async def answer(self, item: Item) -> Answer:
        """The answer, a refusal perhaps; it takes milliseconds, so it is never cancelled."""
        async with self._turn:
            (answer,) = await asyncio.to_thread(answer_items, self._predictor, [item])
        tell_batch(self._observers.metrics, [answer])
        return answer

    async def is_ready(self) -> bool:
        """Always: there is nothing to wait for."""
        return True

    async def close(self) -> None:
        """Nothing is held."""
