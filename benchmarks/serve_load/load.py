"""Load on a server, bounded in count and time: closed loop and open loop.

A closed loop has N clients, each with one request under way: it asks how much a server can do. An
open loop sends at times drawn beforehand, whatever the server does with what was sent, as callers
do that know nothing of each other: it asks how long they wait. There a latency counts from the
time at which a request was due. Counted from when it was sent, a server (or a generator) that
stalls would delay the very requests that show the stall (Tene 2013, "coordinated omission").
"""

import asyncio
import gc
import itertools
import random
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.serve_load.wire import Connection, Reply

# A status, or why there is none: "broken" is a 200 whose body is no whole answer.
Result = int | Literal["timeout", "connection", "broken"]
MOST_CONNECTIONS = 512  # of an open loop; what is due beyond them waits, and its wait counts


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one request; times in seconds from the start of the load."""

    due_s: float
    sent_s: float
    done_s: float
    result: Result
    tokens: int = 0
    """Of the answer, as the server counts them."""
    first_text_s: float | None = None
    """When the first text came, of a stream."""
    retry_after_s: float | None = None
    """What a refusal asked for."""

    @property
    def latency_s(self) -> float:
        """From when it was due to the last byte."""
        return self.done_s - self.due_s


@dataclass(frozen=True)
class Load:
    """Where to send what, and for how long."""

    port: int
    requests: Sequence[bytes]
    """Taken in turn, again and again."""
    count_tokens: Callable[[Reply], int | None]
    """Tokens of a good reply; None where it holds no whole answer."""
    timeout_s: float
    """Longest wait for one reply, from when it was due."""
    seconds: float
    """No request is sent later."""
    most: int
    """Requests at most [count]."""


def poisson_arrivals(rate: float, seconds: float, most: int, seed: int) -> list[float]:
    """Times of arrival within `seconds`, `rate` per second on average, at most `most`."""
    draw = random.Random(seed)
    gaps = (draw.expovariate(rate) for _ in range(most))
    times = itertools.accumulate(gaps)
    return list(itertools.takewhile(lambda due: due < seconds, times))


def run_closed_loop(load: Load, clients: int) -> list[Outcome]:
    """Outcomes with `clients` requests under way at any time; those begun are waited for."""
    return _run(_closed_loop(load, clients))


def run_open_loop(
    load: Load, arrivals: Sequence[float], connections: int = MOST_CONNECTIONS
) -> list[Outcome]:
    """Outcomes of requests that are due at `arrivals` [s], in their order."""
    return _run(_open_loop(load, arrivals, connections))


def _run(loop: Coroutine[Any, Any, list[Outcome]]) -> list[Outcome]:
    with _no_collector():
        return asyncio.run(loop)


@contextmanager
def _no_collector() -> Iterator[None]:
    """No garbage collection meanwhile: its pauses would be told as the server's."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _closed_loop(load: Load, clients: int) -> list[Outcome]:
    started, numbers = time.perf_counter(), iter(range(load.most))
    outcomes: list[Outcome] = []

    async def ask_on() -> None:
        connection = Connection(load.port)
        for number in numbers:
            due = time.perf_counter() - started
            if due >= load.seconds:
                break
            outcomes.append(await _ask(load, connection, number, due, started))
        connection.close()

    await asyncio.gather(*(ask_on() for _ in range(clients)))
    return outcomes


async def _open_loop(load: Load, arrivals: Sequence[float], connections: int) -> list[Outcome]:
    started = time.perf_counter()
    idle = [Connection(load.port) for _ in range(connections)]
    free = asyncio.Semaphore(connections)

    async def ask(number: int, due: float) -> Outcome:
        async with free:
            connection = idle.pop()  # the one used last, so that few are opened
            try:
                return await _ask(load, connection, number, due, started)
            finally:
                idle.append(connection)

    tasks = []
    for number, due in enumerate(arrivals[: load.most]):
        await asyncio.sleep(started + due - time.perf_counter())
        tasks.append(asyncio.create_task(ask(number, due)))
    outcomes = await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return outcomes


async def _ask(
    load: Load, connection: Connection, number: int, due: float, started: float
) -> Outcome:
    sent = time.perf_counter() - started
    reply: Reply | None = None
    result: Result
    try:
        async with asyncio.timeout(due + load.timeout_s - sent):
            reply = await connection.ask(load.requests[number % len(load.requests)])
        result = reply.status
    except TimeoutError:
        result = "timeout"
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        result = "connection"
    done = time.perf_counter() - started
    if reply is None:
        connection.close()
        return Outcome(due, sent, done, result)
    tokens = load.count_tokens(reply) if reply.status == 200 else 0
    first = None if reply.first_text is None else reply.first_text - started
    wait = reply.headers.get("retry-after", "")
    return Outcome(
        due,
        sent,
        done,
        "broken" if tokens is None else result,
        tokens or 0,
        first,
        float(wait) if wait.replace(".", "", 1).isdigit() else None,
    )
