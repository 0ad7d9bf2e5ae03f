"""Load on the splitter: requests at random times, until somebody says that it is enough."""

import asyncio
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

REQUEST_S = 30.0
ROUTE = "/cascade"
"""Whose answers the service checks for slot errors (docs/live.md)."""


class Load:
    """An open loop of Poisson arrivals in a thread of its own."""

    def __init__(self, url: str, prompts: Sequence[str], per_s: float, seed: int) -> None:
        """`prompts` are sent in an order drawn by `seed`, again and again."""
        self.url, self.per_s, self.results = url, per_s, Counter[str]()
        self._random = random.Random(seed)
        self._prompts = self._random.sample(prompts, len(prompts))
        self._stop = threading.Event()

    @contextmanager
    def sent(self) -> Iterator["Load"]:
        """Send for the length of the block; what is under way at its end is waited for."""
        thread = threading.Thread(target=lambda: asyncio.run(self._send()))
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    async def _send(self) -> None:
        due, tasks = time.monotonic(), set[asyncio.Task[None]]()
        timeout = ClientTimeout(total=REQUEST_S)
        async with ClientSession(connector=TCPConnector(limit=0), timeout=timeout) as session:
            for prompt in itertools.cycle(self._prompts):
                if self._stop.is_set():
                    break
                due += self._random.expovariate(self.per_s)
                await asyncio.sleep(due - time.monotonic())
                task = asyncio.create_task(self._ask(session, prompt))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)

    async def _ask(self, session: ClientSession, prompt: str) -> None:
        try:
            async with session.post(f"{self.url}{ROUTE}", json={"prompt": prompt}) as response:
                await response.read()
                self.results[str(response.status)] += 1
        except (ClientError, TimeoutError) as error:
            self.results[type(error).__name__] += 1
