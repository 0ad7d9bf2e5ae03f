"""What the scheduler's thread does in one turn: what arrived, then the streams, then a micro-batch.

Everything here belongs to that thread alone; what it shares with callers is in serving/_intake.py.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from serving._answering import TokenPredictor
from serving._batch_answers import Made, answer_batch, encode_alone, observe_batch, refuse_fault
from serving._intake import Intake, refuse_for
from serving._item_decoding import Variants
from serving._items import Answer, Refusal
from serving._jobs import Job, choices
from serving._live_streams import Streams
from serving._micro_batches import Bounds, left_behind, next_batch, padded_cost
from serving._scheduler_counts import BatchObservation, CostModel, StreamObservation
from serving._scheduler_limits import Limits
from serving.completion import Completion


class Turns:
    """Jobs that wait, jobs that stream, and the model that they wait for."""

    def __init__(
        self,
        predictor: TokenPredictor,
        limits: Limits,
        intake: Intake,
        clock: Callable[[], float],
        observe: Callable[[BatchObservation], None],
        observe_stream: Callable[[StreamObservation], None],
    ) -> None:
        """As serving/_scheduler.py has them."""
        self.cost = CostModel()
        self._limits, self._intake, self._clock = limits, intake, clock
        self._bounds = Bounds(limits.batch_tokens, limits.max_rows)
        self._variants = Variants(predictor, limits.batch_tokens, limits.settings)
        self._streams = Streams(intake, limits.max_streams, clock, observe_stream)
        self._observe = observe
        self._waiting: list[Job] = []
        self._dropped: Counter[str] = Counter()
        self._last_rows = 1
        self._last_seconds = 0.0

    def idle_s(self) -> float | None:
        """How long there is nothing to do; None: until something arrives."""
        if self._streams:
            return 0.0
        return self._hold_s() if self._waiting else None

    def turn(self) -> None:
        """Do what there is to do, at most one micro-batch of it."""
        for job in self._intake.take():
            self._sort_in(job)
        self._streams.waiting = self._still_wanted(self._streams.waiting)
        self._streams.run(self._limits.stream_share * self._last_seconds)
        self._last_seconds = 0.0
        self._waiting = self._still_wanted(self._waiting)
        if self._waiting and not self._hold_s():
            self._run_batch()
        elif self._dropped:
            self._tell(BatchObservation(0, 0, 0, 0, 0.0, (), 0, 0, 0))

    def end_all(self, refusal: Refusal) -> None:
        """Refuse all that is left, in whatever state a fault may have left it."""
        self._streams.close()
        self._intake.end_all(refusal)

    def _sort_in(self, job: Job) -> None:
        """Find a job's settings and length, and where it waits; wrong ones are refused here."""
        if not self._still_wanted([job]):
            return
        try:
            job.variant = self._variants.of(job.item)
        except Exception as error:
            self._intake.end(job, refuse_fault(job, error))
            return
        length = job.item.prompt_tokens
        counted = encode_alone(job, job.chosen) if length is None else length
        if isinstance(counted, Answer):
            self._intake.end(job, counted)
            return
        self._intake.correct(job, counted + job.room)
        streams = job.emit and job.item.answers == 1 and job.chosen.streams
        (self._streams.waiting if streams else self._waiting).append(job)

    def _still_wanted(self, jobs: list[Job]) -> list[Job]:
        """Those to be begun yet; the others are ended here, before they cost anything."""
        wanted = []
        for job in jobs:
            late = job.deadline is not None and job.deadline <= self._clock()
            refusal: Refusal = "draining" if job.over.is_set() else "expired"
            if late or job.stopped:
                self._dropped["cancelled" if job.gone else refusal] += 1
                self._intake.end(job, refuse_for(job, refusal))
            else:
                wanted.append(job)
        return wanted

    def _hold_s(self) -> float:
        """How long to wait for as many items as the micro-batch before had.

        Not at all for a list: its sender has gathered what there was, and may send no other before
        it has the answers.
        """
        gathered = not all(job.alone for job in self._waiting)
        if gathered or len(self._waiting) >= self._last_rows:
            return 0.0
        oldest = min(job.arrived for job in self._waiting)
        return max(0.0, oldest + self._limits.gather_s - self._clock())

    def _choose(self) -> list[Job]:
        """Take the jobs of the next micro-batch out of those that wait."""
        waiting, limits = [job.waiting for job in self._waiting], self._limits
        batch = next_batch(waiting, self._bounds, self._clock(), limits.urgent_s, limits.order)
        for index in left_behind(waiting, batch):
            self._waiting[index].overtaken += 1
        chosen = [self._waiting[index] for index in batch]
        self._waiting = [job for index, job in enumerate(self._waiting) if index not in batch]
        return chosen

    def _run_batch(self) -> None:
        """Run the micro-batch whose turn it is."""
        jobs = self._choose()
        cost = padded_cost([job.waiting for job in jobs])
        self._intake.begin(jobs, self.cost.seconds(1, cost))
        started = self._clock()
        made = answer_batch(jobs)
        seconds = self._clock() - started
        if not any(job.stopped for job in jobs) and all(isinstance(m, list) for m in made):
            self.cost.add(cost, seconds)
        self._last_rows, self._last_seconds = len(jobs), seconds
        seen = observe_batch(jobs, made, started, seconds)
        self._intake.count_batch(seen)
        self._tell(seen)  # before the answers: who has one finds it in the figures
        for job, found in zip(jobs, made, strict=True):
            self._give(job, found, seen, started)

    def _tell(self, seen: BatchObservation) -> None:
        """Pass an observation on, with what was dropped since the last one."""
        dropped = self._dropped
        self._observe(replace(seen, cancelled=dropped["cancelled"], expired=dropped["expired"]))
        self._dropped.clear()

    def _give(self, job: Job, found: Made, batch: BatchObservation, started: float) -> None:
        if isinstance(found, Answer):
            self._intake.end(job, found)
        elif job.gone:
            wasted = sum(completion.completion_tokens for completion in found)
            self._intake.end(job, refuse_for(job, "expired"), wasted)
        elif job.over.is_set() and self._is_cut(job, found):
            self._intake.end(job, refuse_for(job, "draining"))
        else:
            if job.item.answers == 1:
                job.say(found[0].text)
            answer = Answer(
                id=job.item.id,
                choices=choices(found),
                prompt_tokens=found[0].prompt_tokens,
                queue_s=started - job.arrived,
                compute_s=batch.seconds,
                batch_rows=batch.rows,
            )
            self._intake.end(job, answer)

    def _is_cut(self, job: Job, found: list[Completion]) -> bool:
        """Whether an answer ended because time was over and not by itself."""
        longest = job.chosen.decoding.max_new_tokens
        return any(c.finish_reason != "stop" and c.completion_tokens < longest for c in found)
