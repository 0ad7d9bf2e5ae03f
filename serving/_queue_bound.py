"""How much work is taken on at once, in requests and in tokens, and how soon there will be room.

One process, one event loop: every step here runs without a pause in it, so the counts are exact. A
place is given back once, however its request ends.

How soon: what is taken on now, divided by how fast work has lately left. Work is tokens as they
were taken, and one more per request, so that requests without tokens count too. Both sides count
upper bounds: were what leaves counted by its true tokens, known only at its end, the wait would be
too long by bound over truth. The speed is an average over time in
which there was work (idle time says nothing), in which older time weighs less by a half-life; time
without any release counts, so a stall lengthens the answer at once.
"""

import math
import time
from collections.abc import Callable
from typing import Self

from serving._items import ServiceError

HALF_LIFE_S = 10.0
SHORTEST_S, LONGEST_S = 1.0, 60.0  # of a wait that is told


class QueueBound:
    """Work under way, and its bound."""

    def __init__(
        self, max_requests: int, max_tokens: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self.requests = 0
        """Taken on and not over."""
        self.tokens = 0
        """Of those, prompt and longest answer together, as well as it is known."""
        self._taken = 0  # the same before any correction, to measure how fast work leaves
        self._clock = clock
        self._at = clock()
        self._busy_s = 0.0
        self._done = 0.0
        self._ever_done = False

    def check(self) -> None:
        """Look for room without taking it, before a body is read.

        Raises:
            ServiceError: overloaded, with the time until there is room.
        """
        if self.requests >= self.max_requests:
            raise self._refusal(f"{self.requests} requests are under way, as many as are taken on")

    def enter(self) -> "Place":
        """Take a request on.

        Raises:
            ServiceError: overloaded, with the time until there is room.
        """
        self.check()
        self._pass_time()
        self.requests += 1
        return Place(self)

    @property
    def work_per_s(self) -> float | None:
        """How fast work has lately left [tokens + requests per second of work]; None: unknown."""
        self._pass_time()
        return self._done / self._busy_s if self._ever_done and self._busy_s else None

    def wait_s(self) -> float:
        """Time in which all that is under way now will be over [s].

        Before anything ever was, as long again as the work has taken so far.
        """
        speed = self.work_per_s
        wait_s = (self._taken + self.requests) / speed if speed else self._busy_s
        return min(max(wait_s, SHORTEST_S), LONGEST_S)

    def _take(self, tokens: int) -> None:
        if self.tokens + tokens > self.max_tokens:
            raise self._refusal(f"{self.tokens} tokens are under way, and {tokens} do not fit in")
        self.tokens += tokens
        self._taken += tokens

    def _give_back(self, tokens: int, taken: int) -> None:
        self.tokens -= tokens
        self._taken -= taken

    def _leave(self, tokens: int, taken: int) -> None:
        self._pass_time()
        self.requests -= 1
        self._give_back(tokens, taken)
        self._done += taken + 1
        self._ever_done = True

    def _pass_time(self) -> None:
        """Let what was measured fade by the time in which there was work since the last look."""
        now = self._clock()
        if self.requests:
            passed_s = now - self._at
            fade = 0.5 ** (passed_s / HALF_LIFE_S)
            self._done *= fade
            # the integral of the same weights over the time that passed
            self._busy_s = self._busy_s * fade + HALF_LIFE_S / math.log(2) * (1 - fade)
        self._at = now

    def _refusal(self, why: str) -> ServiceError:
        return ServiceError("overloaded", f"{why}. Try again later.", retry_after_s=self.wait_s())


class Place:
    """What one request takes up; a context that gives it back."""

    def __init__(self, bound: QueueBound) -> None:
        self.tokens = 0
        self._taken = 0
        self._bound: QueueBound | None = bound

    def take(self, most: int) -> None:
        """Take up to `most` tokens more; all there are, if they are fewer.

        So a bound from above that is too high is no refusal while there is no other work.

        Raises:
            ServiceError: overloaded, with the time until there is room.
        """
        if self._bound:
            tokens = min(most, self._bound.max_tokens)
            self._bound._take(tokens)
            self.tokens += tokens
            self._taken += tokens

    def undo(self) -> None:
        """Give all tokens back as if they had never been taken: no work came of them."""
        if self._bound:
            self._bound._give_back(self.tokens, self._taken)
            self.tokens = self._taken = 0

    def correct(self, tokens: int) -> None:
        """Give back what was taken beyond `tokens`."""
        if self._bound and tokens < self.tokens:
            self._bound._give_back(self.tokens - tokens, 0)
            self.tokens = tokens

    def release(self) -> None:
        """The request is over; a second time does nothing."""
        bound, self._bound = self._bound, None
        if bound:
            bound._leave(self.tokens, self._taken)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
