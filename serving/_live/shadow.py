"""Shadows: a share of the traffic is answered by other rungs, too, once the answer has gone out.

Which requests is decided by a hash of their id, so that it can be repeated. All is bounded: at most
so many shadowed requests at once, so many more that wait, each rung with a deadline, all with a
budget per hour. What finds no room is dropped and counted, and a fault is an outcome: nothing here
ever reaches a caller. A remote rung is asked only where a check for personal data has run and found
nothing.
"""

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from serving._cascade.route import Place, RungName
from serving._cascade.running import RungModel
from serving._items import Answer, Item
from serving._live.checks import AnswerChecks
from serving._live.comparing import Compared, compared
from serving._spending.prices import PriceOf

Outcome = Literal[
    "answered",
    "refused",  # the rung answered with a refusal
    "expired",  # not within the shadow's deadline
    "failed",  # any other fault
    "remote_forbidden",  # personal data, or no check for it
    "over_budget",
    "dropped",  # no room in the queue
    "stopped",  # the service went down meanwhile
]
HOUR_S = 3600.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShadowRung:
    """A rung that may be asked besides."""

    name: RungName
    place: Place
    model: RungModel


@dataclass(frozen=True)
class Shadowed:
    """What one rung came to."""

    rung: RungName
    outcome: Outcome
    compared: Compared | None = None
    text: str | None = None
    seconds: float = 0.0
    """Of the rung's answer, waiting included."""
    cost_usd: float = 0.0


Done = Callable[[tuple[Shadowed, ...]], None]


@dataclass(frozen=True)
class ShadowLimits:
    """How much of the traffic, and how much at once."""

    share: float = 0.01
    """Of requests, 0 to 1."""
    at_once: int = 2
    """Requests that are shadowed at the same time [count]."""
    waiting: int = 64
    """Requests that may wait for that [count]."""
    deadline_s: float = 30.0
    """For each rung."""
    usd_per_hour: float = 0.1
    """What shadows may cost in an hour; what is under way may pass it. 0: none is asked at all."""


@dataclass(frozen=True)
class _Sampled:
    item: Item
    answered_by: RungName
    given: str
    personal: bool | None
    done: Done


def is_sampled(request_id: str, share: float, salt: str = "") -> bool:
    """Whether a request belongs to the share; the same id always does or never.

    A caller may choose the id: with a `salt` that callers do not know, the share cannot be picked.
    """
    hashed = hashlib.sha256(f"{salt}\0{request_id}".encode()).digest()
    return int.from_bytes(hashed[:7]) < share * 2**56


class Shadow:
    """Asks other rungs in the background; used within one event loop."""

    def __init__(
        self,
        rungs: Sequence[ShadowRung],
        checks: AnswerChecks,
        price: PriceOf,
        limits: ShadowLimits,
        salt: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` counts the hours of the budget [s]."""
        self._rungs, self._checks, self._price = tuple(rungs), checks, price
        self.limits, self._salt, self._clock = limits, salt, clock
        self._waiting: deque[_Sampled] = deque()
        self._running: dict[asyncio.Task[None], _Sampled] = {}
        self._spent: deque[tuple[float, float]] = deque()  # when [s], USD
        self._spent_usd = 0.0
        self._closed = False

    def submit(
        self,
        item: Item,
        answered_by: RungName,
        given: str,
        done: Done,
        *,
        personal: bool | None,
    ) -> None:
        """Take an answer that has gone out; returns at once.

        `personal`: whether the prompt holds personal data; None, not checked, counts as True.
        `done` is called once, from the event loop: with nothing where the request is not sampled,
        else with one result per other rung.
        """
        one = _Sampled(item, answered_by, given, personal, done)
        if not is_sampled(item.id, self.limits.share, self._salt):
            done(())
        elif self._closed:
            self._end(one, "stopped")
        elif len(self._running) < self.limits.at_once:
            self._start(one)
        elif len(self._waiting) < self.limits.waiting:
            self._waiting.append(one)
        else:
            self._end(one, "dropped")

    async def close(self) -> None:
        """Stop; what waits or runs is told as stopped."""
        self._closed = True
        while self._waiting:
            self._end(self._waiting.popleft(), "stopped")
        tasks = list(self._running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, one: _Sampled) -> None:
        task = asyncio.create_task(self._answer(one))
        self._running[task] = one
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        one = self._running.pop(task)
        if task.cancelled():
            self._end(one, "stopped")
        elif error := task.exception():
            _log.error("a shadow's end failed: %s", type(error).__name__)
        if self._waiting and not self._closed:
            self._start(self._waiting.popleft())

    def _others(self, one: _Sampled) -> list[ShadowRung]:
        return [rung for rung in self._rungs if rung.name != one.answered_by]

    def _end(self, one: _Sampled, outcome: Outcome) -> None:
        one.done(tuple(Shadowed(rung.name, outcome) for rung in self._others(one)))

    async def _answer(self, one: _Sampled) -> None:
        """All other rungs, one after the other: shadows have time, callers have not."""
        one.done(tuple([await self._ask(rung, one) for rung in self._others(one)]))

    async def _ask(self, rung: ShadowRung, one: _Sampled) -> Shadowed:
        if rung.place == "remote" and one.personal is not False:
            return Shadowed(rung.name, "remote_forbidden")
        if self._is_over_budget():
            return Shadowed(rung.name, "over_budget")
        began = time.perf_counter()
        outcome, answer = await self._within(rung, self._item(rung, one))
        seconds = time.perf_counter() - began
        cost = self._charge(rung.name, answer, seconds)
        if answer is None:
            return Shadowed(rung.name, outcome, seconds=seconds, cost_usd=cost)
        if answer.refusal or not answer.choices:
            return Shadowed(rung.name, "refused", seconds=seconds, cost_usd=cost)
        text = answer.choices[0].text
        found = await asyncio.to_thread(compared, self._checks, one.item, one.given, text)
        return Shadowed(rung.name, outcome, found, text, seconds, cost)

    async def _within(self, rung: ShadowRung, item: Item) -> tuple[Outcome, Answer | None]:
        try:
            async with asyncio.timeout(self.limits.deadline_s):
                return "answered", await rung.model.answer(item)
        except TimeoutError:
            return "expired", None
        except Exception as error:
            _log.warning("a shadow of %s failed: %s", rung.name, type(error).__name__)
            return "failed", None

    def _item(self, rung: ShadowRung, one: _Sampled) -> Item:
        """The same question, under an id, a deadline and a trace of its own."""
        changed = {
            "id": f"{one.item.id}-shadow-{rung.name}",
            "answers": 1,
            "timeout_s": self.limits.deadline_s,
            "prompt_tokens": None,  # of the model that answered
            "traceparent": None,
        }
        return one.item.model_copy(update=changed)

    def _charge(self, rung: RungName, answer: Answer | None, seconds: float) -> float:
        """Count the cost; without an answer that of the time, for work may have been done."""
        if answer is None:
            cost = self._price(rung, seconds, 0, 0)
        else:
            made = sum(choice.completion_tokens for choice in answer.choices)
            cost = self._price(rung, answer.compute_s, answer.prompt_tokens, made)
        self._spent.append((self._clock(), cost))
        self._spent_usd += cost
        return cost

    def _is_over_budget(self) -> bool:
        """Whether the last hour has cost what it may."""
        while self._spent and self._spent[0][0] <= self._clock() - HOUR_S:
            self._spent_usd -= self._spent.popleft()[1]
        if not self._spent:
            self._spent_usd = 0.0  # differences leave a rest
        return self._spent_usd >= self.limits.usd_per_hour
