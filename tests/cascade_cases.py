"""Routes, rungs that answer as they are told, and a teacher's service on loopback."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from aiohttp import web

from serving._cascade.route import Route, Rung, RungName
from serving._cascade.running import Cascade, Tried
from serving._cascade.teacher import TeacherService
from serving._items import Answer, Choice, Item, ServiceError
from serving._live.checks import AnswerChecks
from serving._spending.prices import PriceOf

DIGEST = "abc123def456" + "0" * 52
KEY = "sh_0123456789ab_" + "k" * 43
BASELINE = Rung("baseline", "local", 0.8, "confidence", "1" * 64)
STUDENT = Rung("student", "local", -0.2, "mean_logprob", "2" * 64)
TEACHER = Rung("teacher", "remote", None, "mean_logprob", DIGEST)
RUNGS = (BASELINE, STUDENT, TEACHER)


def item(prompt: str = "fish", **changes: Any) -> Item:
    return Item(**({"id": "one", "prompt": prompt} | changes))


def answer(text: str, confidence: float | None = None, mean: float | None = None) -> Answer:
    """An answer of 5 tokens to 10, in a micro-batch of two that took 2 s."""
    choice = Choice(
        text=text,
        finish_reason="stop",
        completion_tokens=5,
        confidence=confidence,
        mean_logprob=mean,
    )
    return Answer(id="one", choices=[choice], prompt_tokens=10, compute_s=2.0, batch_rows=2)


def price(rung: RungName, compute_s: float, prompt_tokens: int, completion_tokens: int) -> float:
    return {"baseline": 1.0, "student": 10.0, "teacher": 100.0}[rung] + compute_s


class Model:
    """A rung that gives the same answer or error to all, once it is let."""

    def __init__(self, given: Answer | Exception, go: bool = True) -> None:
        self.given, self.asked, self.cancelled = given, list[Item](), 0
        self.arrived, self.go = asyncio.Event(), asyncio.Event()
        if go:
            self.go.set()

    async def answer(self, item: Item) -> Answer:
        self.asked.append(item)
        self.arrived.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


class Rungs:
    """A cascade of three models, and what it was observed to try."""

    def __init__(
        self,
        baseline: Any,
        student: Any = None,
        teacher: Any = None,
        priced: PriceOf = price,
        checks: AnswerChecks | None = None,
        **route: Any,
    ) -> None:
        given = {"baseline": baseline, "student": student, "teacher": teacher}
        self.models: dict[Any, Any] = {
            name: Model(one) if isinstance(one, Answer | Exception) else one
            for name, one in given.items()
            if one is not None
        }
        self.seen: list[Tried] = []
        fields = {
            "rungs": RUNGS,
            "otherwise": "abstain",
            "alpha": 0.1,
            "delta": 0.05,
            "error": "slots",
            "prices": {},
            "sha256": "f" * 64,
        }
        made = Route(**(fields | route))
        self.cascade = Cascade(made, self.models, priced, self.seen.append, checks)

    def asked(self) -> dict[str, int]:
        return {name: len(model.asked) for name, model in self.models.items()}


LOCAL_TEACHER = (BASELINE, STUDENT, replace(TEACHER, place="local"))


def completion(text: str = "a fish", fingerprint: str | None = DIGEST[:12], **choice: Any) -> Any:
    """What the service answers; a newer one may say more."""
    scored = {"mean_logprob": -0.1, "confidence": None, "uncertainty": 0.3} | choice
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "choices": [{"index": 0, "text": text, "finish_reason": "stop", **scored}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "cost_usd": 1},
        **({"system_fingerprint": fingerprint} if fingerprint else {}),
    }


class Remote:
    """The teacher's service: plays its script in turn, then goes on answering."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        """Bodies, or pairs of status and headers, or (status, headers, body)."""
        self.seen: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.arrived, self.go, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.go.set()
        self.connections: set[Any] = set()
        self.url = ""

    async def complete(self, request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append((await request.json(), headers))
        self.connections.add(request.transport)
        self.arrived.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.left.set()
            raise
        given = self.script.pop(0) if self.script else completion()
        if isinstance(given, tuple):
            status, headers, *body = given
            text = json.dumps(body[0] if body else {"error": {"code": "x", "message": "secret"}})
            return web.Response(status=status, headers=headers, text=text)
        return web.json_response(given)


@asynccontextmanager
async def remote(**options: Any) -> AsyncIterator[tuple[Remote, TeacherService]]:
    """A service on a free port of this machine, and its client."""
    server = Remote()
    app = web.Application()
    app.add_routes([web.post("/v1/completions", server.complete)])
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    client = TeacherService(server.url, KEY, **({"model_sha256": DIGEST} | options))
    try:
        yield server, client
    finally:
        await client.close()
        await runner.cleanup()


async def refusal(work: Any) -> ServiceError:
    """The refusal that some work ends with."""
    try:
        await work
    except ServiceError as error:
        return error
    raise AssertionError("it was not refused")
