"""Traces: a span for each request, and in it the spans of its queue and of its computing.

A batch mixes callers and runs in the context of one of them, and not even the same one each time.
So no span here is a child of what the context says: its parent is a `traceparent` that was given,
in the request's header or in its Item; without one it begins a trace of its own.

The standard OTEL_* variables say where spans go. Without an exporter in them there is no tracer at
all: nothing is made and nothing is sent.
"""

import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from serving.errors import StillhouseError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

    from serving._items import Answer, Item

Attribute = str | int | float | bool
Exporter = Literal["none", "otlp", "console"]
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


class RequestSpan:
    """A request's span while it lasts; without a tracer it only passes on what it was given."""

    def __init__(self, span: "Span | None", given: str | None) -> None:
        """`given`: the caller's traceparent."""
        self._span = span
        self._given = given

    @property
    def traceparent(self) -> str | None:
        """What goes into the Item, so that queue and computing are children of this span."""
        if self._span is None:
            return self._given
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, _holding(self._span))
        return carrier.get("traceparent")

    @property
    def trace_id(self) -> str | None:
        """For the log: 32 hexadecimal digits."""
        return parent.split("-")[1] if (parent := self.traceparent) else None

    def set(self, name: str, value: Attribute) -> None:
        """One more attribute; never a text of the request."""
        if self._span is not None:
            self._span.set_attribute(name, value)

    def fail(self, kind: str) -> None:
        """The request failed; `kind` is a refusal or the name of an exception."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_attribute("error.type", kind)
            self._span.set_status(Status(StatusCode.ERROR))


class Tracing:
    """Makes the spans of one process; without a provider none."""

    def __init__(self, provider: "TracerProvider | None" = None) -> None:
        """`provider` has the exporter and the sampler."""
        self._provider = provider
        self._tracer = provider.get_tracer("stillhouse") if provider else None

    @contextmanager
    def request(self, name: str, header: str | None) -> Iterator[RequestSpan]:
        """The span of a request, from now to the end of the block.

        `name`: a route's template. `header`: the caller's traceparent, left out if malformed.
        """
        given = header if header and TRACEPARENT.fullmatch(header) else None
        if self._tracer is None:
            yield RequestSpan(None, given)
            return
        from opentelemetry.trace import SpanKind

        span = self._tracer.start_span(name, context_of(given), SpanKind.SERVER)
        try:
            yield RequestSpan(span, given)
        finally:
            span.end()

    def record_work(
        self,
        traceparent: str | None,
        queue_s: float,
        compute_s: float,
        attributes: Mapping[str, Attribute] | None = None,
        ended_ns: int | None = None,
    ) -> None:
        """The spans "queue" and "compute" of one item, when its micro-batch has ended.

        `ended_ns`: end of the computing [ns since the epoch], now by default.
        """
        if self._tracer is None:
            return
        ended = time.time_ns() if ended_ns is None else ended_ns
        begun = ended - round(compute_s * 1e9)
        parent = context_of(traceparent)
        arrived = begun - round(queue_s * 1e9)
        self._tracer.start_span("queue", parent, start_time=arrived).end(begun)
        compute = self._tracer.start_span("compute", parent, start_time=begun)
        compute.set_attributes(attributes or {})
        compute.end(ended)

    def record_answer(self, item: "Item", answer: "Answer") -> None:
        """`record_work` of an item whose answer is here; a refused one was not computed."""
        if self._tracer is None or answer.refusal:
            return
        made = sum(choice.completion_tokens for choice in answer.choices)
        attributes = {
            "batch.rows": answer.batch_rows,
            "gen_ai.usage.input_tokens": answer.prompt_tokens,
            "gen_ai.usage.output_tokens": made,
        }
        self.record_work(item.traceparent, answer.queue_s, answer.compute_s, attributes)

    def close(self) -> None:
        """Send what is left; the process ends by a signal, which no exit hook survives."""
        if self._provider is not None:
            self._provider.shutdown()


def context_of(traceparent: str | None) -> "Context":
    """The context that a traceparent describes; empty without one, never the current."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    empty = Context()  # None would stand for the current one: the trap
    if traceparent is None:
        return empty
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent}, empty)


def tracing_from(environment: Mapping[str, str], service: str) -> Tracing:
    """Tracing as the standard variables want it; `service` names it unless OTEL_SERVICE_NAME does.

    Raises:
        StillhouseError: an exporter that is not known, or whose package is not installed.
    """
    exporter = exporter_of(environment)
    if exporter == "none":
        return Tracing()
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = {} if environment.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: service}
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter(exporter)))
    return Tracing(provider)


def exporter_of(environment: Mapping[str, str]) -> Exporter:
    """Which exporter the variables ask for: OTLP where there is an endpoint, else none.

    Raises:
        StillhouseError: OTEL_TRACES_EXPORTER names another.
    """
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return "none"
    endpoint = any(environment.get(name) for name in ENDPOINTS)
    wanted = environment.get("OTEL_TRACES_EXPORTER") or ("otlp" if endpoint else "none")
    match wanted:
        case "none" | "otlp" | "console":
            return wanted
    raise StillhouseError(
        f"OTEL_TRACES_EXPORTER is {wanted!r}, this service knows otlp, console and none. "
        f"Name one of them."
    )


def _exporter(exporter: Literal["otlp", "console"]) -> "SpanExporter":
    if exporter == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        # the library's default is the stream of the time of its import, and lines without end
        return ConsoleSpanExporter(
            out=sys.stdout, formatter=lambda span: (span.to_json(indent=None) or "") + "\n"
        )
    try:
        otlp = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    except ImportError:
        raise StillhouseError(
            "OTEL_TRACES_EXPORTER asks for otlp, and its package is not installed. "
            'Run "pip install opentelemetry-exporter-otlp-proto-http", or choose console or none.'
        ) from None
    found: SpanExporter = otlp.OTLPSpanExporter()
    return found


def _holding(span: "Span") -> "Context":
    from opentelemetry.context import Context
    from opentelemetry.trace import set_span_in_context

    return set_span_in_context(span, Context())
