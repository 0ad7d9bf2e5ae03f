"""From start to stop: whether a process takes work, and how it ends without losing what it took.

`bentoml serve` passes SIGTERM to all its processes at once. By itself uvicorn then stops listening
within 0.1 s, but the supervisor holds the same socket open, so that a new connection (a readiness
probe too) hangs; and a model's process is gone before the entry has sent it all it had accepted.
So each process takes the signal first and hands it to uvicorn when its work is done:

    starting → ready → draining → stopped          (broken: alive no more, to be started again)

The entry drains for `notice_s` at least and `limit_s` at most, then streams are told to end, then
what is left is cut. A model's process goes on until the entry has gone: both hold one lock file.
"""

import asyncio
import fcntl
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal

from serving._items import ServiceError
from serving.errors import StillhouseError

State = Literal["starting", "ready", "draining", "stopped", "broken"]
Role = Literal["entry", "model"]
SIGNALS = (signal.SIGTERM, signal.SIGINT)
LOCK = "entry.lock"
POLL_S = 0.05
CUT = "the time to drain is up"


@dataclass(frozen=True)
class DrainLimits:
    """How long each part of stopping may take [s]."""

    notice_s: float = 2.0
    """Readiness is false for so long before the entry stops listening: balancers look rarely."""
    limit_s: float = 20.0
    """For the requests under way, the notice included; below the 30 s that Kubernetes gives."""
    last_word_s: float = 1.0
    """For the last event of streams that are told to end, and once more for what is cut."""

    @property
    def total_s(self) -> float:
        """When the process is gone in any case."""
        return self.limit_s + 4 * self.last_word_s

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "DrainLimits":
        """STILLHOUSE_DRAIN_NOTICE_S and STILLHOUSE_DRAIN_LIMIT_S.

        Raises:
            StillhouseError: not a number of seconds, or a notice longer than the limit.
        """
        notice = _seconds(environment, "STILLHOUSE_DRAIN_NOTICE_S", cls.notice_s)
        limit = _seconds(environment, "STILLHOUSE_DRAIN_LIMIT_S", cls.limit_s)
        if notice > limit:
            raise StillhouseError(
                f"STILLHOUSE_DRAIN_NOTICE_S is {notice:g}, more than STILLHOUSE_DRAIN_LIMIT_S, "
                f"{limit:g}. The notice is a part of the limit: lower one or raise the other."
            )
        return cls(notice_s=notice, limit_s=limit)


class Lifecycle:
    """What state a process is in, and what is under way in it; one per process."""

    def __init__(self, role: Role = "entry", limits: DrainLimits | None = None) -> None:
        """`limits`: None for those of the environment, read by `watch_signals`."""
        self.role: Role = role
        self.limits = limits or DrainLimits()
        self._limits_open = limits is None
        self.state: State = "starting"
        self.why_broken: str | None = None
        self._under_way: dict[asyncio.Task[Any], None] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._told: list[Callable[[], None]] = []
        self._time_is_up = False
        self._servers: dict[int, Any] = {}
        self._lock: IO[str] | None = None
        self._interrupts = 0

    def mark_ready(self) -> None:
        """Loaded and warm; without effect once it drains or is broken.

        What is loaded stays, so the garbage collector need not look at it again and again: a full
        collection stops everything for as long as there are objects to look at.
        """
        if self.state == "starting":
            gc.collect()
            gc.freeze()
        if self.state == "starting":  # still: a signal may have come meanwhile
            self.state = "ready"

    def mark_broken(self, why: str) -> None:
        """It will not answer again, such as when the model's thread has ended: /livez says so."""
        self.state, self.why_broken = "broken", why

    def give_up(self) -> None:
        """End a process whose model's thread died, when what was under way has been refused.

        The supervisor starts it again.
        """
        self.mark_broken("the model's thread has ended")
        threading.Timer(self.limits.last_word_s, os._exit, (1,)).start()

    @property
    def under_way(self) -> int:
        """Requests that have begun and not ended [count]."""
        return len(self._under_way)

    def check_open(self) -> None:
        """Refuse new work unless the process takes it.

        Raises:
            ServiceError: draining, or unavailable before it is ready and when it is broken.
        """
        if self.state in ("draining", "stopped"):
            raise ServiceError("draining", "This instance is stopping. Try again.", 1.0)
        if self.state != "ready":
            raise ServiceError("unavailable", f"This instance is {self.state}. Try again.", 1.0)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count the current task as a request under way."""
        task = asyncio.current_task()
        assert task is not None, "a request is counted in its own task"
        self._under_way[task] = None
        self._idle.clear()
        try:
            yield
        finally:
            self._under_way.pop(task, None)
            if not self._under_way:
                self._idle.set()

    @contextmanager
    def told_to_end(self, tell: Callable[[], None]) -> Iterator[None]:
        """Within it, `tell` is called once when the time for streams is up (now, if it is)."""
        if self._time_is_up:
            tell()
        self._told.append(tell)
        try:
            yield
        finally:
            self._told.remove(tell)

    def watch_signals(self, folder: Path | None = None) -> None:
        """Take SIGTERM and SIGINT before the server does; call it while the service starts.

        There the loop runs and uvicorn has set its handlers. `folder` is shared by the processes
        of one service and no other (PROMETHEUS_MULTIPROC_DIR). Off the main thread, where Python
        takes no signals (a test client), they are left alone.

        Raises:
            StillhouseError: the limits in the environment are wrong.
        """
        if self._limits_open:
            self.limits = DrainLimits.from_environment(os.environ)
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        if folder is not None:
            self._lock = _open_lock(folder, self.role)
        for number in SIGNALS:
            self._servers[number] = signal.getsignal(number)
            signal.signal(number, lambda n, frame: self._take(loop, n, frame))

    def _take(self, loop: asyncio.AbstractEventLoop, number: int, _: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:  # a person pressed Ctrl-C again
            self._hand_over(number)
        if self.state not in ("draining", "stopped"):
            self.state = "draining"  # here, not in the loop: it may be busy
            loop.call_soon_threadsafe(self._begin, number)

    def _begin(self, number: int) -> None:
        task = asyncio.get_running_loop().create_task(self.drain())
        task.add_done_callback(lambda _: self._hand_over(number))

    async def drain(self) -> None:
        """Return when nothing is under way, in bounded time; what will not end is cancelled."""
        self.state = "draining"
        limits = self.limits
        if self.role == "model" and self._lock is not None and not _is_free(self._lock):
            await self._wait_for_entry(self._lock)
        else:
            await asyncio.sleep(limits.notice_s)
            await self._idle_within(limits.limit_s - limits.notice_s)
        self._time_is_up = True
        for tell in list(self._told):
            tell()
        if not await self._idle_within(limits.last_word_s):
            for task in list(self._under_way):
                task.cancel(CUT)
            await self._idle_within(limits.last_word_s)
        self.state = "stopped"

    async def _idle_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._idle.wait(), max(seconds, 0.0))
        except TimeoutError:
            return False
        return True

    async def _wait_for_entry(self, lock: IO[str]) -> None:
        """Until no entry holds the lock, which the system frees however a process ends."""
        for _ in range(int(self.limits.total_s / POLL_S)):
            if _is_free(lock):
                return
            await asyncio.sleep(POLL_S)

    def _hand_over(self, number: int) -> None:
        """Let the server stop; it waits without limit, which a thread that hangs would use."""
        timer = threading.Timer(2 * self.limits.last_word_s, _leave)
        timer.daemon = True
        timer.start()
        handler = self._servers[number]
        if callable(handler):
            handler(number, None)
        else:
            signal.signal(number, handler)
            signal.raise_signal(number)


def _open_lock(folder: Path, role: Role) -> IO[str]:
    """The lock file of one service; the entry holds it for as long as its process lives."""
    lock = (folder / LOCK).open("a")
    if role == "entry":
        fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def _is_free(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _leave() -> None:
    """End the process where a thread would keep it for good."""
    print("stillhouse: a request did not end in time; the process ends", file=sys.stderr)  # noqa: T201
    sys.stderr.flush()
    os._exit(1)


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, "")
    try:
        found = float(text) if text else default
    except ValueError:
        found = -1.0
    if not 0.0 <= found <= 3600.0:
        raise StillhouseError(f"{name} is {text!r}. Give seconds between 0 and 3600.")
    return found
