"""A circuit breaker: whoever fails again and again is left alone for a while, then tried by one.

Nygard, "Release It!", 2007. Standard library only; used from one event loop.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving._items import Refusal, ServiceError


class FaultError(ServiceError):
    """A fault of the other side, which counts against it."""

    def __init__(self, refusal: Refusal, message: str, hold_s: float | None = None) -> None:
        """`hold_s`: it asks to be left alone for so long, so nobody comes before."""
        super().__init__(refusal, message, hold_s)
        self.hold_s = hold_s


class Breaker:
    """Open after so many faults in a row, or for as long as the other side asks for."""

    def __init__(
        self,
        name: str,
        faults: int,
        open_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name` is told in refusals; `clock` never goes back [s]."""
        self._name, self._most, self._open_s, self._clock = name, faults, open_s, clock
        self._in_a_row = 0
        self._until: float | None = None
        """None: closed; else open until then, and half open after."""
        self._probing = False

    @property
    def is_closed(self) -> bool:
        """Whether everybody may pass."""
        return self._until is None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Let one attempt pass, and learn from how it ends.

        A `FaultError` counts against the other side. Any other refusal shows that it is there,
        except one for time that was over; that and a cancellation say nothing.

        Raises:
            ServiceError: unavailable, with the time until the next may try.
        """
        is_probe = self._enter()
        try:
            yield
        except FaultError as fault:
            self._fail(fault.hold_s, is_probe)
            raise
        except ServiceError as refusal:
            if refusal.refusal != "expired":
                self._succeed()
            raise
        else:
            self._succeed()
        finally:
            if is_probe:
                self._probing = False

    def _enter(self) -> bool:
        """Whether this attempt is the one that tries."""
        if self._until is None:
            return False
        left_s = self._until - self._clock()
        if left_s > 0 or self._probing:
            message = f"the {self._name} failed and is left alone for a while"
            raise ServiceError("unavailable", message, max(left_s, 1.0))
        self._probing = True
        return True

    def _succeed(self) -> None:
        """A late answer to an attempt from before does not end a pause."""
        if self._until is None or self._clock() >= self._until:
            self._until, self._in_a_row = None, 0

    def _fail(self, hold_s: float | None, is_probe: bool) -> None:
        self._in_a_row += 1
        enough = is_probe or self._in_a_row >= self._most
        pause_s = max(hold_s or 0.0, self._open_s if enough else 0.0)
        if pause_s:
            self._until = max(self._until or 0.0, self._clock() + pause_s)
