"""The entry's process: its routes, and what answers them. The models' processes do not load it.

Routes are mounted while serving/service.py is imported and opened when the process starts, so the
entry is made empty here and filled by `EntryWork`.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from typing import Any, Protocol
from uuid import uuid4

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from serving._cloud.document import operations_of
from serving._cloud.instances import Predict
from serving._cloud.paths import PREDICT, paths_of
from serving._entry import MODEL_NAME, Entry
from serving._entry_gate import guard_entry
from serving._entry_models import AskedModel, StreamedModel
from serving._items import Item, ServiceError, Slots
from serving._lifecycle import Lifecycle
from serving._metrics import Metrics
from serving._model_address import address_of
from serving._model_client import ModelClient
from serving._native import Status, native_asked, reply
from serving._native_document import OPERATIONS, VERSION
from serving._observing import Observers, show_metrics
from serving._openai_requests import Limits
from serving._openai_routes import build_app, direct_routes
from serving._openapi import describe
from serving._page.facts import show_facts
from serving._page.route import page_route
from serving._service_settings import ServiceSettings

LIFE = Lifecycle()
ENTRY = Entry(LIFE)
READY_POLL_S = 0.05
LOG = logging.getLogger(__name__)


class Context(Protocol):
    """What BentoML gives a method that asks for its context."""

    @property
    def request(self) -> Request: ...

    @property
    def response(self) -> Status: ...


@cache
def routes_of(observers: Callable[[], Observers]) -> Starlette:
    """The OpenAI protocol's routes, the page, its figures, /metrics, and what a cloud wants."""
    settings = ServiceSettings.from_environment(os.environ)
    limits, operations = Limits(answers=settings.max_answers), list(OPERATIONS)
    if settings.cloud:
        operations += operations_of(paths_of(settings.cloud, os.environ))
    document = describe(VERSION, operations, limits, [MODEL_NAME])
    app = build_app(ENTRY, limits, openapi=document)
    if settings.cloud == "vertex":
        app.routes.insert(0, Route(PREDICT["vertex"], Predict(ENTRY.generate)))
    app.routes[:0] = [
        Route("/metrics", show_metrics(observers)),
        Route("/page.json", show_facts(ENTRY)),
        page_route(),
    ]
    return app


def guard(app: ASGIApp, observers: Callable[[], Observers]) -> ASGIApp:
    """All that a request passes on its way to a route."""
    return guard_entry(app, LIFE, observers, direct_routes(routes_of(observers)))


def reach_models(
    settings: ServiceSettings, student: Any, baseline: Any, most: int
) -> tuple[ModelClient, ModelClient]:
    """Student and baseline in processes of their own, on this machine or others.

    Args:
        student: BentoML's service of it, which knows where it was started; `baseline` likewise.
        most: items of one list that a model is asked for [count].
    """
    key = settings.models_key
    student_url = address_of(student, settings.student_url)
    classic = ModelClient(
        address_of(baseline, settings.baseline_url), "/answer", most=most, key=key
    )
    if settings.batching == "direct":
        calls = settings.max_queue_items
        return ModelClient(student_url, "/answer", most=1, calls=calls, key=key), classic
    return ModelClient(student_url, "/generate", most=most, key=key), classic


class EntryWork:
    """What the entry's native endpoints do, apart from how they are called."""

    life, entry = LIFE, ENTRY

    def __init__(
        self,
        settings: ServiceSettings,
        student: StreamedModel,
        baseline: AskedModel,
        metrics: Metrics,
    ) -> None:
        """Open the entry on its models.

        Raises:
            StillhouseError: as `Entry.open`.
        """
        ENTRY.open(settings, student, baseline, metrics)

    async def become_ready(self) -> None:
        """Take requests as soon as the models do."""
        said = None
        while LIFE.state == "starting":
            try:
                if await ENTRY.is_ready():
                    await ENTRY.warm_up()
                    LIFE.mark_ready()
            except ServiceError as error:  # a model that is not there any more, or not for us
                if error.message != said:
                    said = error.message
                    LOG.warning("not ready yet: %s", said)
            await asyncio.sleep(READY_POLL_S)

    async def generate(
        self,
        ctx: Context,
        prompt: str,
        context: str | None,
        slots: Slots | None,
        decoding: Mapping[str, Any],
        answers: int,
    ) -> Any:
        """The student's answer."""
        asked = native_asked(prompt, context, slots, decoding, answers)
        return await _reply(ctx, ENTRY.generate(asked, _state(ctx)))

    async def cascade(
        self, ctx: Context, prompt: str, context: str | None, slots: Slots | None
    ) -> Any:
        """The answer of the first model that is sure of its own."""
        asked = native_asked(prompt, context, slots)
        return await _reply(ctx, ENTRY.ask_cascade(asked, _state(ctx)))

    async def baseline(
        self, ctx: Context, prompt: str, context: str | None, slots: Slots | None
    ) -> Any:
        """The baseline's answer."""
        item = Item(id=uuid4().hex, prompt=prompt, context=context, slots=slots)
        return await _reply(ctx, ENTRY.ask_baseline(item, _state(ctx)))

    async def compare(
        self, ctx: Context, prompt: str, context: str | None, slots: Slots | None
    ) -> Any:
        """Both answers, how alike they are, and what each took."""
        item = Item(id=uuid4().hex, prompt=prompt, context=context, slots=slots)
        asked = native_asked(prompt, context, slots)
        return await _reply(ctx, ENTRY.compare(asked, item, _state(ctx)))


def _state(ctx: Context) -> Any:
    return ctx.request.scope["state"]


async def _reply(ctx: Context, work: Coroutine[Any, Any, dict[str, Any]]) -> Any:
    return await reply(ctx.request, ctx.response, work)
