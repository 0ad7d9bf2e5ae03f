"""One thread that owns the model: micro-batches by length, streams between, nothing for nobody.

Callers hand in items from any thread and wait on futures. The thread drops what was cancelled or is
past its deadline, cuts what waits into micro-batches (serving/_micro_batches.py), runs the one
whose turn it is, and then gives every live stream at least one step: so a stream waits for one
micro-batch at most, and a micro-batch for a bounded share of the time of the one before. Answers
are the predictor's own, a fault of one item is in its answer, and what waits is bounded.
"""

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Event, Thread
from typing import TypeVar

from serving._answering import TokenPredictor
from serving._intake import Intake
from serving._items import Answer, Item
from serving._jobs import Emit, Job, guess_tokens
from serving._scheduler_counts import BatchObservation, CostModel, Counts, StreamObservation
from serving._scheduler_limits import Limits
from serving._turns import Turns

logger = logging.getLogger(__name__)
Seen = TypeVar("Seen", BatchObservation, StreamObservation)


class Scheduler:
    """Answers items with one predictor, in a thread of its own."""

    def __init__(
        self,
        predictor: TokenPredictor,
        limits: Limits | None = None,
        observe: Callable[[BatchObservation], None] | None = None,
        observe_stream: Callable[[StreamObservation], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_death: Callable[[], None] | None = None,
    ) -> None:
        """Start the thread; nobody else may compute with `predictor` from now on.

        Args:
            observe: called in that thread after every micro-batch.
            observe_stream: called there at the end of every stream that was begun.
            clock: one that never goes back [s].
            on_death: called there once, if the thread ends by a fault; everybody who waited has
                been refused by then, and nothing will be answered any more.
        """
        self.predictor = predictor
        self.limits = limits or Limits()
        self._clock, self._on_death = clock, on_death
        self._intake = Intake(self.limits.max_waiting, self.limits.max_waiting_tokens, clock)
        self._turns = Turns(
            predictor, self.limits, self._intake, clock, _safe(observe), _safe(observe_stream)
        )
        self._thread = Thread(target=self._run, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs; without it nothing is answered."""
        return self._thread.is_alive()

    @property
    def counts(self) -> Counts:
        """A copy of all sums."""
        return self._intake.counts

    @property
    def cost(self) -> CostModel:
        """What a micro-batch costs, as learned so far."""
        return self._turns.cost

    def submit(self, item: Item, cancelled: Event | None = None) -> Future[Answer]:
        """Have one item answered; the answer may be a refusal, the future never holds an error.

        Args:
            cancelled: set by a caller who left; cancelling the future says the same. Before its
                micro-batch begins the item then costs nothing; in one it stops within a token
                (beams end with their batch).
        """
        return self.submit_many([item], [cancelled or Event()])[0]

    def submit_many(
        self, items: Sequence[Item], cancelled: Sequence[Event] | None = None
    ) -> list[Future[Answer]]:
        """`submit` for items that arrive together."""
        lefts = cancelled or [Event() for _ in items]
        alone = len(items) == 1
        jobs = [self._job(item, left, alone) for item, left in zip(items, lefts, strict=True)]
        self._intake.let_in(jobs)
        return [job.future for job in jobs]

    def stream(self, item: Item, emit: Emit, cancelled: Event | None = None) -> None:
        """Have one item answered in pieces of text and at last its answer, a refusal perhaps.

        `emit` is called in the scheduler's thread (in the caller's, where the item is refused at
        once) and must not block; one that raises counts as a caller who left. Where several answers
        compete, the text comes whole, from a micro-batch; with several asked for there is no text,
        and the answer has them.
        """
        self._intake.let_in([self._job(item, cancelled or Event(), emit=emit)])

    def expected_wait_s(self, tokens: int = 0) -> float:
        """Time until what is there, and an item of `tokens` more, should be done.

        Args:
            tokens: its prompt and the room for its answer; 0: what is there alone.
        """
        counts, limits = self.counts, self.limits
        waiting = counts.waiting_tokens + tokens
        rows = counts.waiting_items + bool(tokens)
        batches = max(-(-waiting // limits.batch_tokens), -(-rows // limits.max_rows))
        share = limits.stream_share if counts.live_streams else 0.0
        return self._intake.busy_s + self.cost.seconds(batches, waiting) * (1.0 + share)

    def drain(self, timeout_s: float) -> bool:
        """Take nothing new and finish what is there; whether all of it was done in time.

        Blocks. After `timeout_s` what is left is answered with the refusal "draining", which takes
        no longer than a step of a greedy batch or of a stream.
        """
        return self._intake.drain(timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        """End the thread; what is under way is answered with the refusal "draining"."""
        self._intake.close("draining")
        self._thread.join(timeout_s)

    def _job(self, item: Item, left: Event, alone: bool = True, emit: Emit | None = None) -> Job:
        tokens = guess_tokens(item, self.predictor.decoding.max_new_tokens)
        return Job(item, self._clock(), tokens, left, self._intake.over, emit, alone)

    def _run(self) -> None:
        try:
            self._take_turns()
        except BaseException as error:  # a fault of ours; a tokenizer's panic is no Exception
            last = traceback.extract_tb(error.__traceback__)[-1]
            what = type(error).__name__
            logger.critical("the scheduler ended: %s at %s:%d", what, last.filename, last.lineno)
            if self._on_death:
                self._on_death()

    def _take_turns(self) -> None:
        try:
            while self._intake.wait(self._turns.idle_s()):
                self._turns.turn()
        finally:  # whatever ended it, callers must hear
            self._intake.close("unavailable")
            self._turns.end_all(self._intake.refusal)


def _safe(observe: Callable[[Seen], None] | None) -> Callable[[Seen], None]:
    """A hook whose faults end nobody's answer."""

    def tell(seen: Seen) -> None:
        try:
            if observe:
                observe(seen)
        except Exception as error:
            logger.error("an observer failed: %s", type(error).__name__)

    return tell
