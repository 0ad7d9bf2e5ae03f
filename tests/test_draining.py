"""Under `bentoml serve`, SIGTERM loses no request that was taken, and ends in bounded time."""

import threading
from socket import create_connection

import pytest
from served_process import Served

SERVICE = '''
import asyncio, os, time
from pathlib import Path
import bentoml
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route
from serving._lifecycle import Lifecycle
from serving._probes import LifecycleGate

MODEL, ENTRY = Lifecycle("model"), Lifecycle("entry")
QUIET = {"metrics": {"enabled": False}, "logging": {"access": {"enabled": False}}}

def begin(life):
    life.watch_signals(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
    life.mark_ready()

@bentoml.service(name="model", **QUIET)
class Model:
    def __init__(self):
        begin(MODEL)
    @bentoml.api
    async def work(self, number: int) -> int:
        return number

async def stream(request):
    ended, n = asyncio.Event(), 0
    async def pieces():
        with ENTRY.told_to_end(ended.set):
            yield "data: begun\\n\\n"
            await ended.wait()
            yield "data: draining\\n\\n"
    return StreamingResponse(pieces(), media_type="text/event-stream")

@bentoml.service(name="entry", http={"host": "127.0.0.1"}, **QUIET)
@bentoml.asgi_app(Starlette(routes=[Route("/stream", stream)]), path="/")
class Entry:
    model = bentoml.depends(Model)
    def __init__(self):
        begin(ENTRY)
    @bentoml.api
    async def twice(self, number: int) -> int:
        """Asks the model once more when the process drains already."""
        number = await self.model.work(number)
        Path("begun").touch()
        while ENTRY.state != "draining":
            await self.model.work(number)  # a connection that rests for 5 s is closed under it
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.5)
        return await self.model.work(number + 1)
    @bentoml.api
    def stuck(self) -> int:
        Path("begun").touch()
        time.sleep(300)
        return 0

Model.add_asgi_middleware(LifecycleGate, lifecycle=MODEL)
Entry.add_asgi_middleware(LifecycleGate, lifecycle=ENTRY)
'''


@pytest.fixture
def serve(tmp_path):
    started = []

    def start(**limits):
        names = {f"STILLHOUSE_DRAIN_{name}_S": str(seconds) for name, seconds in limits.items()}
        started.append(Served(tmp_path, SERVICE, **names))
        return started[-1]

    yield start
    for served in started:
        served.stop()


@pytest.mark.slow
def test_a_request_under_way_gets_its_answer_although_all_processes_got_sigterm(serve, tmp_path):
    served, found = serve(NOTICE=2, LIMIT=30), []
    request = threading.Thread(target=lambda: found.append(served.ask("/twice", {"number": 1})))
    request.start()
    served.until((tmp_path / "begun").exists)
    served.process.terminate()
    served.until(lambda: served.ask("/readyz") == (503, b'{"state": "draining"}'))
    request.join(60)
    assert found == [(200, b"2")], served.log.read_text()
    assert served.process.wait(60) == 0


@pytest.mark.slow
def test_streams_end_with_their_event_when_the_time_is_up(serve):
    served = serve(NOTICE=0, LIMIT=0.5)
    with create_connection(("127.0.0.1", served.port), timeout=60) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nhost: x\r\n\r\n")
        reader = connection.makefile("rb")
        while b"begun" not in reader.readline():
            pass
        served.process.terminate()
        assert b"data: draining" in reader.read()
    assert served.process.wait(60) == 0


@pytest.mark.slow
def test_a_thread_that_hangs_does_not_keep_the_service(serve, tmp_path):
    served = serve(NOTICE=0, LIMIT=0.5)
    request = threading.Thread(target=lambda: served.ask("/stuck", {}))
    request.start()
    served.until((tmp_path / "begun").exists)
    served.process.terminate()
    served.process.wait(60)
    request.join(60)
    assert not request.is_alive()
