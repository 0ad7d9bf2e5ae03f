"""A scripted server on loopback, for tests of the load benchmark, and loads on it."""

import asyncio
import json
import threading
from contextlib import contextmanager
from dataclasses import replace

from benchmarks.serve_load.dialects import Dialect, read_answer, write_requests
from benchmarks.serve_load.load import (
    Load,
)

OPENAI = Dialect("completions", "/v1/completions", "m")
WHOLE = {"choices": [{"text": "x", "finish_reason": "stop"}], "usage": {"completion_tokens": 3}}


def reply(status=200, body=WHOLE, headers=""):
    content = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(content)}\r\n{headers}"
    return f"{head}content-type: application/json\r\n\r\n".encode() + content


def stream(*events):
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    data = [f"data: {json.dumps(event)}\n\n".encode() for event in events] + [b"data: [DONE]\n\n"]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in data)
    return head + b"\r\n" + chunks + b"0\r\n\r\n"


@contextmanager
def scripted(answer):
    """A server whose `await answer(number, writer)` deals with each request; gives its port."""
    loop, numbers = asyncio.new_event_loop(), iter(range(10**6))

    async def connected(reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                await answer(next(numbers), writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            writer.close()

    server = loop.run_until_complete(asyncio.start_server(connected, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        server.close()
        loop.close()


def load_on(port, **changes):
    def count(found):
        answer = read_answer(OPENAI, found)
        return answer and answer[1]

    requests = write_requests(OPENAI, port, ["one", "two"], 8)
    return replace(Load(port, requests, count, timeout_s=20.0, seconds=60.0, most=6), **changes)
