"""The HTTP service: the winner of the pipeline next to the traditional baseline.

    bentoml serve serving.service:Stillhouse
    curl -s localhost:3000/generate -H 'content-type: application/json' \\
         -d '{"prompt": "service[checkout-api], metric[error rate], value[7.5 %]"}'

Three services, each in a process of its own: `Stillhouse` listens and lets in, `Student` owns the
model, `Baseline` the classifier. `bentoml serve serving.service:Baseline` runs that one alone. What
they do is in serving/_entry_app.py, _student_service.py and _baseline_service.py; settings are in
serving/_service_settings.py. Models on other machines: serving/_model_address.py.
TLS: --ssl-certfile and --ssl-keyfile of `bentoml serve`.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, cast

import bentoml
from bentoml.exceptions import InvalidArgument
from pydantic import Field
from starlette.types import ASGIApp, Receive, Scope, Send

from serving._baseline_service import answer_items, answer_request, tell_batch
from serving._items import Answer, Item, Prompt, Slots
from serving._keys import open_keyring
from serving._lifecycle import Lifecycle
from serving._model_address import BASELINE_URL, STUDENT_URL, runs_elsewhere
from serving._model_gate import guard_model
from serving._observing import Observers, observers_from
from serving._request_log import log_as_json
from serving._service_settings import ServiceSettings
from serving._starting import check_port, check_start, ends_in_one_line
from serving._student_service import open_student
from serving._warm_up import warm_up
from serving.completion import Request
from serving.errors import StillhouseError
from serving.predictor import load

BATCH = 64
SWITCH_S = 0.0002  # the engine asks for the interpreter at every token; 5 ms is Python's default
# What BentoML calls its longest latency refuses whoever waits when it guesses that they will be
# late, and before it has seen a batch it guesses 2 s for each: far above what may ever wait.
LONGEST_MS = 900_000
# Until the first byte; deadlines are admission's, and shorter.
TRAFFIC = {"timeout": 150}
# BentoML's own figures, log lines and spans have no tenant, no bound and a price on every message;
# ours (serving/_observing.py) stand in their place.
QUIET: Any = {
    "metrics": {"enabled": False},
    "logging": {"access": {"enabled": False}},
    "tracing": {"excluded_urls": [".*"]},
}
LOOPBACK = {"host": "127.0.0.1"}  # unless BENTOML_HOST or --host says otherwise

STUDENT_LIFE, BASELINE_LIFE = Lifecycle("model"), Lifecycle("model")


def settings() -> ServiceSettings:
    """Of this process; a mistake ends it with one line."""
    try:
        open_keyring(os.environ)  # keys that cannot be used are a mistake, too
        return ServiceSettings.from_environment(os.environ)
    except StillhouseError as error:
        raise SystemExit(str(error)) from None


@cache
def observers() -> Observers:
    """Of this process; figures may not be declared twice."""
    return observers_from(os.environ, "stillhouse")


def watch_signals(life: Lifecycle) -> None:
    """Let a process finish what it does before it stops."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    life.watch_signals(Path(folder) if folder else None)


@bentoml.service(name="stillhouse_student", workers=1, traffic=TRAFFIC, http=LOOPBACK, **QUIET)
class Student:
    """The model; only `Stillhouse` reaches it."""

    def __init__(self) -> None:
        log_as_json()
        sys.setswitchinterval(SWITCH_S)
        with ends_in_one_line():
            self.work = open_student(settings(), observers().metrics, STUDENT_LIFE.give_up)

    @bentoml.on_startup
    async def start(self) -> None:
        """Take requests once the model is warm."""
        watch_signals(STUDENT_LIFE)
        await asyncio.to_thread(warm_up, self.work.scheduler)
        STUDENT_LIFE.mark_ready()

    async def __is_ready__(self) -> bool:
        """Whether there is a thread that answers."""
        return self.work.scheduler.alive

    @bentoml.on_shutdown
    def stop(self) -> None:
        """End the model's thread."""
        self.work.scheduler.close()
        observers().tracing.close()

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=LONGEST_MS)
    async def generate(self, items: list[Item]) -> list[Answer]:
        """Answers, one list at a time: lists that wait are joined by BentoML."""
        observers().metrics.observe_items("student", len(items))
        return await self.answer_all(items)

    @bentoml.api
    async def answer(self, items: list[Item]) -> list[Answer]:
        """Answers, whatever else is under way."""
        return await self.answer_all(items)

    async def answer_all(self, items: list[Item]) -> list[Answer]:
        """Answers, with a span of each in the trace that its item names."""
        answers = await self.work.answer(items)
        for item, answer in zip(items, answers, strict=True):
            observers().tracing.record_answer(item, answer)
        return answers

    @bentoml.api
    async def stream(self, item: Item) -> AsyncGenerator[str, None]:
        """An answer as lines of JSON."""
        with observers().metrics.stream_alive():
            async for line in self.work.lines(item):
                yield line

    @bentoml.api
    async def cancel(self, ids: list[str]) -> bool:
        """Drop items whose callers left."""
        self.work.cancel(ids)
        return True


@bentoml.service(name="stillhouse_baseline", workers=1, traffic=TRAFFIC, http=LOOPBACK, **QUIET)
class Baseline:
    """Answers by retrieval, with the probability that the answer is good."""

    def __init__(self) -> None:
        log_as_json()
        with ends_in_one_line():
            self.predictor = load(settings().baseline)

    @bentoml.on_startup
    async def start(self) -> None:
        """Take requests."""
        watch_signals(BASELINE_LIFE)
        BASELINE_LIFE.mark_ready()

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=LONGEST_MS)
    def answer(self, items: list[Item]) -> list[Answer]:
        """Answers of a list; refusals are in them."""
        answers = answer_items(self.predictor, items)
        tell_batch(observers().metrics, answers)
        return answers

    @bentoml.api
    async def cancel(self, ids: list[str]) -> bool:  # noqa: ARG002
        """Nothing: answers take milliseconds."""
        return True

    @bentoml.api(route="/baseline")
    def baseline(
        self, prompt: Prompt, slots: dict[str, str] | None = None, context: str | None = None
    ) -> dict[str, Any]:
        """Answer `prompt`; a record that cannot be parsed or a text too long is a 400."""
        try:
            return answer_request(self.predictor, Request(prompt, slots, context))
        except StillhouseError as error:
            raise InvalidArgument(str(error)) from None


async def routes(scope: Scope, receive: Receive, send: Send) -> None:
    """The entry's own routes, which match every path; models' processes never load them."""
    from serving._entry_app import routes_of

    await routes_of(observers)(scope, receive, send)


def guard_entry(app: ASGIApp) -> ASGIApp:
    """What stands before the entry's routes."""
    from serving._entry_app import guard

    return guard(app, observers)


@bentoml.asgi_app(routes, path="/")
@bentoml.service(
    name="stillhouse",
    workers=1,
    traffic=TRAFFIC,
    http=LOOPBACK,
    runner_probe={"enabled": False},  # its client is what ModelClient avoids; see __is_ready__
    **QUIET,
)
class Stillhouse:
    """What callers reach: lets them in, asks the models, answers in their protocol."""

    if not runs_elsewhere(STUDENT_URL):
        student = bentoml.depends(Student)
    if not runs_elsewhere(BASELINE_URL):
        baseline_service = bentoml.depends(Baseline)

    def __init__(self) -> None:
        from serving._entry_app import EntryWork, reach_models

        log_as_json()
        models = reach_models(settings(), Student, Baseline, BATCH)
        with ends_in_one_line():
            self.work = EntryWork(settings(), *models, observers().metrics)

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Once, before any process starts: one line and no service, where something is wrong."""
        with ends_in_one_line():
            check_port(sys.argv[1:], os.environ)
            check_start(settings(), Path(__file__).parent.parent)

    @bentoml.on_startup
    async def start(self) -> None:
        """Take requests as soon as the models do."""
        watch_signals(self.work.life)
        self.opening = asyncio.create_task(self.work.become_ready())

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Let the connections go."""
        self.opening.cancel()
        await self.work.entry.close()
        observers().tracing.close()

    async def __is_ready__(self) -> bool:
        """Whether the models answer."""
        return await self.work.entry.is_ready()

    @bentoml.api
    async def generate(
        self,
        prompt: Prompt,
        ctx: bentoml.Context,
        context: str | None = None,
        slots: Slots | None = None,
        decoding: dict[str, Any] = {},  # noqa: B006
        answers: Annotated[int, Field(ge=1)] = 1,
    ) -> Any:
        """The student's answer."""
        return await self.work.generate(ctx, prompt, context, slots, decoding, answers)

    @bentoml.api
    async def cascade(
        self,
        prompt: Prompt,
        ctx: bentoml.Context,
        context: str | None = None,
        slots: Slots | None = None,
    ) -> Any:
        """The answer of the first model that is sure of its own."""
        return await self.work.cascade(ctx, prompt, context, slots)

    @bentoml.api
    async def baseline(
        self,
        prompt: Prompt,
        ctx: bentoml.Context,
        context: str | None = None,
        slots: Slots | None = None,
    ) -> Any:
        """The baseline's answer."""
        return await self.work.baseline(ctx, prompt, context, slots)

    @bentoml.api
    async def compare(
        self,
        prompt: Prompt,
        ctx: bentoml.Context,
        context: str | None = None,
        slots: Slots | None = None,
    ) -> Any:
        """Both answers, how alike they are, and what each took."""
        return await self.work.compare(ctx, prompt, context, slots)


for service, guard, options in (
    (Stillhouse, guard_entry, {}),
    (Student, guard_model, {"lifecycle": STUDENT_LIFE, "observers": observers}),
    (Baseline, guard_model, {"lifecycle": BASELINE_LIFE, "observers": observers}),
):
    cast(Any, service).add_asgi_middleware(guard, **options)
    for method in cast(Any, service).apis.values():
        if not method.is_stream:  # else BentoML makes a JSON schema for every response to know it
            method.output_spec.media_type = "application/json"
