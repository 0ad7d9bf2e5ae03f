"""An item in the scheduler's care, from its arrival to its one answer."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Event

from serving._answering import TokenPredictor
from serving._item_decoding import Variant
from serving._items import Answer, Choice, Item, Refusal
from serving._micro_batches import Waiting
from serving.completion import Completion, Request

Emit = Callable[[str | Answer], None]
"""Takes pieces of text and at last the answer; called in the scheduler's thread."""
BYTES_PER_TOKEN = 3
"""For the bound on what waits, as long as tokens are not counted; few texts have less."""


@dataclass(eq=False)
class Job:
    """One item: who waits for it, what it takes, and how it is answered."""

    item: Item
    arrived: float
    tokens: int
    """Prompt and room for the answers, as counted against the bound on what waits."""
    left: Event
    """Set by the caller that does not wait any more."""
    over: Event
    """Set when time is over for everyone."""
    emit: Emit | None = None
    """Of a stream."""
    alone: bool = True
    """Whether no other item arrived with it."""
    future: Future[Answer] = field(default_factory=Future)
    withdrawn: Event = field(default_factory=Event)
    """Set when the future is cancelled."""
    waits: bool = False
    """Whether it counts among what waits."""
    variant: Variant | None = None
    """Once its settings are read."""
    overtaken: int = 0
    """Rounds in which a younger item went before it [count]."""

    def __post_init__(self) -> None:
        withdrawn = self.withdrawn  # a future that knew its job would be a cycle

        def note(future: Future[Answer]) -> None:
            if future.cancelled():
                withdrawn.set()

        self.future.add_done_callback(note)

    @property
    def gone(self) -> bool:
        """Whether its caller left."""
        return self.left.is_set() or self.withdrawn.is_set()

    @property
    def stopped(self) -> bool:
        """Whether no more is to be computed for it."""
        return self.gone or self.over.is_set()

    @property
    def deadline(self) -> float | None:
        """On the clock of arrivals [s]."""
        return None if self.item.timeout_s is None else self.arrived + self.item.timeout_s

    @property
    def request(self) -> Request:
        """What the predictor is asked; it stops within one token when nobody waits."""
        item = self.item
        # As `stopped`, without a look-up or a lock: it is asked after every token of every row.
        left, withdrawn, over = self.left.is_set, self.withdrawn.is_set, self.over.is_set

        def unwanted() -> bool:
            return left() or withdrawn() or over()

        seed = self.variant.seed if self.variant else None
        return Request(item.prompt, item.slots, item.context, unwanted, seed)

    @property
    def chosen(self) -> TokenPredictor:
        """The predictor with its settings, once they are read."""
        assert self.variant, "settings are read before anything is computed"
        return self.variant.predictor

    @property
    def room(self) -> int:
        """Longest answers [tokens], all its rows together, once its settings are read."""
        assert self.variant, "settings are read before anything is computed"
        return self.chosen.decoding.max_new_tokens * self.variant.rows

    @property
    def waiting(self) -> Waiting:
        """What cutting needs to know of it, once its settings are read."""
        assert self.variant, "settings are read before anything is cut"
        return Waiting(
            self.tokens - self.room,
            self.chosen.decoding.max_new_tokens,
            self.arrived,
            self.deadline,
            self.variant.name,
            self.variant.rows,
            self.overtaken,
        )

    def finish(self, answer: Answer) -> None:
        """Give the answer."""
        if self.emit:
            self._emit(self.emit, answer)
        elif self.future.set_running_or_notify_cancel():
            self.future.set_result(answer)

    def say(self, piece: str) -> None:
        """Give a piece of a stream's text."""
        if self.emit and piece:
            self._emit(self.emit, piece)

    def _emit(self, emit: Emit, what: str | Answer) -> None:
        try:
            emit(what)
        except Exception:  # the caller's side is gone, and so is who could be told
            self.left.set()


def refuse(job: Job, refusal: Refusal, message: str) -> Answer:
    """An answer that says why there is none."""
    return Answer(id=job.item.id, refusal=refusal, message=message)


def choices(completions: Sequence[Completion]) -> list[Choice]:
    """Completions as they travel."""
    return [
        Choice(
            text=completion.text,
            finish_reason=completion.finish_reason,
            completion_tokens=completion.completion_tokens,
            confidence=completion.confidence,
            mean_logprob=completion.mean_logprob,
            min_logprob=completion.min_logprob,
        )
        for completion in completions
    ]


def guess_tokens(item: Item, max_new_tokens: int) -> int:
    """Prompt and room for the answers [tokens], without encoding anything."""
    asked = item.decoding.get("max_new_tokens")
    room = asked if type(asked) is int and asked > 0 else max_new_tokens
    size = len(f"{item.prompt}{item.context or ''}".encode(errors="replace"))
    prompt = size // BYTES_PER_TOKEN + 1 if item.prompt_tokens is None else item.prompt_tokens
    return prompt + room * item.answers
