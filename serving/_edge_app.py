"""The entry and both models as one ASGI app, for serving/edge.py."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from serving._cascade.checking import check_cascade
from serving._entry_app import ENTRY, LIFE, EntryWork, guard, routes_of
from serving._entry_models import AskedModel
from serving._items import Item
from serving._native import BODIES, Status
from serving._observing import Observers, observers_from
from serving._own_models import OwnBaseline, OwnStudent
from serving._page.facts import examples_of
from serving._request_log import log_as_json
from serving._service_settings import ServiceSettings
from serving._student_service import open_student
from serving._warm_up import warm_up
from serving.contract import Contract
from serving.predictor import load

Method = Callable[..., Awaitable[Any]]


@dataclass
class Call:
    """What the entry's native endpoints take as their context."""

    request: Request
    response: Status


def edge_app() -> ASGIApp:
    """The app, its models loaded; once per process.

    Raises:
        StillhouseError: wrong settings, or a model that is missing or not what it should be.
    """
    settings = ServiceSettings.from_environment(os.environ)
    check_cascade(settings)
    observers = observers_from(os.environ, "stillhouse")
    student = open_student(settings, observers.metrics, LIFE.give_up)
    models = OwnStudent(student, observers), OwnBaseline(load(settings.baseline), observers)
    work = EntryWork(settings, *models, observers.metrics)

    @asynccontextmanager
    async def living(_: Starlette) -> AsyncIterator[None]:
        log_as_json()
        LIFE.watch_signals()
        await asyncio.to_thread(warm_up, student.scheduler)
        await _ask_examples(models, student.scheduler.predictor.contract)
        opening = asyncio.create_task(work.become_ready())
        yield
        opening.cancel()
        await ENTRY.close()
        observers.tracing.close()

    return guard(_app(work, lambda: observers, living), lambda: observers)


def _app(work: EntryWork, observers: Callable[[], Observers], living: Any) -> Starlette:
    """The entry's routes, and those that are BentoML's elsewhere."""
    methods: dict[str, Method] = {path: getattr(work, path.strip("/")) for path in BODIES}
    app = routes_of(observers)
    app.routes[:0] = [
        Route("/readyz", _ready),
        *(Route(path, _native(path, method), methods=["POST"]) for path, method in methods.items()),
    ]
    app.router.lifespan_context = living
    return app


def _native(path: str, method: Method) -> Callable[[Request], Awaitable[Response]]:
    """A native endpoint; the gate has checked the body."""

    async def answer(request: Request) -> Response:
        body = BODIES[path].model_validate_json(await request.body())
        found = await method(Call(request, Response()), **body.model_dump())
        return found if isinstance(found, Response) else JSONResponse(found)

    return answer


async def _ask_examples(models: Sequence[AskedModel], contract: Contract) -> None:
    """Have what is made at a first record, such as patterns, made before the first caller's."""
    usual = {"max_new_tokens": ENTRY.preparer.max_output_tokens}
    for prompt in examples_of(contract) or ["warm"]:
        for model in models:
            await model.answer(Item(id="warm-up", prompt=prompt, decoding=usual))


async def _ready(_: Request) -> Response:
    """Once the lifecycle is ready: whether the models answer still."""
    return PlainTextResponse(status_code=200 if await ENTRY.is_ready() else 503)
