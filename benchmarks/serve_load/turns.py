"""Servers side by side: warmed up, then measured in turns, all others standing still meanwhile."""

import asyncio
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks._ratios import ratio_of_medians
from benchmarks.serve_load.dialects import read_answer, write_requests
from benchmarks.serve_load.figures import middle, summarise
from benchmarks.serve_load.load import Load, run_closed_loop, run_open_loop
from benchmarks.serve_load.offline_limit import Offline
from benchmarks.serve_load.peers import OURS
from benchmarks.serve_load.servers import Running, Server, running
from benchmarks.serve_load.wire import Connection, Reply
from serving.errors import StillhouseError
from stages._progress import report_progress

Contender = Running | Offline


class Bench:
    """What every measurement needs: the options and the prompts."""

    def __init__(self, options: Namespace, prompts: Sequence[str]) -> None:
        self.options, self.prompts = options, prompts

    def load(
        self, server: Running, seconds: float, stream: bool = False, most: int | None = None
    ) -> Load:
        """A load on `server` for `seconds`, within the options' bounds."""
        dialect, options = server.server.dialect, self.options
        requests = write_requests(dialect, server.port, self.prompts, options.tokens, stream)

        def count_tokens(reply: Reply) -> int | None:
            answer = read_answer(dialect, reply)
            return answer[1] if answer else None

        timeout, bound = options.timeout_s, most or options.most
        return Load(server.port, requests, count_tokens, timeout, seconds, bound)

    def closed(
        self, server: Running, clients: int, stream: bool = False, most: int | None = None
    ) -> dict[str, Any]:
        """Figures with `clients` at once, the first seconds not counted."""
        ramp, end = self.options.ramp, self.options.ramp + self.options.seconds
        load = self.load(server, end, stream, most)
        outcomes = run_closed_loop(load, clients)
        return summarise(outcomes, ramp, self.end_of([o.due_s for o in outcomes], load))

    def open(self, server: Running, arrivals: Sequence[float], seconds: float) -> dict[str, Any]:
        """Figures of requests due at `arrivals`, the first seconds not counted."""
        load, options = self.load(server, seconds), self.options
        end = self.end_of(arrivals, load)
        return summarise(run_open_loop(load, arrivals), options.ramp, end, options.deadline_s)

    def end_of(self, due: Sequence[float], load: Load) -> float:
        """When a load ended [s]: with its time, or with the last request that it may send.

        Raises:
            StillhouseError: it was over before anything counted.
        """
        end = max(due) if len(due) >= load.most else load.seconds
        if end <= self.options.ramp:
            raise StillhouseError(
                f"{load.most} requests were sent in {end:.2f} s, and the first "
                f"{self.options.ramp:g} s do not count. Raise --most."
            )
        return end


@contextmanager
def taking_turns(
    bench: Bench, servers: Mapping[str, Server], folder: Path
) -> Iterator[dict[str, Running]]:
    """All servers, started one after the other, warm, and standing still."""
    with ExitStack() as stack:
        started: dict[str, Running] = {}
        progress = report_progress("starting servers", len(servers))
        for number, (name, server) in enumerate(servers.items(), start=1):
            log = folder / f"{name}.log"
            started[name] = stack.enter_context(running(server, log, bench.options.start_limit_s))
            warm_up(bench, started[name], log)
            started[name].pause()
            progress(number)
        yield started


def warm_up(bench: Bench, server: Running, log: Path) -> None:
    """Ask alone, then as many at once as there will ever be.

    Raises:
        StillhouseError: not all are answered; nothing is measured of a server that is not well.
    """
    limit_s = bench.options.start_limit_s  # a first request may have to make room or kernels
    for clients in (1, max(bench.options.clients)):
        load = bench.load(server, limit_s, most=2 * clients)
        outcomes = run_closed_loop(replace(load, timeout_s=limit_s), clients)
        if bad := [str(o.result) for o in outcomes if o.result != 200]:
            words = " / ".join(log.read_text(encoding="utf-8").splitlines()[-3:])
            raise StillhouseError(
                f"the server {server.server.name} gave {len(bad)} of {len(outcomes)} requests "
                f"{sorted(set(bad))} while it was warmed up, expected 200; it said: {words[-600:]}."
            )


def take_turn(contender: Contender, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Measure one while all others stand still."""
    contender.resume()
    try:
        return measure()
    finally:
        contender.pause()


def measure_throughput(
    bench: Bench, servers: Mapping[str, Running], limit: Offline | None
) -> dict[str, Any]:
    """Figures by client count and server, and ratios of ours to each."""
    options = bench.options
    found: dict[str, dict[str, list[dict[str, Any]]]] = {str(n): {} for n in options.clients}
    progress, done = report_progress("throughput", options.rounds * len(options.clients)), 0
    for _ in range(options.rounds):
        for clients in options.clients:
            cell = found[str(clients)]
            for name, server in servers.items():
                turn = take_turn(server, lambda s=server, n=clients: bench.closed(s, n))
                check_rate(name, turn)
                cell.setdefault(name, []).append(turn)
            if limit:
                turn = take_turn(limit, lambda n=clients: limit.measure(n, options.seconds))
                cell.setdefault("offline", []).append(turn)
            done += 1
            progress(done)
    return {clients: _compare(cell) for clients, cell in found.items()}


def check_rate(name: str, turn: Mapping[str, Any]) -> None:
    """Refuse a turn that no ratio can be taken of.

    Raises:
        StillhouseError: nothing was answered in the counted time.
    """
    if not turn["tokens_per_s"]:
        raise StillhouseError(
            f"{name} answered nothing in {turn['seconds']:g} s, results {turn['results']}. "
            f"Give it longer with --seconds, or leave it out with --without {name}."
        )


def _compare(cell: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Medians over rounds, and what each of ours is to every other."""
    rates = {name: [turn["tokens_per_s"] for turn in turns] for name, turns in cell.items()}
    ours = [name for name in rates if name.startswith(OURS)]
    return {
        "tokens_per_s": {name: middle(turns, "tokens_per_s") for name, turns in cell.items()},
        "ratios": {
            name: {
                other: ratio_of_medians(rates[name], theirs)
                for other, theirs in rates.items()
                if other != name
            }
            for name in ours
        },
        "rounds": cell,
    }


def measure_agreement(bench: Bench, servers: Mapping[str, Running]) -> dict[str, Any]:
    """What each server answers to the same prompts, asked singly, beside what ours answer.

    A comparison of servers that do different work would be none: tokens per answer show it.
    """
    said = {name: _answers(bench, server) for name, server in servers.items()}
    ours = [name for name in said if name.startswith(OURS)]
    return {
        name: {
            "tokens_per_answer": sum(tokens for _, tokens in answers) / len(answers),
            "same_as": {other: _same_texts(answers, said[other]) for other in ours},
        }
        for name, answers in said.items()
    }


def _same_texts(some: Sequence[tuple[str, int]], others: Sequence[tuple[str, int]]) -> float:
    pairs = zip(some, others, strict=True)
    return sum(a.strip() == b.strip() for (a, _), (b, _) in pairs) / len(some)


def _answers(bench: Bench, server: Running) -> list[tuple[str, int]]:
    """Texts and tokens of the answers to the first few prompts; a refusal is an empty one."""
    count = min(bench.options.agreement, len(bench.prompts))
    requests = bench.load(server, 0.0).requests[:count]

    async def ask() -> list[tuple[str, int]]:
        connection = Connection(server.port)
        replies = [await connection.ask(request) for request in requests]
        connection.close()
        return [read_answer(server.server.dialect, reply) or ("", 0) for reply in replies]

    server.resume()
    said = asyncio.run(asyncio.wait_for(ask(), bench.options.start_limit_s))
    server.pause()
    return said
