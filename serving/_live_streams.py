"""Streams under way: one token at a time, whenever the scheduler has time for them."""

from collections.abc import Callable, Iterator
from itertools import pairwise

from serving._batch_answers import refuse_fault
from serving._intake import Intake, refuse_for
from serving._items import Answer
from serving._jobs import Job, choices, refuse
from serving._prompts import TextStream
from serving._scheduler_counts import StreamObservation
from serving.errors import StillhouseError


class LiveStream:
    """One answer, told as pieces of text."""

    def __init__(self, job: Job, clock: Callable[[], float]) -> None:
        """Nothing is encoded or computed before the first step."""
        self.job = job
        self._clock, self._queue_s = clock, clock() - job.arrived
        self._compute_s = 0.0
        self._prompt: list[int] = []
        self._steps: Iterator[tuple[int, float]] | None = None
        self._text = TextStream(job.chosen.prompts)
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._times: list[float] = []

    def step(self) -> Answer | None:
        """Make one token and tell its text; the answer where that was the last one.

        Raises:
            StillhouseError: the prompt is empty or too long.
        """
        began = self._clock()
        try:
            is_whole = self._make_one()
        finally:  # a step that fails took its time as well
            self._compute_s += self._clock() - began
        return self._answer() if is_whole else None

    def _make_one(self) -> bool:
        """One token and its text; whether that was the last one."""
        if self._steps is None:
            request = self.job.request
            self._prompt = self.job.chosen.encode([request])[0]
            self._steps = self.job.chosen.one_by_one(self._prompt, request)
        made = next(self._steps, None)
        if made is not None:
            self._tokens.append(made[0])
            self._logprobs.append(made[1])
            self._times.append(self._clock())
            self.job.say(self._text.add(made[0]))
            if not self._is_last(made[0]):
                return False
        self.job.say(self._text.finish())
        return True

    def close(self) -> StreamObservation:
        """End the computing, and say what it came to."""
        stop = getattr(self._steps, "close", None)  # of a generator
        if stop:
            stop()
        times = [self.job.arrived, *self._times]
        waits = [later - sooner for sooner, later in pairwise(times)]
        made, left = len(self._tokens), self.job.gone
        return StreamObservation(
            first_token_s=waits[0] if waits else None,
            gaps_s=tuple(waits[1:]),
            tokens=made,
            prompt_tokens=len(self._prompt),
            queue_s=self._queue_s,
            compute_s=self._compute_s,
            wasted_tokens=made if left else 0,
            left=left,
        )

    def _is_last(self, token: int) -> bool:
        predictor = self.job.chosen
        return token in predictor.ends or len(self._tokens) == predictor.decoding.max_new_tokens

    def _answer(self) -> Answer:
        completion = self.job.chosen.completion(self._prompt, self._tokens, self._logprobs)
        return Answer(
            id=self.job.item.id,
            choices=choices([completion]),
            prompt_tokens=completion.prompt_tokens,
            queue_s=self._queue_s,
            compute_s=self._compute_s,
            batch_rows=1,
        )


class Streams:
    """Those that are live, in turns, and those that wait for one of them to end."""

    def __init__(
        self,
        intake: Intake,
        most: int,
        clock: Callable[[], float],
        observe: Callable[[StreamObservation], None],
    ) -> None:
        """`most`: live at once [count]; `observe` is told of every stream that was begun."""
        self.waiting: list[Job] = []
        self._intake, self._most, self._clock, self._observe = intake, most, clock, observe
        self._live: list[LiveStream] = []

    def __bool__(self) -> bool:
        """Whether any is live or waits to be."""
        return bool(self._live or self.waiting)

    def run(self, seconds: float) -> None:
        """Give each at least one step, and more as long as `seconds` are not over."""
        until = self._clock() + seconds
        while self:
            self._open()
            for stream in list(self._live):
                self._step(stream)
            if self._clock() >= until:
                return

    def close(self) -> None:
        """End all computing; the answers are for others to give."""
        for stream in self._live:
            stream.close()

    def _open(self) -> None:
        free = self._most - len(self._live)
        begun, self.waiting = self.waiting[:free], self.waiting[free:]
        self._intake.begin(begun)
        self._live += [LiveStream(job, self._clock) for job in begun]
        self._intake.count_streams(len(self._live), 0)

    def _step(self, stream: LiveStream) -> None:
        job = stream.job
        try:
            answer = None if job.stopped else stream.step()
        except StillhouseError as error:  # settings were read before: it is the prompt
            answer = refuse(job, "prompt_too_long", str(error))
        except Exception as error:
            answer = refuse_fault(job, error)
        if job.gone:
            answer = refuse_for(job, "expired")
        elif answer is None and job.over.is_set():
            answer = refuse_for(job, "draining")
        if answer is not None:
            self._end(stream, answer)

    def _end(self, stream: LiveStream, answer: Answer) -> None:
        self._live.remove(stream)
        seen = stream.close()
        self._intake.count_streams(len(self._live), seen.tokens)
        self._observe(seen)
        self._intake.end(stream.job, answer, seen.wasted_tokens)
