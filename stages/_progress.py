"""Progress with an ETA: one line that rewrites itself in a terminal, a plain line at times else."""

import sys
import time
from collections.abc import Callable

LOG_EVERY_S = 10.0


def report_progress(label: str, total: int) -> Callable[[int], None]:
    """Returns `report(done)`; call it after each piece of work with the pieces done so far."""
    terminal = sys.stderr.isatty()
    started = time.monotonic()
    last = started

    def report(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        finished = done >= total
        if not finished and now - last < (0.2 if terminal else LOG_EVERY_S):
            return
        if finished and not terminal and now - started < LOG_EVERY_S:
            return  # short work needs no line in a log
        last = now
        elapsed = now - started
        left = elapsed / max(done, 1) * (total - done)
        line = f"{label}: {done}/{total}, {elapsed:.0f} s, {left:.0f} s left"
        end = "\n" if finished or not terminal else ""
        sys.stderr.write(("\r\x1b[K" if terminal else "") + line + end)
        sys.stderr.flush()

    return report
