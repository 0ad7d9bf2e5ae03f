"""A circuit breaker: whoever fails again and again is left alone for a while, then tried by one.

Nygard, "Release It!", 2007. It knows nothing of what is called: its user says of every attempt
whether it worked, failed, or says nothing of the other side. Standard library only; of one event
loop.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class OpenError(Exception):
    """Nobody may pass for now."""

    def __init__(self, left_s: float) -> None:
        """`left_s`: until one may try; 0 where one is trying already [s]."""
        super().__init__(f"left alone for {left_s:.1f} s")
        self.left_s = left_s


class Breaker:
    """Open after so many faults in a row, or for as long as the other side asks for."""

    def __init__(
        self, faults: int, open_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args:
        faults: in a row, after which nobody may pass [count].
        open_s: until one may try [s].
        clock: never goes back [s].
        """
        self._faults, self._open_s, self._clock = faults, open_s, clock
        self._in_a_row = 0
        self._until: float | None = None
        """None: closed; else open until then, and half open after."""
        self._probing = False

    @property
    def is_closed(self) -> bool:
        """Whether everybody may pass."""
        return self._until is None

    @contextmanager
    def attempt(self) -> Iterator["Attempt"]:
        """Let one attempt pass, which then says how it ended.

        One that says neither, being cancelled perhaps, tells nothing of the other side; was it
        the one that tries, the next may.

        Raises:
            OpenError: nobody may pass, or one is trying.
        """
        is_probe = self._until is not None
        if self._until is not None:
            left_s = self._until - self._clock()
            if left_s > 0 or self._probing:
                raise OpenError(max(left_s, 0.0))
            self._probing = True
        try:
            yield Attempt(self, is_probe)
        finally:
            if is_probe:
                self._probing = False

    def succeed(self) -> None:
        """A late answer to an attempt from before does not end a pause."""
        if self._until is None or self._clock() >= self._until:
            self._until, self._in_a_row = None, 0

    def fail(self, hold_s: float | None, is_probe: bool) -> None:
        """Count a fault; enough of them, a probe's, or a wish to be left alone open."""
        self._in_a_row += 1
        pauses = [hold_s] if hold_s else []
        if is_probe or self._in_a_row >= self._faults:
            pauses.append(self._open_s)
        if pauses:
            self._until = max(self._until or 0.0, self._clock() + max(pauses))


@dataclass(frozen=True)
class Attempt:
    """One that passed."""

    breaker: Breaker
    is_probe: bool

    def worked(self) -> None:
        """The other side is there."""
        self.breaker.succeed()

    def failed(self, hold_s: float | None = None) -> None:
        """A fault of the other side, which may have asked to be left alone for `hold_s`."""
        self.breaker.fail(hold_s, self.is_probe)
