"""What the model's process does with items, apart from how it is called (serving/service.py).

Whoever leaves says so by id, maybe before the item has come out of BentoML's queue: that is kept
for a while, so that the item is dropped when it comes.
"""

import asyncio
import json
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event

from serving._answering import TokenPredictor
from serving._free_memory import free_memory
from serving._items import Answer, Item
from serving._memory_use import gpu_memory
from serving._metrics import Metrics
from serving._scheduler import Scheduler
from serving._scheduler_counts import BatchObservation, Counts, StreamObservation
from serving._scheduler_limits import Limits
from serving._service_settings import ServiceSettings, check_digest
from serving._token_budget import compute_budget, read_shape
from serving.contract import digest, read_contract
from serving.errors import StillhouseError
from serving.predictor import load

logger = logging.getLogger(__name__)
REMEMBERED = 4096
"""Ids of callers who left, whose items are not here [count]."""


class StudentWork:
    """The scheduler as coroutines; one per process, used from its event loop."""

    def __init__(self, scheduler: Scheduler) -> None:
        """`scheduler` is this process's."""
        self.scheduler = scheduler
        self._here: dict[str, Event] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()

    async def answer(self, items: Sequence[Item]) -> list[Answer]:
        """Answers in the order of `items`; what goes wrong with one is in its answer."""
        with self._present(items) as left:
            futures = self.scheduler.submit_many(items, left)
            return await asyncio.gather(*map(asyncio.wrap_future, futures))

    async def lines(self, item: Item) -> AsyncGenerator[str, None]:
        """A stream as JSON lines: {"piece": …} as they come and {"answer": …} at last.

        It begins with an empty line: BentoML notices that a caller left after the first line only.
        Leaving ends the work within one step.
        """
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[str | Answer] = asyncio.Queue()

        def emit(one: str | Answer) -> None:
            loop.call_soon_threadsafe(arrived.put_nowait, one)

        with self._present([item]) as left:
            try:
                yield "\n"
                self.scheduler.stream(item, emit, left[0])
                while isinstance(one := await arrived.get(), str):
                    yield json.dumps({"piece": one}) + "\n"
                yield json.dumps({"answer": one.model_dump()}) + "\n"
            finally:
                left[0].set()

    def cancel(self, ids: Iterable[str]) -> None:
        """Nobody waits for these any more."""
        for identifier in ids:
            if event := self._here.get(identifier):
                event.set()
                continue
            self._gone[identifier] = None
            if len(self._gone) > REMEMBERED:
                self._gone.popitem(last=False)

    @contextmanager
    def _present(self, items: Sequence[Item]) -> Iterator[list[Event]]:
        """An event per item, set when its caller leaves; those who left before it came as well."""
        events = []
        for item in items:
            event = self._here.setdefault(item.id, Event())
            if item.id in self._gone:
                del self._gone[item.id]
                event.set()
            events.append(event)
        try:
            yield events
        finally:
            for item in items:
                self._here.pop(item.id, None)


def open_student(
    settings: ServiceSettings,
    metrics: Metrics | None = None,
    on_death: Callable[[], None] | None = None,
) -> StudentWork:
    """Load the model that the settings name, its files checked, and start its scheduler.

    `on_death` is called in the scheduler's thread if that ends by a fault.

    Raises:
        StillhouseError: no such model, one that is not what its contract or models/winner.json
            says, or one that makes no tokens.
    """
    folder = settings.student_folder()
    check_student(settings)
    predictor = load(folder)
    if not isinstance(predictor, TokenPredictor):
        raise StillhouseError(
            f"{folder} has the engine {predictor.contract.engine}, which makes no tokens itself. "
            f"Name the student or a variant of it in STILLHOUSE_STUDENT."
        )
    limits = _limits(folder, predictor, settings)
    if metrics is None:
        return StudentWork(Scheduler(predictor, limits, on_death=on_death))
    metrics.set_limits("student", limits.batch_tokens, limits.max_rows)
    metrics.set_model("student", predictor.contract.engine, digest(folder))

    def counts() -> Counts:
        return work.scheduler.counts

    tell = (tell_batches(metrics, counts), tell_streams(metrics, counts))
    work = StudentWork(Scheduler(predictor, limits, *tell, on_death=on_death))
    return work


def _limits(folder: Path, predictor: TokenPredictor, settings: ServiceSettings) -> Limits:
    """What fits beside the loaded model, and no more than is good for it; it is logged.

    Raises:
        StillhouseError: not even one request fits, or less than a person wants.
    """
    usual = Limits(
        max_waiting=settings.max_queue_items, max_waiting_tokens=settings.max_queue_tokens
    )
    tokens, rows = settings.batch_tokens, settings.max_batch_rows
    try:
        read_shape(folder, predictor.contract.engine)
    except StillhouseError as error:  # a folder of before, which holds no shape
        logger.warning("no token budget is known, the usual one is taken: %s", error)
        tokens, rows = tokens or usual.batch_tokens, rows or usual.max_rows
        return replace(usual, batch_tokens=tokens, max_rows=rows)
    memory = free_memory(_cuda_free(predictor))
    budget = compute_budget(folder, predictor.contract, memory, max_tokens=tokens, max_rows=rows)
    logger.info("token budget: %s", json.dumps(budget.to_dict()))
    return replace(
        usual,
        batch_tokens=tokens or min(usual.batch_tokens, budget.tokens),
        max_rows=rows or min(usual.max_rows, budget.rows),
    )


def _cuda_free(predictor: TokenPredictor) -> int | None:
    """Free memory of the device that the model is on [bytes]; None on a CPU."""
    if "cuda" not in str(getattr(predictor, "device", "cpu")):
        return None
    devices = gpu_memory()
    return devices[0].total_bytes - devices[0].used_bytes if devices else None


def check_student(settings: ServiceSettings) -> None:
    """Refuse a folder that is not what its contract and models/winner.json say.

    Raises:
        StillhouseError: what is wrong with it.
    """
    folder = settings.student_folder()
    read_contract(folder)
    check_digest(folder, digest(folder))


def tell_batches(
    metrics: Metrics, counts: Callable[[], Counts]
) -> Callable[[BatchObservation], None]:
    """The scheduler's observer of micro-batches; `counts` are its own, of now."""

    def tell(seen: BatchObservation) -> None:
        metrics.observe_batch(
            "student",
            rows=seen.rows,
            real_tokens=seen.real_tokens,
            padded_tokens=seen.padded_tokens,
            seconds=seen.seconds,
            queue_s=seen.queue_s,
        )
        prompts = seen.real_tokens - seen.made_tokens
        metrics.count_tokens("student", prompts, seen.made_tokens, seen.wasted_tokens)
        metrics.count_cancelled("student", "waiting", seen.cancelled)
        metrics.count_cancelled("student", "computing", seen.left)
        metrics.count_expired("student", seen.expired)
        _set_queue(metrics, counts())

    return tell


def tell_streams(
    metrics: Metrics, counts: Callable[[], Counts]
) -> Callable[[StreamObservation], None]:
    """The scheduler's observer of streams; `counts` are its own, of now."""

    def tell(seen: StreamObservation) -> None:
        metrics.observe_stream(
            "student",
            seen.first_token_s,
            seen.gaps_s,
            queue_s=seen.queue_s,
            compute_s=seen.compute_s,
        )
        metrics.count_tokens("student", seen.prompt_tokens, seen.tokens, seen.wasted_tokens)
        if seen.left:
            metrics.count_cancelled("student", "computing")
        _set_queue(metrics, counts())

    return tell


def _set_queue(metrics: Metrics, now: Counts) -> None:
    metrics.set_queue("student", now.waiting_items, now.waiting_tokens)
