"""A service as the page sees it: the page itself and the answers that its requests get."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from serving._page.route import page_route

PROMPT = "service[fare-backend], symptom[timeouts], start[13:15 UTC], customers[90 %]"
SAID = "At 13:50 UTC the fare-backend service suffered timeouts, and refunds were paid."
PAGE = {
    "service": "Stillhouse",
    "version": "0.1.0",
    "models": [
        {"rung": "baseline", "engine": "baseline", "digest": "4be1f09a77c2d1", "threshold": 0.62},
        {"rung": "student", "engine": "ctranslate2", "digest": "9c03d7e1b5aa42", "threshold": 0.7},
        {
            "rung": "teacher",
            "engine": "transformers",
            "digest": "e71a55c09f3b18",
            "threshold": None,
        },
    ],
    "examples": [
        PROMPT,
        "service[partner portal], symptom[slow page loads], duration[3 min], status[resolved]",
        "service[timesheet-sync], symptom[stale data], cause[traffic spike]",
    ],
    "cascade": True,
    "keys": False,
}


def span(text, part, kind, slot):
    """A mark as the server tells it: places are code points."""
    start = text.index(part)
    return {"start": start, "end": start + len(part), "kind": kind, "slot": slot}


def rung(name, text, **changes):
    """One rung's answer, without anything to complain of."""
    told = {
        "rung": name,
        "text": text,
        "error": None,
        "score": 0.91,
        "threshold": 0.7,
        "accepted": True,
        "uncertainty": {"score": 0.08, "parts": {"mean_logprob": 0.05, "slots": 0.0}},
        "checks": {
            "slots": {"state": "ok", "marks": [], "missing": []},
            "grounding": {"state": "ok", "marks": []},
        },
        "latency_ms": 46.2,
        "completion_tokens": 24,
        "cost_usd": 0.0000031,
    }
    return told | changes


def slots(*marks, missing=(), state="found"):
    """The checks of an answer."""
    found = {"state": state, "marks": list(marks), "missing": list(missing)}
    return {"slots": found, "grounding": {"state": "ok", "marks": []}}


@dataclass
class Stub:
    """What the service says next; tests change it as they go."""

    page: dict[str, Any] = field(default_factory=lambda: PAGE)
    answer: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    asked: list[Any] = field(default_factory=list)
    """Bodies of /compare."""
    keys: list[str | None] = field(default_factory=list)
    """What /compare was sent as authorization."""
    paths: set[str] = field(default_factory=set)
    url: str = ""

    async def compare(self, request):
        """/compare"""
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("authorization"))
        return JSONResponse(self.answer, self.status, self.headers)

    async def tell_page(self, request):
        """/page.json"""
        return JSONResponse(self.page)

    async def metrics(self, request):
        """/metrics"""
        return PlainTextResponse(generate_latest(self.registry))

    def app(self):
        """All routes; every path that is asked is noted."""
        routes = [
            page_route(),
            Route("/compare", self.compare, methods=["POST"]),
            Route("/page.json", self.tell_page),
            Route("/metrics", self.metrics),
        ]
        inner = Starlette(routes=routes)

        async def noted(scope, receive, send):
            if scope["type"] == "http":
                self.paths.add(scope["path"])
            await inner(scope, receive, send)

        return noted


@contextmanager
def serving_page():
    """The stub on a free port of loopback, in a thread."""
    stub = Stub()
    config = uvicorn.Config(stub.app(), port=0, log_level="error", lifespan="off", loop="asyncio")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive(), "the stub did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        stub.url = f"http://127.0.0.1:{port}"
        yield stub
    finally:
        server.should_exit = True
        thread.join()
