"""How a process ends, and what its run in MLflow is then called."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Status = Literal["FINISHED", "FAILED", "KILLED"]

# Exit codes of a process that Ctrl-C or SIGTERM has ended.
INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


def status_of(error: BaseException) -> Status:
    """What a run is called that ended with `error`."""
    if isinstance(error, SystemExit) and not error.code:
        return "FINISHED"
    if isinstance(error, KeyboardInterrupt):
        return "KILLED"
    return "KILLED" if isinstance(error, SystemExit) and error.code in INTERRUPTED else "FAILED"


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that a stopped stage says so; unless others handle it."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
