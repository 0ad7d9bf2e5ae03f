"""The door between callers' threads and the scheduler's: what may wait, what is under way, counts.

All that two threads share is here, behind one lock; both sides wait on its condition.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Condition, Event

from serving._items import Answer, Refusal
from serving._jobs import Job, refuse
from serving._scheduler_counts import BatchObservation, Counts

REASONS: dict[Refusal, str] = {
    "overloaded": "too much is waiting",
    "expired": "its time was over before it was begun",
    "draining": "the service is going down",
    "unavailable": "the model's thread has ended",
}


def refuse_for(job: Job, refusal: Refusal) -> Answer:
    """The refusal of a job that is not at fault itself."""
    if job.gone:
        return refuse(job, "expired", "nobody waits for this answer any more")
    return refuse(job, refusal, REASONS[refusal])


class Intake:
    """Jobs that arrived and the counts of all; every job that is let in is ended exactly once."""

    def __init__(
        self, max_waiting: int, max_waiting_tokens: int, clock: Callable[[], float]
    ) -> None:
        """Bounds are those of serving/_scheduler.py."""
        self.over = Event()
        """Set when the time to finish is over: nothing computes any longer."""
        self._max_waiting, self._max_waiting_tokens = max_waiting, max_waiting_tokens
        self._clock = clock
        self._changed = Condition()
        self._arrived: list[Job] = []
        self._under_way: dict[Job, None] = {}
        self._counts = Counts()
        self._batch_ends = 0.0
        self._refusal: Refusal | None = None
        self._closed = False

    @property
    def counts(self) -> Counts:
        """A copy of all sums."""
        with self._changed:
            return replace(self._counts, under_way=len(self._under_way))

    @property
    def refusal(self) -> Refusal:
        """Why nothing is let in any more."""
        return self._refusal or "unavailable"

    @property
    def busy_s(self) -> float:
        """Time that the micro-batch under way should still take."""
        with self._changed:
            return max(0.0, self._batch_ends - self._clock())

    def let_in(self, jobs: Sequence[Job]) -> None:
        """Take jobs that arrive together; what there is no room for is answered at once."""
        refused: list[tuple[Job, Refusal]] = []
        with self._changed:
            for job in jobs:
                reason = self._refusal or self._full(job)
                if reason:
                    refused.append((job, reason))
                    _count_end(self._counts, reason, left=False)
                    continue
                self._arrived.append(job)
                self._under_way[job] = None
                self._wait_for(job, 1)
            self._changed.notify_all()
        for job, reason in refused:
            job.finish(refuse(job, reason, REASONS[reason]))

    def take(self) -> list[Job]:
        """What arrived since the last time."""
        with self._changed:
            arrived, self._arrived = self._arrived, []
            return arrived

    def wait(self, seconds: float | None) -> bool:
        """Until something arrives, at most `seconds`; whether the thread is to go on."""
        with self._changed:
            stirred = bool(self._arrived) or self._closed
            if not stirred and seconds != 0:
                self._changed.wait(seconds)
            return not self._closed

    def correct(self, job: Job, tokens: int) -> None:
        """Count a job that waits with its true `tokens`, where its arrival only guessed."""
        with self._changed:
            self._counts.waiting_tokens += tokens - job.tokens
            job.tokens = tokens

    def begin(self, jobs: Sequence[Job], seconds: float | None = None) -> None:
        """They do not wait any more; `seconds` is what their micro-batch should take."""
        with self._changed:
            for job in jobs:
                self._wait_for(job, -1)
            if seconds is not None:
                self._batch_ends = self._clock() + seconds

    def end(self, job: Job, answer: Answer, wasted_tokens: int = 0) -> None:
        """Count how a job ended, and give it its answer; then it is not under way any more."""
        with self._changed:
            if job.waits:
                self._wait_for(job, -1)
            self._counts.wasted_tokens += wasted_tokens
            _count_end(self._counts, answer.refusal, job.gone)
        job.finish(answer)
        with self._changed:
            del self._under_way[job]
            self._changed.notify_all()

    def end_all(self, refusal: Refusal) -> None:
        """Refuse all that is under way; for the thread's last breath, whatever it died of."""
        for job in list(self._under_way):
            self.end(job, refuse_for(job, refusal))

    def count_batch(self, batch: BatchObservation) -> None:
        """Add a micro-batch to the sums."""
        with self._changed:
            self._batch_ends = 0.0
            sums = self._counts
            sums.batches += 1
            sums.rows += batch.rows
            sums.real_tokens += batch.real_tokens
            sums.padded_tokens += batch.padded_tokens
            sums.made_tokens += batch.made_tokens
            sums.busy_s += batch.seconds

    def count_streams(self, live: int, tokens: int) -> None:
        """Note how many streams are live, and tokens that one made in all."""
        with self._changed:
            self._counts.live_streams = live
            self._counts.made_tokens += tokens

    def drain(self, timeout_s: float) -> bool:
        """Let nothing in and wait until nothing is under way; whether that came in time."""
        with self._changed:
            self._refusal = self._refusal or "draining"
            done = self._changed.wait_for(lambda: not self._under_way, timeout_s)
            if not done:
                self.over.set()
                self._changed.notify_all()
            return done

    def close(self, refusal: Refusal) -> None:
        """Let nothing in any more, and let the thread end."""
        with self._changed:
            self._refusal = self._refusal or refusal
            self._closed = True
            self.over.set()
            self._changed.notify_all()

    def _full(self, job: Job) -> Refusal | None:
        items, tokens = self._counts.waiting_items, self._counts.waiting_tokens + job.tokens
        # An item alone may be above the bound, or it could never be answered.
        full = items >= self._max_waiting or (items > 0 and tokens > self._max_waiting_tokens)
        return "overloaded" if full else None

    def _wait_for(self, job: Job, sign: int) -> None:
        job.waits = sign > 0
        self._counts.waiting_items += sign
        self._counts.waiting_tokens += sign * job.tokens


def _count_end(counts: Counts, refusal: Refusal | None, left: bool) -> None:
    if left:
        counts.cancelled += 1
    elif refusal is None:
        counts.answered += 1
    elif refusal == "overloaded":
        counts.overloaded += 1
    elif refusal == "expired":
        counts.expired += 1
    elif refusal == "draining":
        counts.drained += 1
    else:
        counts.refused += 1
