"""What counts against a teacher: its faults, not its refusals, and not time that was too short."""

from collections.abc import Iterator
from contextlib import contextmanager

from serving._breaker import Breaker, OpenError
from serving._items import Refusal, ServiceError


class FaultError(ServiceError):
    """A fault of the other side, which counts against it."""

    def __init__(self, refusal: Refusal, message: str, hold_s: float | None = None) -> None:
        """`hold_s`: it asks to be left alone for so long, so nobody comes before."""
        super().__init__(refusal, message, hold_s)
        self.hold_s = hold_s


@contextmanager
def watch(breaker: Breaker, name: str) -> Iterator[None]:
    """Let one attempt pass, and learn from how it ends.

    A `FaultError` counts against the other side. Any other refusal shows that it is there, except
    one for time that was over; that and a cancellation say nothing.

    Args:
        name: of the other side, told in the refusal.

    Raises:
        ServiceError: unavailable, with the time until the next may try.
    """
    try:
        with breaker.attempt() as attempt:
            try:
                yield
            except FaultError as fault:
                attempt.failed(fault.hold_s)
                raise
            except ServiceError as refusal:
                if refusal.refusal != "expired":
                    attempt.worked()
                raise
            attempt.worked()
    except OpenError as closed:
        message = f"the {name} failed and is left alone for a while"
        raise ServiceError("unavailable", message, max(closed.left_s, 1.0)) from None
